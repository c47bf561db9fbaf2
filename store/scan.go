// Reading a token file's content where it stands: which entries there are, and where.

package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"strings"
	"time"
	"unicode/utf8"
)

// index says where the members of a token file's object stand in its content.
type index struct {
	content   []byte
	canonical *canonicalScanner // reads the content; nil if that is not in the canonical form
	members   []member
}

// member is one key of the object with its value. A key that is no Unicode, half a
// surrogate pair say, is nobody's token: it is carried over, whatever it holds.
type member struct {
	token             []byte // the key, decoded; nil if it is no Unicode
	start, value, end int    // content[start:end] is the key and its value
}

// item is what a member says: an entry, if it is well formed. Its slices are parts of
// the content or as good as that: whoever keeps one keeps all of it.
type item struct {
	member
	project, scope, task, container, created []byte // nil: not there, or no string
	limited                                  []byte // the value of that key; nil: not there, or not understood
	malformed                                bool   // it says that it is limited, and is not understood
	tied                                     bool
	process                                  Process
	gate                                     []byte // the value of the key, whatever it is
}

// wellFormed reports whether the item is an entry: its project, or else its scope, is a
// string, or else it is limited in a way that we know.
func (it *item) wellFormed() bool {
	return it.token != nil && (it.project != nil || it.scope != nil || it.limited != nil)
}

// entry is the item on its own.
func (it *item) entry() Entry {
	e := Entry{
		Token: Token(it.token), Grant: Grant{Project: string(it.project), Task: string(it.task)},
		Scope: it.scope != nil, Container: string(it.container), Malformed: it.malformed,
	}
	switch {
	case it.project != nil:
	case it.scope != nil:
		e.Project = string(it.scope)
	case it.limited != nil:
		e.Project, e.Limits, _ = parseLimited(it.limited)
	}
	var created time.Time
	if it.created != nil && created.UnmarshalText(it.created) == nil {
		e.Created = created
	}
	if it.tied {
		process := it.process
		e.Process = &process
	}
	if gate, ok := valuesOf(it.gate); ok {
		var attached Attached
		if readInto(&attached.Listen, gate["listen"]) && readInto(&attached.Withheld, gate["withheld"]) {
			if number, known := gate["network"]; known {
				readInto(&attached.Network, number)
			}
			e.Gate = &attached
		}
	}
	return e
}

// scan reads a whole token file's content. For each of its members it calls what begin
// returned, with an item that is good until the next. It reads the canonical form in one
// go (canonical.go), and begins again with encoding/json if anything is not in that form.
func scan(content []byte, begin func() func(*item)) (index, error) {
	s := &canonicalScanner{text: content}
	if members, ok := s.scan(begin()); ok {
		return index{content, s, members}, nil
	}
	members, err := scanPlain(content, begin())
	return index{content, nil, members}, err
}

// item reads one member again. It is good until the next.
func (x index) item(m member) *item {
	if x.canonical != nil {
		return x.canonical.again(m)
	}
	it := plainItem(x.content, m)
	return &it
}

// last returns the members that count: of a key that comes twice the last one, as in
// Python.
func (x index) last() []member {
	// Mostly none comes twice. To see that takes no copy of all keys.
	seed, seen := maphash.MakeSeed(), make(map[uint64]struct{}, len(x.members))
	for _, m := range x.members {
		seen[maphash.Bytes(seed, m.token)] = struct{}{}
	}
	if len(seen) == len(x.members) {
		return x.members
	}
	at := map[string]int{}
	for i, m := range x.members {
		at[string(m.token)] = i
	}
	var last []member
	for i, m := range x.members {
		if m.token == nil || at[string(m.token)] == i {
			last = append(last, m)
		}
	}
	return last
}

// scanPlain reads any JSON object.
func scanPlain(content []byte, visit func(*item)) ([]member, error) {
	if err := json.Unmarshal(content, &struct{}{}); err != nil {
		switch err := err.(type) {
		case *json.SyntaxError:
			return nil, fmt.Errorf("byte %d: %w", err.Offset, err)
		case *json.UnmarshalTypeError:
			return nil, fmt.Errorf("byte %d: a JSON %s", err.Offset, err.Value)
		}
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(content))
	if brace, err := dec.Token(); err != nil || brace == nil {
		return nil, fmt.Errorf("byte 0: a JSON null")
	}
	var members []member
	for dec.More() {
		before := int(dec.InputOffset())
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		end := int(dec.InputOffset())
		m := member{start: before + bytes.IndexByte(content[before:], '"'), value: end - len(value), end: end}
		if name, _ := key.(string); !strings.ContainsRune(name, utf8.RuneError) {
			m.token = []byte(name)
		}
		members = append(members, m)
		it := plainItem(content, m)
		visit(&it)
	}
	return members, nil
}

// plainItem reads a member, whoever wrote it. Keys of the wrong type count as missing:
// a process that does not parse is no process, and never swept.
//
// The fields are taken out by hand because encoding/json matches the keys of a struct
// regardless of case, and the Python programs do not.
func plainItem(content []byte, m member) item {
	it := item{member: m}
	keys, ok := valuesOf(content[m.value:m.end])
	if !ok {
		return it
	}
	for key, text := range map[string]*[]byte{
		"project": &it.project, "scope": &it.scope, "task": &it.task, "container": &it.container, "created": &it.created,
	} {
		var s *string
		if json.Unmarshal(keys[key], &s) == nil && s != nil {
			*text = append([]byte{}, *s...)
		}
	}
	if limited, there := keys["limited"]; there {
		if _, _, ok := parseLimited(limited); ok {
			it.limited = limited
		}
		_, hasProject := keys["project"]
		_, hasScope := keys["scope"]
		it.malformed = it.limited == nil || hasProject || hasScope
	}
	it.gate = keys["gate"]
	if process, ok := valuesOf(keys["process"]); ok {
		p := &it.process
		it.tied = true
		for key, value := range map[string]any{
			"machine": &p.Machine, "boot": &p.Boot, "pid_ns": &p.PIDNS, "time_ns": &p.TimeNS,
			"pid": &p.PID, "start": &p.Start, "inode": &p.Inode,
		} {
			if text, ok := process[key]; ok && json.Unmarshal(text, value) != nil {
				it.tied = false
			}
		}
	}
	return it
}

// valuesOf returns the values of a JSON object by key, if it is one.
func valuesOf(text json.RawMessage) (keys map[string]json.RawMessage, ok bool) {
	return keys, json.Unmarshal(text, &keys) == nil && keys != nil
}
