// Reading a token file that is in our own form, fast: the only form that is quick to
// read is the one that we write, and so do the Python programs unless names have
// letters beyond ASCII.
//
// It is no JSON parser. It knows one way to write an object: indented by two spaces,
// strings without escapes in ASCII, whole numbers, no array, no empty object, no key
// that matters twice or in another type. It takes nothing else, and what it takes it
// reads as encoding/json does (FuzzOwnForm).

package store

import (
	"encoding/binary"
	"math/bits"
)

// scanOwn reads content that is in our own form as a whole, and else says no.
func scanOwn(content []byte, visit func(*item)) (members []member, ok bool) {
	s := ownScanner{text: content}
	if s.literal("{}\n") {
		return nil, s.at == len(content)
	}
	if !s.literal("{") {
		return nil, false
	}
	members = make([]member, 0, len(content)/400+8) // a container's entry has 450 to 500 bytes
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
	return members, s.literal("\n}") && (s.literal("\n") || true) && s.at == len(content)
}

// ownItem reads a member of content that scanOwn has taken.
func ownItem(content []byte, m member) item {
	s := ownScanner{text: content, at: m.start}
	s.member()
	return s.item
}

// ownScanner stands at a place in the text. Its methods read on from there, and say no
// if what stands there is not what they read.
type ownScanner struct {
	text []byte
	at   int
	item item    // the member that was read last
	last Process // whose strings are used again: most processes have the same
}

// member reads `"<token>": {...}`.
func (s *ownScanner) member() bool {
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
		key, ok := s.string()
		if !ok || !s.literal(": ") {
			return false
		}
		switch string(key) {
		case "project":
			ok = s.once(&it.project)
		case "scope":
			ok = s.once(&it.scope)
		case "task":
			ok = s.once(&it.task)
		case "container":
			ok = s.once(&it.container)
		case "created":
			ok = s.once(&it.created)
		case "process":
			ok = !it.tied && s.process()
			it.tied = true
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
		return true
	}
}

// process reads the value of the key "process".
func (s *ownScanner) process() bool {
	if !s.literal("{") {
		return false
	}
	p := &s.item.process
	const machine, boot, pidNS, timeNS, pid, start, inode = 1, 2, 4, 8, 16, 32, 64
	seen := 0
	first := func(key int) bool {
		was := seen
		seen |= key
		return was&key == 0
	}
	for {
		if !s.literal("\n      ") {
			return false
		}
		key, ok := s.string()
		if !ok || !s.literal(": ") {
			return false
		}
		switch string(key) {
		case "machine":
			p.Machine, ok = s.sameString(&s.last.Machine)
			ok = ok && first(machine)
		case "boot":
			p.Boot, ok = s.sameString(&s.last.Boot)
			ok = ok && first(boot)
		case "pid_ns":
			p.PIDNS, ok = s.sameString(&s.last.PIDNS)
			ok = ok && first(pidNS)
		case "time_ns":
			p.TimeNS, ok = s.sameString(&s.last.TimeNS)
			ok = ok && first(timeNS)
		case "pid":
			var n uint64
			n, ok = s.number()
			ok = ok && first(pid) && n < 1<<31
			p.PID = int(n)
		case "start":
			p.Start, ok = s.number()
			ok = ok && first(start)
		case "inode":
			p.Inode, ok = s.number()
			ok = ok && first(inode)
		default:
			ok = s.other(6)
		}
		if !ok {
			return false
		}
		if s.literal(",") {
			continue
		}
		return s.literal("\n    }")
	}
}

// other reads a value that we have no use for, in an object indented by so much.
func (s *ownScanner) other(indent int) bool {
	const spaces = "\n                                "
	if !s.literal("{") {
		if s.at < len(s.text) && s.text[s.at] == '"' {
			_, ok := s.string()
			return ok
		}
		_, ok := s.number()
		return ok
	}
	if indent+3 > len(spaces) {
		return false
	}
	for {
		if !s.literal(spaces[:indent+3]) {
			return false
		}
		if _, ok := s.string(); !ok || !s.literal(": ") || !s.other(indent+2) {
			return false
		}
		if !s.literal(",") {
			return s.literal(spaces[:indent+1]) && s.literal("}")
		}
	}
}

func (s *ownScanner) literal(text string) bool {
	end := s.at + len(text)
	if end > len(s.text) || string(s.text[s.at:end]) != text {
		return false
	}
	s.at = end
	return true
}

// once reads the string of a key that may come once.
func (s *ownScanner) once(text *[]byte) (ok bool) {
	if *text != nil {
		return false
	}
	*text, ok = s.string()
	return ok
}

// sameString reads a string that is most likely the same as the last time.
func (s *ownScanner) sameString(last *string) (text string, ok bool) {
	read, ok := s.string()
	if string(read) != *last {
		*last = string(read)
	}
	return *last, ok
}

// string reads a string of ASCII without escapes.
func (s *ownScanner) string() (text []byte, ok bool) {
	if s.at >= len(s.text) || s.text[s.at] != '"' {
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

// plain counts the bytes, from the lowest up, before the first that is a quote, a
// backslash, a control character or not ASCII. Each term has the high bit of such bytes
// set; a borrow can set it wrongly above one of them, never below.
func plain(eight uint64) int {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	quote, backslash := eight^'"'*ones, eight^'\\'*ones
	special := eight | (eight - ' '*ones) | (quote-ones)&^quote | (backslash-ones)&^backslash
	return bits.TrailingZeros64(special&high) / 8
}

// number reads a whole number that fits into 64 bits.
func (s *ownScanner) number() (n uint64, ok bool) {
	start := s.at
	for ; s.at < len(s.text) && '0' <= s.text[s.at] && s.text[s.at] <= '9'; s.at++ {
		over, digit := bits.Mul64(n, 10)
		if n = digit + uint64(s.text[s.at]-'0'); over != 0 || n < digit {
			return 0, false
		}
	}
	digits := s.at - start
	return n, digits == 1 || digits > 1 && s.text[start] != '0'
}
