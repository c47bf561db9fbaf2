// Reads a token file in canonical form, the form that this package writes: an object indented by
// two spaces, with strings in ASCII without escapes, whole numbers, true and false. The only arrays
// are the lists of a limit, and no object in an entry is empty. No key that this reader interprets
// occurs twice or has a value of the wrong type. The Python programs write this form, too, if all
// names are in ASCII.
//
// encoding/json is too slow for a container's start: every start and stop reads the whole file
// while it holds the lock. An edit of a file of 1,000 tokens takes 0.5 ms with this reader and 25
// ms with encoding/json; with 10 tokens, it takes 0.01 ms and 0.4 ms (BenchmarkEdit). This reader
// also locates each entry, so that an edit can copy the entries that stay.
//
// This reader is not a JSON parser: it rejects a file that is not in canonical form, which scan.go
// then reads with encoding/json. A file that it accepts has the same content for encoding/json, as
// FuzzCanonicalForm checks. Code for a new key of an entry must be added here and in scan.go.

package store

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// canonicalScanner reads a text from its current position. A method returns false if the text does
// not continue with what the method reads.
type canonicalScanner struct {
	text []byte
	at   int
	item item // the last member read

	// Most processes have the same machine, boot and namespaces. last has these four values of the
	// last process that was read. place is the text of the four, from the opening brace to the
	// comma after the fourth.
	last  Process
	place []byte
}

// scan reads the whole text, and calls visit for each member. It returns false if the text is not
// in canonical form.
func (s *canonicalScanner) scan(visit func(*item)) (members []member, ok bool) {
	if s.literal("{}\n") {
		return nil, s.at == len(s.text)
	}
	if !s.literal("{") {
		return nil, false
	}

	members = make([]member, 0, len(s.text)/400+8) // a container's entry has 450 to 500 bytes
	for {
		if !s.literal("\n  ") || !s.member() {
			return nil, false
		}
		members = append(members, s.item.member)
		visit(&s.item)
		if !s.literal(",") {
			break
		}
	}

	return members, s.literal("\n}") && (s.literal("\n") || true) && s.at == len(s.text)
}

// again reads a member of a text that scan has accepted.
func (s *canonicalScanner) again(m member) *item {
	s.at = m.start
	s.member()
	return &s.item
}

// member reads `"<token>": {...}`.
func (s *canonicalScanner) member() bool {
	it := &s.item
	*it = item{member: member{start: s.at}}
	var ok bool
	if it.token, ok = s.string(); !ok || !s.literal(": {") {
		return false
	}
	it.value = s.at - 1

	for {
		if !s.literal("\n    ") {
			return false
		}

		switch initial := s.peek(1); {
		case initial == 'p' && s.literal(`"project": `):
			ok = s.once(&it.project)
		case initial == 't' && s.literal(`"task": `):
			ok = s.once(&it.task)
		case initial == 's' && s.literal(`"scope": `):
			ok = s.once(&it.scope)
		case initial == 'c' && s.literal(`"container": `):
			ok = s.once(&it.container)
		case initial == 'c' && s.literal(`"created": `):
			ok = s.once(&it.created)
		case initial == 'p' && s.literal(`"process": `):
			ok = !it.tied && s.process()
			it.tied = true
		case initial == 'l' && s.literal(`"limited": `):
			start := s.at
			ok = it.limited == nil && s.limited(nil)
			it.limited = s.text[start:s.at]
		case initial == 'a' && s.literal(`"also": `):
			start := s.at
			ok = it.also == nil && s.value(4)
			it.also = s.text[start:s.at]
		case initial == 'g' && s.literal(`"gate": `):
			start := s.at
			ok = it.gate == nil && s.value(4)
			it.gate = s.text[start:s.at]
		default:
			ok = s.other(4)
		}

		if !ok {
			return false
		}
		if s.literal(",") {
			continue
		}
		if !s.literal("\n  }") {
			return false
		}
		it.end = s.at
		it.malformed = it.limited != nil && (it.project != nil || it.scope != nil)
		return true
	}
}

