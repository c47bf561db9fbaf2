// Changes what the token of a running container allows.

package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Rights are what a token allows in its own project, in other projects and with services of the
// host.
type Rights struct {
	Project  string // the token's own; it must not be changed
	Limits   Limits
	Also     Also
	Services map[string]string // as in [Attached]; they can only be taken away
}

// ChangeRights changes the rights of a container's tokens, in one transaction, and returns the
// changed entries. Everything else in an entry is carried over, including keys that this package
// does not know. If edit returns an error, or makes rights that must not be issued, ChangeRights
// returns an error and changes nothing.
func (f File) ChangeRights(container string, edit func(*Rights) error) (changed []Entry, err error) {
	err = f.underLock(func(dir directory, name string) error {
		file, err := dir.read(name)
		if err != nil {
			return fmt.Errorf("token file %s: %w", f.Path, err)
		}
		x, err := scan(file.content, func() func(*item) { return func(*item) {} })
		if err != nil {
			return fmt.Errorf("token file %s: %w: %w", f.Path, ErrCorrupt, err)
		}

		texts, entries, err := x.changeRights(container, edit)
		if err != nil || len(texts) == 0 {
			return err
		}
		if err := dir.replace(name, file, x.with(texts), true, false); err != nil {
			return fmt.Errorf("replace token file %s: %w", f.Path, err)
		}
		changed = entries
		return nil
	})
	return changed, err
}

// changeRights changes the rights of the container's entries. It returns the changed entries, and
// the new texts of their members. The key of a text is the offset in the content at which the old
// text begins.
func (x index) changeRights(container string, edit func(*Rights) error) (texts map[int][]byte, changed []Entry, err error) {
	texts = map[int][]byte{}
	for _, m := range x.last() {
		it := x.item(m)
		if !it.isEntry() || container == "" || string(it.container) != container {
			continue
		}
		e := it.entry()
		if e.Malformed {
			return nil, nil, errors.New("the token's limits are not understood, and cannot be changed")
		}

		rights := Rights{Project: e.Project, Limits: e.Limits, Also: Also{}}
		for project, access := range e.Also {
			rights.Also[project] = access
		}
		rights.Limits.Push = slices.Clone(e.Limits.Push)
		if e.Gate != nil {
			rights.Services = maps.Clone(e.Gate.Services)
		}
		if err := edit(&rights); err != nil {
			return nil, nil, err
		}
		if err := rights.checkServices(e); err != nil {
			return nil, nil, err
		}
		if err := errors.Join(rights.Limits.Check(), rights.Also.Check(e.Project)); err != nil {
			return nil, nil, err
		}

		value, err := rights.in(x.content[m.value:m.end], e)
		if err != nil {
			return nil, nil, err
		}
		texts[m.start] = append(slices.Clone(x.content[m.start:m.value]), value...)
		e.Limits, e.Also = rights.Limits, rights.Also
		if e.Gate != nil {
			gate := *e.Gate
			gate.Services, e.Gate = rights.Services, &gate
		}
		changed = append(changed, e)
	}
	return texts, changed, nil
}

// checkServices returns an error if the rights have a service that the entry lacks: in the
// container's network, nothing listens for such a service.
func (r Rights) checkServices(e Entry) error {
	for name, listen := range r.Services {
		if e.Gate == nil || e.Gate.Services[name] != listen {
			return fmt.Errorf("service %.64q: a running container cannot be given a service", name)
		}
	}
	return nil
}

// in returns the text of the entry e with these rights in place of the old ones.
func (r Rights) in(text []byte, e Entry) ([]byte, error) {
	names, values, err := inOrder(text)
	if err != nil {
		return nil, err
	}

	set := map[string]any{"limited": nil, "project": r.Project, "scope": nil, "also": nil}
	if e.Scope || e.Container != "" || e.Process != nil {
		set["scope"] = r.Project
	}
	switch {
	case r.Limits.Limited():
		set = map[string]any{"limited": r.Limits.of(r.Project, r.Also), "project": nil, "scope": nil, "also": nil}
	case len(r.Also) > 0:
		set["also"] = r.Also
	}
	for _, name := range []string{"also", "scope", "project", "limited"} {
		if set[name] == nil {
			delete(values, name)
			continue
		}
		if values[name], err = json.Marshal(set[name]); err != nil {
			return nil, err
		}
		if !slices.Contains(names, name) {
			names = slices.Insert(names, 0, name)
		}
	}

	if e.Gate != nil && len(r.Services) < len(e.Gate.Services) {
		if values["gate"], err = withServices(values["gate"], r.Services); err != nil {
			return nil, err
		}
	}

	compact, err := objectOf(names, values)
	if err != nil {
		return nil, err
	}
	var indented bytes.Buffer
	err = json.Indent(&indented, compact, "  ", "  ")
	return indented.Bytes(), err
}

// objectOf returns a JSON object of the names that have a value, in the order of names.
func objectOf(names []string, values map[string]json.RawMessage) ([]byte, error) {
	var text bytes.Buffer
	for _, name := range names {
		value, there := values[name]
		if !there {
			continue
		}
		key, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&text, ",%s:%s", key, value)
	}
	return fmt.Appendf(nil, "{%s}", bytes.TrimPrefix(text.Bytes(), []byte(","))), nil
}

// withServices returns an entry's value of the key "gate", with these services in place of the old
// ones.
func withServices(gate []byte, services map[string]string) ([]byte, error) {
	names, values, err := inOrder(gate)
	if err != nil {
		return nil, err
	}
	delete(values, "services")
	if len(services) > 0 {
		if values["services"], err = json.Marshal(services); err != nil {
			return nil, err
		}
	}
	return objectOf(names, values)
}

// inOrder returns the keys of a JSON object, each once and in the order of the text, and the values
// by key.
func inOrder(text []byte) (names []string, values map[string]json.RawMessage, err error) {
	if err := json.Unmarshal(text, &values); err != nil {
		return nil, nil, err
	}
	in := json.NewDecoder(bytes.NewReader(text))
	if _, err := in.Token(); err != nil {
		return nil, nil, err
	}
	for in.More() {
		name, err := in.Token()
		if err != nil {
			return nil, nil, err
		}
		var value json.RawMessage
		if err := in.Decode(&value); err != nil {
			return nil, nil, err
		}
		if name := name.(string); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, values, nil
}

// with returns the content with new texts in place of members. The key of a text is the offset at
// which its member begins.
func (x index) with(texts map[int][]byte) (pieces [][]byte) {
	from := 0
	for _, m := range x.members {
		if text, ok := texts[m.start]; ok {
			pieces = append(pieces, x.content[from:m.start], text)
			from = m.end
		}
	}
	return append(pieces, x.content[from:])
}
