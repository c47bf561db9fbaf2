package store

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// Put writes an entry as it is, one that Issue refuses included: of a process that
// has died since.
func (f File) Put(e Entry) error {
	value, err := e.marshal()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o700); err != nil {
		return err
	}
	_, err = f.change(func(entries map[string]json.RawMessage) ([]Entry, error) {
		entries[string(e.Token)] = value
		return nil, nil
	}, true)
	return err
}
