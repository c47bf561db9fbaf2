// Whether the hooks are registered, and will stay so.

package doctor

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"terok-gate-hook/hook"
	"terok-gate-hook/podman"
)

// definition is a hook definition of ours that podman reads.
type definition struct {
	podman.Registered
	settings hook.Settings // as far as its arguments can be read
	err      error         // why the stage would not accept them
}

func definitionsIn(dirs []string) []definition {
	var all []definition
	for _, r := range podman.DefinitionsIn(dirs) {
		d := definition{Registered: r}
		if len(r.Hook.Args) > 0 {
			d.settings, _, d.err = hook.ParseArgs(r.Hook.Args[1:])
		}
		if d.err == nil {
			d.err = d.settings.Check()
		}
		all = append(all, d)
	}
	return all
}

// registered returns the definition for the stage, nil if there is none.
func (e *examination) registered(stage string) *definition {
	for i, d := range e.definitions {
		if slices.Contains(d.Stages, stage) || stage == "prestart" && slices.Contains(d.Stages, "createRuntime") {
			return &e.definitions[i]
		}
	}
	return nil
}

// hooks asks podman which definitions it reads.
func (e *examination) hooks() {
	const remedy = "terok-gate-hook install"
	dirs, err := podman.HookDirs(e.ctx)
	if err != nil {
		e.broken(err.Error(), "see that podman runs containers at all")
		e.stop()
		return
	}
	e.definitions = definitionsIn(dirs)
	reads := "podman reads " + strings.Join(dirs, " and ")
	if len(e.definitions) == 0 {
		for _, idle := range podman.DefinitionsIn([]string{podman.SystemPlace().Hooks, e.Place.Hooks}) {
			e.broken(fmt.Sprintf("%s is not in force: %s", idle.Path, reads), remedy+", or add its folder to hooks_dir in containers.conf")
			e.stop()
			return
		}
		e.broken("no hook is registered: "+reads, remedy)
		e.stop()
		return
	}
	e.settings = e.definitions[0].settings
	if prestart := e.registered("prestart"); prestart != nil {
		e.settings = prestart.settings
	}
	e.LogFile = cmp.Or(e.LogFile, e.settings.LogFile)
	e.GateURL = cmp.Or(e.GateURL, e.settings.GateURL)
	e.TokenFile = cmp.Or(e.TokenFile, e.settings.Tokens.Path)
	complete := true
	for _, stage := range []string{"prestart", "poststop"} {
		if e.registered(stage) == nil {
			complete = false
			e.broken(fmt.Sprintf("no definition for %s: %s", stage, reads), remedy)
		}
	}
	if e.registered("precreate") == nil {
		complete = false
		e.warn("no definition for precreate: git works only where gate.env was sourced", remedy)
	}
	seen := map[string]string{}
	for _, d := range e.definitions {
		for _, stage := range d.Stages {
			if seen[stage] != "" {
				complete = false
				e.broken(fmt.Sprintf("%s runs twice: %s and %s", stage, seen[stage], d.Path), "remove one of the two")
			}
			seen[stage] = d.Path
		}
	}
	if complete {
		e.ok("registered: " + reads)
	}
	if e.registered("prestart") != nil && e.imagesAnnotate && len(e.settings.AllowProjects) == 0 {
		e.broken("with this podman, whoever builds an image can choose the project", remedy+" --allow-project PATTERN")
	}
}

// definition checks what the definitions run.
func (e *examination) definition() {
	for _, d := range e.definitions {
		e.runs(d)
	}
}

func (e *examination) runs(d definition) {
	const remedy = "terok-gate-hook install"
	runs := fmt.Sprintf("%s runs %s", d.Path, d.Hook.Path)
	info, err := os.Stat(d.Hook.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.broken(runs+", which is not there", remedy)
		return
	case err != nil:
		e.broken(fmt.Sprintf("%s: %v", d.Path, err), remedy)
		return
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		e.broken(runs+", which is no program", remedy)
		return
	}
	for _, path := range []string{d.Path, d.Hook.Path} {
		if who := writers(path); who != "" {
			e.broken(fmt.Sprintf("%s can change %s, which podman runs for you", who, path), "chown and chmod go-w, the folder too")
			return
		}
	}
	if same, err := sameContent(d.Hook.Path, e.Binary); err != nil {
		e.broken(fmt.Sprintf("%s: %v", d.Path, err), remedy)
		return
	} else if !same {
		e.warn(runs+", which is another version than "+e.Binary, remedy)
		return
	}
	if d.err != nil {
		e.broken(fmt.Sprintf("%s, which does not accept its arguments: %v", runs, d.err), remedy)
		return
	}
	if slices.Contains(d.Stages, "precreate") {
		e.ok(runs)
		return
	}
	file := d.settings.Tokens.Path
	switch {
	case file == "" && e.Place.User:
		e.broken(d.Path+" names no token file, and a rootless engine's hook has no default", remedy)
	case file != "" && e.TokenFile != "" && filepath.Clean(file) != filepath.Clean(e.TokenFile):
		e.broken(fmt.Sprintf("%s keeps its tokens in %s, not in %s", d.Path, file, e.TokenFile), remedy)
	case e.Place.User && file != "" && unix.Access(podman.ExistingFolder(file), unix.W_OK) != nil:
		e.broken(fmt.Sprintf("%s is not yours: you cannot write its token file %s", d.Path, file), "as yourself, "+remedy)
	default:
		e.ok(runs)
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