// process reads the value of the key "process".
func (s *canonicalScanner) process() bool {
	const machine, boot, pidNS, timeNS, pid, start, inode = 1, 2, 4, 8, 16, 32, 64
	p := &s.item.process
	const place = machine | boot | pidNS | timeNS
	begin, seen := s.at, 0
	switch {
	case len(s.place) > 0 && bytes.HasPrefix(s.text[s.at:], s.place):
		s.at += len(s.place)
		*p, seen = s.last, place
	case !s.literal("{"):
		return false
	}

	for {
		if seen == place {
			s.place, s.last = s.text[begin:s.at], Process{Machine: p.Machine, Boot: p.Boot, PIDNS: p.PIDNS, TimeNS: p.TimeNS}
		}
		if !s.literal("\n      ") {
			return false
		}

		key, ok := 0, false
		switch initial := s.peek(1); {
		case initial == 'm' && s.literal(`"machine": `):
			key = machine
			p.Machine, ok = s.sameString(s.last.Machine)
		case initial == 'b' && s.literal(`"boot": `):
			key = boot
			p.Boot, ok = s.sameString(s.last.Boot)
		case initial == 'p' && s.literal(`"pid_ns": `):
			key = pidNS
			p.PIDNS, ok = s.sameString(s.last.PIDNS)
		case initial == 't' && s.literal(`"time_ns": `):
			key = timeNS
			p.TimeNS, ok = s.sameString(s.last.TimeNS)
		case initial == 'p' && s.literal(`"pid": `):
			key = pid
			var n uint64
			n, ok = s.number()
			p.PID, ok = int(n), ok && n < 1<<31
		case initial == 's' && s.literal(`"start": `):
			key = start
			p.Start, ok = s.number()
		case initial == 'i' && s.literal(`"inode": `):
			key = inode
			p.Inode, ok = s.number()
		default:
			ok = s.other(6)
		}

		if !ok || seen&key != 0 {
			return false
		}
		seen |= key
		if !s.literal(",") {
			return s.literal("\n    }")
		}
	}
}

// limited reads the value of the key "limited". It stores the value in parsed, unless parsed is
// nil.
func (s *canonicalScanner) limited(parsed *limitedJSON) bool {
	if !s.literal("{\n      \"project\": ") {
		return false
	}
	project, ok := s.string()
	if !ok || !s.literal(",\n      \"access\": ") {
		return false
	}
	access, ok := s.string()
	if !ok || string(access) != AccessRead && string(access) != AccessAppend && string(access) != AccessWrite {
		return false
	}

	if parsed != nil {
		parsed.Project, parsed.Access = string(project), string(access)
	}
	if s.literal(",\n      \"push\": ") && !s.push(parsed) {
		return false
	}
	if s.literal(",\n      \"also\": ") && !s.also(project, parsed) {
		return false
	}
	return s.literal("\n    }")
}

// push reads the lists of patterns of a limit.
func (s *canonicalScanner) push(parsed *limitedJSON) bool {
	const indent = "\n      "
	return s.list(indent, func() bool {
		if parsed != nil {
			parsed.Push = append(parsed.Push, nil)
		}
		return s.list(indent+"  ", func() bool {
			pattern, ok := s.string()
			if parsed != nil {
				last := &parsed.Push[len(parsed.Push)-1]
				*last = append(*last, string(pattern))
			}
			return ok
		})
	})
}

// also reads the other projects of a limited entry of ownProject. The other projects must be in
// order, so that none occurs twice.
func (s *canonicalScanner) also(ownProject []byte, parsed *limitedJSON) bool {
	if !s.literal("{") {
		return false
	}
	if parsed != nil {
		parsed.Also = Also{}
	}

	var last []byte
	for number := 1; ; number++ {
		if !s.literal("\n        ") {
			return false
		}

		project, ok := s.string()
		if !ok || !isName(project) || bytes.Compare(project, last) <= 0 || bytes.Equal(project, ownProject) || !s.literal(": ") {
			return false
		}
		last = project

		access, ok := s.string()
		if !ok || string(access) != AccessRead && string(access) != AccessWrite || number > MostAlso {
			return false
		}
		if parsed != nil {
			parsed.Also[string(project)] = string(access)
		}
		if !s.literal(",") {
			return s.literal("\n      }")
		}
	}
}

