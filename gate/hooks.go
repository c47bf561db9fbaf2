// Makes the directory of git's hooks, which are links to this program.

package gate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// gitHooks are the hooks of git's that are links to the gate's program.
var gitHooks = []string{"pre-receive", "reference-transaction"}

// hookProgram returns the path of the program that the links lead to. Tests change it.
var hookProgram = os.Executable

// hooks is the path of the directory of git's hooks.
type hooks string

// make makes the directory and the links. A link that exists is replaced in one step, so that git
// always finds one.
func (h hooks) make() error {
	program, err := hookProgram()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(string(h), 0o700); err != nil {
		return err
	}

	for _, hook := range gitHooks {
		link := filepath.Join(string(h), hook)
		if err := os.Remove(link + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Symlink(program, link+".new"); err != nil {
			return err
		}
		if err := os.Rename(link+".new", link); err != nil {
			return err
		}
	}

	// An earlier version of the gate made this link.
	if err := os.Remove(filepath.Join(string(h), "post-receive")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return h.check()
}

// check returns an error if a hook is missing or not executable. Call it before a push, since git
// silently skips such a hook.
func (h hooks) check() error {
	for _, hook := range gitHooks {
		link := filepath.Join(string(h), hook)
		if err := unix.Access(link, unix.X_OK); err != nil {
			return fmt.Errorf("hook %s: %w", link, err)
		}
	}
	return nil
}
