// Reads existing hook definitions, and distinguishes ours from others. (registration.go
// makes new ones.)

package engines

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/owner"
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

// calledName returns the name by which the program is called, its first argument, or "" if there is
// none. It leaves out the hint in parentheses that our definitions add to the name for readers of
// podman's errors.
func (d Definition) calledName() string {
	if len(d.Hook.Args) == 0 {
		return ""
	}
	name, _, _ := strings.Cut(d.Hook.Args[0], " (")
	return name
}

// Registered is a hook definition of ours that exists.
type Registered struct {
	Path string
	Definition
	Settings hook.Settings // of the stage, as far as its arguments were understood
	Err      error         // why an argument was not understood; nil if all were
}

// runsAt reports whether the definition is for the stage. One for createRuntime is for prestart, too.
func (r Registered) runsAt(stage string) bool {
	return slices.Contains(r.Stages, stage) || stage == "prestart" && slices.Contains(r.Stages, "createRuntime")
}

// DefinitionsIn returns our definitions in these directories. As podman does, it takes only the
// last of several definitions with the same name.
func DefinitionsIn(dirs []string) []Registered {
	byName := map[string]string{}
	for _, dir := range dirs {
		for _, path := range glob(dir, "*.json") {
			byName[filepath.Base(path)] = path
		}
	}
	return ours(slices.Sorted(maps.Values(byName)))
}

// ours returns the definitions that run our program, even if another program wrote them. It
// leaves out definitions that cannot be read: podman reports them, and starts no container.
func ours(paths []string) (ours []Registered) {
	for _, path := range paths {
		content, err := ReadSmall(path)
		if err != nil {
			continue
		}
		d := Registered{Path: path}
		_ = json.Unmarshal(content, &d.Definition)
		args := d.Hook.Args
		if filepath.Base(d.Hook.Path) != binary && filepath.Base(d.calledName()) != binary {
			continue
		}
		d.Settings, _, d.Err = hook.ParseArgs(args[min(1, len(args)):])
		ours = append(ours, d)
	}
	return ours
}

// isOwn reports whether the file belongs to this user or root, and is not world-writable.
func isOwn(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	uid := owner.UID(info)
	return (uid == 0 || uid == os.Geteuid()) && info.Mode()&0o002 == 0
}
