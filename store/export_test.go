package store

import (
	"os"
	"path/filepath"
)

// Put writes an entry as it is, even one that Issue would refuse because its process has died.
func (f File) Put(e Entry) error {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o700); err != nil {
		return err
	}
	return f.underLock(func(dir directory, name string) error {
		file, err := dir.read(name)
		if err != nil {
			return err
		}
		made, err := edit{add: &e, fate: func(*item) fate { return stays }}.apply(file.content)
		if err != nil {
			return err
		}
		return dir.replace(name, file, made.content, false, false)
	})
}
