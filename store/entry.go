// How an entry of the token file reads and is written.

package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Entry is one token of the token file with what is known of it.
type Entry struct {
	Token Token
	Grant
	Scope     bool      // later versions of the gate accept the token; always so if there is a container
	Container string    // the full container id; empty if the token belongs to none
	Created   time.Time // zero if the token belongs to no container, or another program wrote it; set by Issue
	Process   *Process  // the process that the token lives and dies with, or nil
}

// Orphan tells whether the token has outlived its process, by proof.
func (e Entry) Orphan() bool { return e.Process.Life() == Dead }

// entryJSON is what we write. Scope repeats the project: later versions of the gate
// keep only entries that have it, the original ones read project. The original writes
// project and task alone, and so do we where nothing else is needed.
type entryJSON struct {
	Project   string     `json:"project"`
	Task      string     `json:"task"`
	Scope     string     `json:"scope,omitempty"`
	Container string     `json:"container,omitempty"`
	Created   *time.Time `json:"created,omitempty"`
	Process   *Process   `json:"process,omitempty"`
}

func (e Entry) marshal() (json.RawMessage, error) {
	value := entryJSON{Project: e.Project, Task: e.Task, Container: e.Container, Process: e.Process}
	tied := e.Container != "" || e.Process != nil
	if tied || e.Scope {
		value.Scope = e.Project
	}
	if tied {
		created := e.Created
		if created.IsZero() {
			created = time.Now()
		}
		created = created.UTC().Truncate(time.Millisecond)
		value.Created = &created
	}
	return json.MarshalIndent(value, "  ", "  ")
}

// parseEntry reads an entry, whoever wrote it. It is well formed if it is an
// object whose project, or else scope, is a string. Keys of the wrong type count
// as missing: a process that does not parse is no process, and never swept.
//
// The fields are taken out by hand because encoding/json matches the keys of a
// struct regardless of case, and the Python programs do not.
func parseEntry(token string, value json.RawMessage) (Entry, bool) {
	var keys map[string]json.RawMessage
	if json.Unmarshal(value, &keys) != nil {
		return Entry{}, false
	}
	e := Entry{Token: Token(token)}
	var scope string
	e.Scope = field(keys, "scope", &scope)
	if !field(keys, "project", &e.Project) {
		if !e.Scope {
			return Entry{}, false
		}
		e.Project = scope
	}
	field(keys, "task", &e.Task)
	field(keys, "container", &e.Container)
	field(keys, "created", &e.Created)
	var process Process
	if field(keys, "process", &process) {
		e.Process = &process
	}
	return e, true
}

// field reports whether the key is there, not null, and fits into value; value is
// unchanged otherwise.
func field[T any](keys map[string]json.RawMessage, key string, value *T) bool {
	raw, ok := keys[key]
	var v T
	if !ok || string(raw) == "null" || json.Unmarshal(raw, &v) != nil {
		return false
	}
	*value = v
	return true
}

// wellFormed returns the entries that are well formed, in no order.
func wellFormed(raw map[string]json.RawMessage) []Entry {
	var entries []Entry
	for token, value := range raw {
		if e, ok := parseEntry(token, value); ok {
			entries = append(entries, e)
		}
	}
	return entries
}

// parse reads a token file's content. encoding/json is the judge of what is JSON;
// of a key that comes twice the last one counts, as in Python.
func parse(content []byte) (map[string]json.RawMessage, error) {
	var entries map[string]json.RawMessage
	if err := json.Unmarshal(content, &entries); err != nil {
		switch err := err.(type) {
		case *json.SyntaxError:
			return nil, fmt.Errorf("byte %d: %w", err.Offset, err)
		case *json.UnmarshalTypeError:
			return nil, fmt.Errorf("byte %d: a JSON %s", err.Offset, err.Value)
		}
		return nil, err
	}
	if entries == nil {
		return nil, fmt.Errorf("byte 0: a JSON null")
	}
	for key := range entries {
		if strings.ContainsRune(key, utf8.RuneError) {
			return parseRawKeys(content)
		}
	}
	return entries, nil
}

// rawKey begins a key that is no Unicode, and that stands in the map as its place
// among such keys and its JSON text: half a surrogate pair, say, which Python writes as
// an escape. Decoded, it would be U+FFFD, and two such keys one, of which a reader
// takes the last: they keep their order. No decoded key holds this byte.
const rawKey = "\xff"

// rawKeyAt is a key's JSON text as it stands in the map.
func rawKeyAt(place int, text string) string { return fmt.Sprintf("%s%016d%s", rawKey, place, text) }

// rawKeyText is the opposite of rawKeyAt.
func rawKeyText(key string) (text string, raw bool) {
	if !strings.HasPrefix(key, rawKey) {
		return "", false
	}
	return key[len(rawKeyAt(0, "")):], true
}

// parseRawKeys is parse for an object, keys that are no Unicode in their JSON text.
func parseRawKeys(content []byte) (map[string]json.RawMessage, error) {
	entries := map[string]json.RawMessage{}
	raw, place := map[string]string{}, 0 // a key's JSON text to what stands in entries
	dec := json.NewDecoder(bytes.NewReader(content))
	if _, err := dec.Token(); err != nil { // the brace
		return nil, err
	}
	for dec.More() {
		before := dec.InputOffset()
		token, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key, _ := token.(string)
		if strings.ContainsRune(key, utf8.RuneError) {
			text := content[before:dec.InputOffset()]
			name := string(text[bytes.IndexByte(text, '"'):])
			if earlier, twice := raw[name]; twice {
				delete(entries, earlier)
			}
			place++
			key = rawKeyAt(place, name)
			raw[name] = key
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		entries[key] = value
	}
	return entries, nil
}

// format is the opposite of parse: two spaces, a newline at the end, keys sorted, each
// value as it stands. Indented anew, one that nests deep enough would grow beyond
// all measure.
func format(entries map[string]json.RawMessage) ([]byte, error) {
	if len(entries) == 0 {
		return []byte("{}\n"), nil
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	next := "{\n  "
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		out.WriteString(next)
		next = ",\n  "
		if text, raw := rawKeyText(key); raw {
			out.WriteString(text)
		} else if err := enc.Encode(key); err != nil {
			return nil, err
		} else {
			out.Truncate(out.Len() - 1) // Encode ends in a newline
		}
		out.WriteString(": ")
		out.Write(entries[key])
	}
	out.WriteString("\n}\n")
	return out.Bytes(), nil
}