// list reads an array that is not empty, with each element on a line of its own. indent is the line
// break and the spaces before the closing bracket.
func (s *canonicalScanner) list(indent string, element func() bool) bool {
	if !s.literal("[") {
		return false
	}
	for {
		if !s.literal(indent) || !s.literal("  ") || !element() {
			return false
		}
		if !s.literal(",") {
			return s.literal(indent) && s.literal("]")
		}
	}
}

// other reads a key that this reader does not interpret, and its value. indent is the number of
// spaces before the key.
func (s *canonicalScanner) other(indent int) bool {
	_, ok := s.string()
	return ok && s.literal(": ") && s.value(indent)
}

// value reads a value that this reader does not interpret: a string, whole number, object, true or
// false. indent is the number of spaces before the key of the value.
func (s *canonicalScanner) value(indent int) bool {
	switch s.peek(0) {
	case '"':
		_, ok := s.string()
		return ok
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	}

	if !s.literal("{") {
		_, ok := s.number()
		return ok
	}

	const deepest = "\n                                "
	if indent += 2; indent >= len(deepest) {
		return false
	}

	for {
		if !s.literal(deepest[:indent+1]) || !s.other(indent) {
			return false
		}
		if !s.literal(",") {
			return s.literal(deepest[:indent-1]) && s.literal("}")
		}
	}
}

// peek returns the byte at this distance from the current position, or 0 beyond the end of the
// text.
func (s *canonicalScanner) peek(ahead int) byte {
	if s.at+ahead >= len(s.text) {
		return 0
	}
	return s.text[s.at+ahead]
}

// literal reads this text.
func (s *canonicalScanner) literal(text string) bool {
	end := s.at + len(text)
	if end > len(s.text) || string(s.text[s.at:end]) != text {
		return false
	}
	s.at = end
	return true
}

// once reads the value of a key, which must be a string. It returns false if the key has occurred
// before.
func (s *canonicalScanner) once(text *[]byte) (ok bool) {
	if *text != nil {
		return false
	}
	*text, ok = s.string()
	return ok
}

// sameString reads a string. If the string equals last, as it usually does, sameString returns last
// itself, to save a copy.
func (s *canonicalScanner) sameString(last string) (text string, ok bool) {
	read, ok := s.string()
	if string(read) == last {
		return last, ok
	}
	return string(read), ok
}

// string reads a string of ASCII without escapes.
func (s *canonicalScanner) string() (text []byte, ok bool) {
	if s.peek(0) != '"' {
		return nil, false
	}

	start := s.at + 1
	rest := s.text[start:]
	for len(rest) >= 8 {
		if n := plain(binary.LittleEndian.Uint64(rest)); n < 8 {
			rest = rest[n:]
			break
		}
		rest = rest[8:]
	}
	for len(rest) > 0 && rest[0] >= ' ' && rest[0] < 0x80 && rest[0] != '"' && rest[0] != '\\' {
		rest = rest[1:] // the text's last few bytes
	}
	if len(rest) == 0 || rest[0] != '"' {
		return nil, false
	}

	end := len(s.text) - len(rest)
	s.at = end + 1
	return s.text[start:end], true
}

// plain counts the bytes before the first special byte: a quote, a backslash, a control character
// or a byte that is not ASCII. The first byte of the text is the lowest one of the number. Each of
// the four terms has the high bit set in special bytes of one kind. A subtraction that borrows at a
// special byte can also set the high bit of a higher byte, but never of a lower one.
func plain(eight uint64) int {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	quote, backslash := eight^'"'*ones, eight^'\\'*ones
	special := eight | (eight - ' '*ones) | (quote-ones)&^quote | (backslash-ones)&^backslash
	return bits.TrailingZeros64(special&high) / 8
}

// number reads a whole number of up to 19 digits, which fits into 64 bits.
func (s *canonicalScanner) number() (n uint64, ok bool) {
	start := s.at
	for ; s.at < len(s.text) && '0' <= s.text[s.at] && s.text[s.at] <= '9'; s.at++ {
		n = n*10 + uint64(s.text[s.at]-'0')
	}
	digits := s.at - start
	return n, digits == 1 || 1 < digits && digits < 20 && s.text[start] != '0'
}
