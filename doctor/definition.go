// Checks the programs named in hook definitions and in the file of devices, and the arguments in
// hook definitions.

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

	"terok-gate-hook/engines"
	"terok-gate-hook/hook"
	"terok-gate-hook/internal/owner"
	"terok-gate-hook/internal/printable"
)

// definition checks the programs and arguments in hook definitions.
func (e *examination) definition() {
	faulty := map[string]bool{}
	for _, d := range e.definitions {
		if faulty[d.Hook.Path] {
			continue // one program, one finding
		}
		faulty[d.Hook.Path] = !e.program(d.Path, d.Hook.Path)
	}
	for _, d := range e.definitions {
		if !faulty[d.Hook.Path] {
			e.arguments(d)
		}
	}
}

// program checks the program that a hook definition or the file of devices names, and reports whether the
// program is in order.
func (e *examination) program(file, program string) bool {
	runs := fmt.Sprintf("%s runs %s", file, program)
	info, err := os.Stat(program)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// Podman skips such a definition, and says so only in its debug log.
		e.broken(runs+", which does not exist", e.install())
		e.stop()
		return false
	case err != nil:
		e.broken(fmt.Sprintf("%s: %v", file, err), e.install())
		e.stop()
		return false
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		e.broken(runs+", which is not a program", e.install())
		e.stop()
		return false
	}

	for _, f := range []struct{ path, elsewhere string }{{file, e.install()}, {program, e.programsElsewhere()}} {
		if who, where, remedy := writers(f.path, f.elsewhere); who != "" {
			text := fmt.Sprintf("%s can change %s, and so make engines run anything as you", who, f.path)
			if where != f.path {
				text += ", by way of " + where
			}
			e.broken(text, remedy)
			return false
		}
	}

	same, err := sameContent(program, e.Binary)
	if err != nil {
		e.broken(fmt.Sprintf("%s: %v", file, err), e.install())
		return false
	}
	if !same {
		e.warn(runs+", which is another version than "+e.Binary,
			fmt.Sprintf("%s, to make engines run this version; to examine the other version: %s", e.install(), printable.Shell(program, "doctor")))
		return false
	}

	return true
}

// arguments checks the arguments that a definition gives its stage.
func (e *examination) arguments(d engines.Registered) {
	file := d.Settings.Tokens.Path
	err := cmp.Or(d.Err, d.Settings.Check())
	wrong := (*hook.SettingError)(nil)

	switch {
	case errors.As(err, &wrong) && wrong.Name != "allow-project" && filepath.Dir(d.Path) == filepath.Clean(e.Place.Hooks):
		// If install is run again, it keeps the other settings of this definition.
		e.broken(fmt.Sprintf("%s runs %s with arguments that this program does not accept: %v", d.Path, d.Hook.Path, err),
			e.ourselves("install", "--"+wrong.Name, "")+", which sets the default again, or give another value")
	case err != nil:
		e.broken(fmt.Sprintf("%s runs %s with arguments that this program does not accept: %v", d.Path, d.Hook.Path, err), e.install())
	case slices.Contains(d.Stages, "precreate"): // needs no token file
		e.ok(fmt.Sprintf("%s runs %s", d.Path, d.Hook.Path))
	case file == "" && e.Place.User:
		e.broken(d.Path+" names no token file, and a rootless engine's hook has no default", e.install())
	case file != "" && e.TokenFile != "" && filepath.Clean(file) != filepath.Clean(e.TokenFile):
		e.broken(fmt.Sprintf("%s keeps its tokens in %s, not in %s", d.Path, file, e.TokenFile),
			fmt.Sprintf("%s, if %s is the right one", e.self(e.TokenFile, "install"), e.TokenFile))
	default:
		e.ok(fmt.Sprintf("%s runs %s", d.Path, d.Hook.Path))
	}
}

// writers returns a user, other than root, us and those in trusted, who can change or replace the
// file that a path leads to. The second result is the path of the file, directory or link that this
// user can change. The remedy may be fallback: see [takeOver]. All three results are empty if there
// is no such user.
func writers(path, fallback string, trusted ...int) (who, where, remedy string) {
	way, err := owner.Way(path)
	if err != nil {
		return "", "", ""
	}
	for _, step := range slices.Backward(way) {
		if uid := step.UID(); uid != 0 && uid != os.Geteuid() && !slices.Contains(trusted, uid) {
			return "user " + userName(uid), step.Path, takeOver(step.Path, fallback)
		}
		if step.IsWorldWritable() {
			return "every user", step.Path, asOwner(step.Info, "chmod", "o-w", step.Path)
		}
	}
	return "", "", ""
}

// changeable reports whether any user other than root and us can change or replace the file.
func changeable(path string) bool {
	who, _, _ := writers(path, "")
	return who != ""
}

func sameContent(a, b string) (bool, error) {
	contentA, err := os.ReadFile(a)
	if err != nil {
		return false, err
	}
	contentB, err := os.ReadFile(b)
	return bytes.Equal(contentA, contentB), err
}
