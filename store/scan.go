// Finds and reads the entries in a token file's content, in any form of JSON.

package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"time"
	"unicode/utf8"
)

// index locates the members of a token file's object in its content.
type index struct {
	content   []byte
	canonical *canonicalScanner // reads the content; nil if the content is not in canonical form
	members   []member
}

// member is a key of the object and its value. A key that is not valid Unicode, such as half a
// surrogate pair, cannot be a token: its member is carried over, whatever the value is.
type member struct {
	token             []byte // the key, decoded; nil if it is not valid Unicode
	start, value, end int    // content[start:end] is the key and its value
}

// item is a parsed member. If it is well formed, it is an entry. Its slices may be parts of the
// content, and then the whole content stays in memory with them.
type item struct {
	member
	project, scope, task, container, created []byte // nil: absent, or not a string
	limited                                  []byte // the value of "limited"; nil: absent, or not understood
	malformed                                bool   // the limits are not understood
	tied                                     bool
	process                                  Process
	also, gate                               []byte // the values of these keys, of any type
}

// isEntry reports whether the item is an entry: it has a project or a scope that is a string, or
// limits that are understood.
func (it *item) isEntry() bool {
	return it.token != nil && (it.project != nil || it.scope != nil || it.limited != nil)
}

// entry returns the item as an Entry, which shares no memory with the content.
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
		e.Project, e.Limits, e.Also, _ = parseLimited(it.limited)
	}
	if it.also != nil && it.limited == nil && !it.malformed {
		e.Also, _ = parseAlso(it.also, e.Project)
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
			if services, has := gate["services"]; has && !readInto(&attached.Services, services) {
				attached.Services = nil // a part of it may have been read
			}
			e.Gate = &attached
		}
	}
	return e
}

// scan reads the whole content of a token file. It calls begin, and then calls the returned
// function with an item for each member. An item is valid until the next one. scan first tries to
// read the canonical form (canonical.go). If any part is not in that form, scan starts again with
// encoding/json, and calls begin again.
func scan(content []byte, begin func() func(*item)) (index, error) {
	s := &canonicalScanner{text: content}
	if members, ok := s.scan(begin()); ok {
		return index{content, s, members}, nil
	}
	members, err := scanPlain(content, begin())
	return index{content, nil, members}, err
}

// item reads one member again. The result is valid until the next call.
func (x index) item(m member) *item {
	if x.canonical != nil {
		return x.canonical.again(m)
	}
	it := plainItem(x.content, m)
	return &it
}

// last returns the members that count. If a key occurs twice, only its last member counts, as in
// Python.
func (x index) last() []member {
	// Usually no key occurs twice, and hashes are enough to see that.
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
		return nil, errors.New("byte 0: a JSON null")
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

// plainItem reads a member in any form of JSON. A key whose value has the wrong type counts as
// absent, except "limited". An entry whose process does not parse is therefore tied to no process,
// and never swept.
//
// The fields are read one by one because encoding/json matches the keys of a struct regardless of
// case, and the Python programs do not.
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
		if _, _, _, ok := parseLimited(limited); ok {
			it.limited = limited
		}
		_, hasProject := keys["project"]
		_, hasScope := keys["scope"]
		it.malformed = it.limited == nil || hasProject || hasScope
	}
	it.also, it.gate = keys["also"], keys["gate"]

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

// valuesOf returns the values of a JSON object by key. ok is false if the text is not an
// object.
func valuesOf(text json.RawMessage) (keys map[string]json.RawMessage, ok bool) {
	return keys, json.Unmarshal(text, &keys) == nil && keys != nil
}
