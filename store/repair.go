// Mending what programs that were killed, or wrote nonsense, have left.

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Leftover returns the path of the temporary file that a killed writer left, empty if
// there is none. It holds tokens. The next writer removes it; if remove is set, this
// call does.
func (f File) Leftover(remove bool) (path string, err error) {
	path = filepath.Join(filepath.Dir(f.Path), temporaryName(filepath.Base(f.Path)))
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	err = f.underLock(func(dir directory, name string) error {
		// No writer is at work now: if it is still there, nobody will come for it.
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

// SetAside gives a token file that is not a JSON object another name beside its own
// and returns that path. No token is valid then, as before, but new ones can be
// issued. A file that is in order stays, and is an error.
func (f File) SetAside() (path string, err error) {
	path = f.Path + ".corrupt-" + time.Now().UTC().Format("20060102T150405.000Z")
	err = f.underLock(func(dir directory, name string) error {
		err := f.each(dir, name, func(Entry) {})
		if err == nil {
			return fmt.Errorf("token file %s: is in order by now", f.Path)
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
