// Repairs what killed or faulty programs left: temporary files and corrupt token files.

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Leftover returns the path of the temporary file that a killed writer left, or "" if there is
// none. The file holds tokens. Leftover removes the file if remove is set; otherwise the next
// writer does.
func (f File) Leftover(remove bool) (path string, err error) {
	path = filepath.Join(filepath.Dir(f.Path), temporaryName(filepath.Base(f.Path)))
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}

	err = f.underLock(func(dir directory, name string) error {
		// We hold the lock, so if the file still exists, no process is writing it.
		_, err := dir.stat(temporaryName(name))
		if err == nil && remove {
			err = dir.remove(temporaryName(name))
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return path, err
}

// SetAside renames a token file that is not a JSON object, and returns its new path in the same
// directory. As before the call, no token is valid until new ones are issued. If the file is a JSON
// object, SetAside returns an error and leaves the file in place.
func (f File) SetAside() (path string, err error) {
	path = f.Path + ".corrupt-" + time.Now().UTC().Format("20060102T150405.000Z")
	err = f.underLock(func(dir directory, name string) error {
		err := f.each(dir, name, func(Entry) {})
		if err == nil {
			return fmt.Errorf("token file %s: is a JSON object, so it stays", f.Path)
		}
		if !errors.Is(err, ErrCorrupt) {
			return err
		}
		return dir.rename(name, filepath.Base(path))
	})
	if err != nil {
		return "", err
	}
	return path, nil
}
