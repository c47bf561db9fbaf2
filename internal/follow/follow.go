// Package follow reads a file again when it has changed. It follows symbolic links, since
// Kubernetes replaces a mounted file by moving a link.
package follow

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/store"
)

// File follows the file at a path. It is not safe for concurrent use.
type File struct {
	Path string

	seen    store.FileVersion // the version that was read; none after an error
	content []byte
	err     error
}

// Read returns the content of the file, or an error. changed is true if the content differs from
// what the last call returned, and for every error.
func (f *File) Read() (content []byte, changed bool, err error) {
	if f.seen.Exists() && f.seen.IsAt(f.Path, 0) {
		return f.content, false, f.err
	}

	before := f.content
	f.seen = store.FileVersion{}
	f.content, f.err = f.read()
	changed = f.err != nil || before == nil || !bytes.Equal(f.content, before)
	return f.content, changed, f.err
}

// most is the largest size of a file that is read, in bytes.
const most = 1 << 20

// read reads the file. It takes the file's version before the content, so that the next Read
// notices a change that happens in between.
func (f *File) read() ([]byte, error) {
	file, err := os.Open(f.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return nil, fmt.Errorf("examine %s: %w", f.Path, err)
	}

	content, err := io.ReadAll(io.LimitReader(file, most+1))
	if len(content) > most {
		return nil, fmt.Errorf("%s is larger than %d bytes", f.Path, most)
	}
	if err == nil {
		f.seen = store.FileVersionOf(&stat, time.Now())
	}
	return content, err
}
