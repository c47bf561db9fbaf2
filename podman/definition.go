// Hook definitions: what they hold, and which of them are ours.

package podman

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
)

// Definition is a hook definition (oci-hooks(5), version 1.0.0).
type Definition struct {
	Version string `json:"version"`
	Hook    struct {
		Path    string   `json:"path"`
		Args    []string `json:"args"`
		Timeout int      `json:"timeout"`
	} `json:"hook"`
	When struct {
		Annotations map[string]string `json:"annotations"`
	} `json:"when"`
	Stages []string `json:"stages"`
}

// Registered is a hook definition of ours that podman reads.
type Registered struct {
	Path string
	Definition
}

// Flag returns what the definition gives the flag, empty if it does not.
func (r Registered) Flag(name string) string {
	if values := r.Flags(name); len(values) > 0 {
		return values[len(values)-1]
	}
	return ""
}

// Flags returns all that the definition gives the flag, in their order.
func (r Registered) Flags(name string) (values []string) {
	name = strings.TrimPrefix(name, "--")
	for i, arg := range r.Hook.Args {
		given, isFlag := strings.CutPrefix(arg, "-") // one dash does for two (package flag)
		if !isFlag {
			continue
		}
		given = strings.TrimPrefix(given, "-")
		if value, ok := strings.CutPrefix(given, name+"="); ok {
			values = append(values, value)
		} else if given == name && i+1 < len(r.Hook.Args) {
			values = append(values, r.Hook.Args[i+1])
		}
	}
	return values
}

// DefinitionsIn returns our definitions in these folders. As with podman, a later one
// replaces an earlier one of the same name.
func DefinitionsIn(dirs []string) []Registered {
	byName := map[string]Registered{}
	for _, dir := range dirs {
		for _, path := range glob(dir, "*.json") {
			content, err := readSmall(path)
			if err != nil {
				continue // podman says so, and starts no container
			}
			d := Registered{Path: path}
			_ = json.Unmarshal(content, &d.Definition)
			byName[filepath.Base(path)] = d
		}
	}
	var ours []Registered
	for _, d := range byName {
		if filepath.Base(d.Hook.Path) == binary || len(d.Hook.Args) > 0 && filepath.Base(d.Hook.Args[0]) == binary {
			ours = append(ours, d)
		}
	}
	slices.SortFunc(ours, func(a, b Registered) int { return strings.Compare(a.Path, b.Path) })
	return ours
}
