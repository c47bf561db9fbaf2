// Removes and renames the desks of projects that are removed or renamed.

package desk

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

func pathOf(directory, project string) string { return filepath.Join(directory, project+".git") }

// asideOf returns the path to which SetAside moves a desk.
func asideOf(directory, project string) string {
	return filepath.Join(directory, "."+project+".git.removed")
}

// Remove removes a project's desk.
func Remove(directory, project string) error {
	return errors.Join(os.RemoveAll(pathOf(directory, project)), os.RemoveAll(asideOf(directory, project)))
}

// SetAside takes a project's desk away, until undo brings the desk back or [Remove] removes it. SetAside
// waits until no other process works in the desk.
func SetAside(ctx context.Context, directory, project string) (undo func() error, err error) {
	return renameDesk(ctx, directory, project, pathOf(directory, project), asideOf(directory, project))
}

// Rename renames a project's desk, replacing a desk that already has the new name. If no desk has the old
// name, a desk with the new name stays. In both cases, Rename records in the desk the new path of the gate's
// repository. Rename waits until no other process works in the old desk.
func Rename(ctx context.Context, directory, old, new, repository string) (undo func() error, err error) {
	undo, err = renameDesk(ctx, directory, old, pathOf(directory, old), pathOf(directory, new))
	if err != nil || !isThere(pathOf(directory, new)) {
		return undo, err
	}

	d := &Desk{Settings: Settings{Directory: directory, Project: new}, path: pathOf(directory, new)}
	was, err := output(d.local(ctx, "config", "--get", gateKey))
	if err == nil {
		err = finish(d.local(ctx, "config", gateKey, repository))
	}
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	return func() error { return errors.Join(finish(d.local(ctx, "config", gateKey, was)), undo()) }, nil
}

// renameDesk renames a project's desk, if there is one, from one path to another, under the desk's lock.
func renameDesk(ctx context.Context, directory, project, from, to string) (undo func() error, err error) {
	nothing := func() error { return nil }
	if !isThere(from) {
		return nothing, nil
	}
	unlock, err := (&Desk{Settings: Settings{Directory: directory, Project: project}}).lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()

	if err := os.RemoveAll(to); err != nil {
		return nil, err
	}
	if err := os.Rename(from, to); err != nil {
		return nil, err
	}
	return func() error { return os.Rename(to, from) }, nil
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
