// Whether the hooks are registered, and will stay so.

package doctor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"terok-gate-hook/podman"

	"golang.org/x/sys/unix"
)

// flag returns what the prestart definition gives the flag, or else another one.
func (e *examination) flag(name string) string {
	if d := e.registered("prestart"); d != nil && d.Flag(name) != "" {
		return d.Flag(name)
	}
	for _, d := range e.definitions {
		if value := d.Flag(name); value != "" {
			return value
		}
	}
	return ""
}

// registered returns the definition for the stage, nil if there is none.
func (e *examination) registered(stage string) *podman.Registered {
	for i, d := range e.definitions {
		if slices.Contains(d.Stages, stage) || stage == "prestart" && slices.Contains(d.Stages, "createRuntime") {
			return &e.definitions[i]
		}
	}
	return nil
}

// hooks asks podman which definitions it reads.
func (e *examination) hooks() {
	const check, remedy = "hooks", "terok-gate-hook install"
	dirs, err := podman.HookDirs(e.ctx)
	if err != nil {
		e.broken(check, err.Error(), "see that podman runs containers at all")
		return
	}
	e.definitions = podman.DefinitionsIn(dirs)
	reads := "podman reads " + strings.Join(dirs, " and ")
	if len(e.definitions) == 0 {
		for _, idle := range podman.DefinitionsIn([]string{podman.SystemPlace().Hooks, e.Place.Hooks}) {
			e.broken(check, fmt.Sprintf("%s is not in force: %s", idle.Path, reads), remedy+", or add its folder to hooks_dir in containers.conf")
			return
		}
		e.broken(check, "no hook is registered: "+reads, remedy)
		return
	}
	complete := true
	for _, stage := range []string{"prestart", "poststop"} {
		if e.registered(stage) == nil {
			complete = false
			e.broken(check, fmt.Sprintf("no definition for %s: %s", stage, reads), remedy)
		}
	}
	if e.registered("precreate") == nil {
		complete = false
		e.warn(check, "no definition for precreate: git works only where gate.env was sourced", remedy)
	}
	seen := map[string]string{}
	for _, d := range e.definitions {
		for _, stage := range d.Stages {
			if seen[stage] != "" {
				complete = false
				e.broken(check, fmt.Sprintf("%s runs twice: %s and %s", stage, seen[stage], d.Path), "remove one of the two")
			}
			seen[stage] = d.Path
		}
	}
	if complete {
		e.ok(check, "registered: "+reads)
	}
	for _, d := range e.definitions {
		e.definition(d)
	}
	if d := e.registered("prestart"); d != nil && e.imagesAnnotate && len(d.Flags("--allow-project")) == 0 {
		e.broken(check, "with this podman, whoever builds an image can choose the project", remedy+" --allow-project PATTERN")
	}
}

// definition checks what one definition runs.
func (e *examination) definition(d podman.Registered) {
	const check, remedy = "definition", "terok-gate-hook install"
	runs := fmt.Sprintf("%s runs %s", d.Path, d.Hook.Path)
	info, err := os.Stat(d.Hook.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.broken(check, runs+", which is not there", remedy)
		return
	case err != nil:
		e.broken(check, fmt.Sprintf("%s: %v", d.Path, err), remedy)
		return
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		e.broken(check, runs+", which is no program", remedy)
		return
	}
	for _, path := range []string{d.Path, d.Hook.Path} {
		if who := writers(path); who != "" {
			e.broken(check, fmt.Sprintf("%s can change %s, which podman runs for you", who, path), "chown and chmod go-w, the folder too")
			return
		}
	}
	if same, err := sameContent(d.Hook.Path, e.Binary); err != nil {
		e.broken(check, fmt.Sprintf("%s: %v", d.Path, err), remedy)
		return
	} else if !same {
		e.warn(check, runs+", which is another version than "+e.Binary, remedy)
		return
	}
	if slices.Contains(d.Stages, "precreate") {
		e.ok(check, runs)
		return
	}
	file := d.Flag("--token-file")
	switch {
	case file == "" && e.Place.User:
		e.broken(check, d.Path+" names no token file, and a rootless engine's hook has no default", remedy)
	case file != "" && e.TokenFile != "" && filepath.Clean(file) != filepath.Clean(e.TokenFile):
		e.broken(check, fmt.Sprintf("%s keeps its tokens in %s, not in %s", d.Path, file, e.TokenFile), remedy)
	case e.Place.User && file != "" && unix.Access(podman.ExistingFolder(file), unix.W_OK) != nil:
		e.broken(check, fmt.Sprintf("%s is not yours: you cannot write its token file %s", d.Path, file), "as yourself, "+remedy)
	default:
		e.ok(check, runs)
	}
}

// writers says who beside root and us can change the file or put another in its place;
// empty for nobody.
func writers(path string) string {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	for ; ; path = filepath.Dir(path) {
		info, err := os.Stat(path)
		if err != nil {
			return ""
		}
		if owner := int(info.Sys().(*syscall.Stat_t).Uid); owner != 0 && owner != os.Geteuid() {
			return "user " + userName(owner)
		}
		if isEverybodys(info) {
			return "everybody"
		}
		if path == "/" {
			return ""
		}
	}
}

// isEverybodys tells whether every user can change the file, or what is in the folder.
func isEverybodys(info fs.FileInfo) bool {
	return info.Mode()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0
}

func sameContent(a, b string) (bool, error) {
	contentA, err := os.ReadFile(a)
	if err != nil {
		return false, err
	}
	contentB, err := os.ReadFile(b)
	return bytes.Equal(contentA, contentB), err
}

// containers looks for those that were made with --hooks-dir on podman's command
// line, which podman forgets at a restart.
func (e *examination) containers() {
	const check = "containers"
	ids, err := e.command("podman", "ps", "--all", "--quiet", "--no-trunc")
	if err != nil {
		e.broken(check, "podman ps: "+err.Error(), "mend podman first")
		return
	}
	if strings.TrimSpace(ids) == "" {
		return
	}
	// One that went away in between is an error, and no less of an answer for the rest.
	out, err := e.command("podman", append([]string{"container", "inspect"}, strings.Fields(ids)...)...)
	var all []struct {
		Name   string
		Config struct {
			Annotations   map[string]string
			CreateCommand []string
		}
	}
	if jsonErr := json.Unmarshal([]byte(out), &all); jsonErr != nil {
		e.broken(check, fmt.Sprintf("podman container inspect: %v", errors.Join(err, jsonErr)), "mend podman first")
		return
	}
	for _, c := range all {
		var made podman.Registered
		// Podman's own flags; what comes later may be the container's.
		made.Hook.Args = c.Config.CreateCommand
		if i := slices.IndexFunc(made.Hook.Args, func(arg string) bool { return arg == "run" || arg == "create" || arg == "container" }); i >= 0 {
			made.Hook.Args = made.Hook.Args[:i]
		}
		dirs := made.Flags("--hooks-dir")
		if len(dirs) > 0 && e.registered("prestart") == nil && len(podman.DefinitionsIn(dirs)) > 0 {
			e.broken(check, fmt.Sprintf("container %s was made with --hooks-dir %s, which podman forgets when it starts it again", c.Name, strings.Join(dirs, " ")),
				"terok-gate-hook install, or hooks_dir in containers.conf")
		}
	}
}
