// Package durable replaces files so that a power cut leaves the old one or the new one.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Replace puts a new file with this content and mode at the path, in the place of the old file if
// there is one, whole or not at all. The new file is synced before it is renamed to the path: after
// a power cut, some file systems show a renamed file as empty. check, if not nil, is called before
// that with the new file's temporary path; if it returns an error, nothing changes.
func Replace(path string, content []byte, mode fs.FileMode, check func(path string) error) error {
	dir := filepath.Dir(path)
	temporary, err := os.CreateTemp(dir, ".terok-gate-")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name())
	_, err = temporary.Write(content)
	if err := errors.Join(err, temporary.Chmod(mode), temporary.Sync(), temporary.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}

	if check != nil {
		if err := check(temporary.Name()); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	if err := os.Rename(temporary.Name(), path); err != nil {
		return err
	}

	directory, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}
