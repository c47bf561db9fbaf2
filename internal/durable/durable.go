// Package durable replaces files so that after a power cut there is either the old file or the new
// one.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Replace writes the content to a temporary file, syncs the file, and renames it to the path, where
// it replaces any old file. Without the sync, some file systems would show the renamed file as
// empty after a power cut. check, if not nil, is called before the rename with the temporary file's
// path; if it returns an error, nothing changes.
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
