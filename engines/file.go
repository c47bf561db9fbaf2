// Writes the files of an installation, each as a whole or not at all, and distinguishes them
// from files of others. Anything may be at their paths, even a fifo or an endless file.

package engines

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/durable"
)

// mark is the first line of each file of ours other than hook definitions and the file of devices.
const mark = "# Written by terok-gate install; terok-gate uninstall removes it.\n"

// File is a file of an installation.
type File struct {
	Path    string
	Content []byte
	check   func(path string) error // checks the new file before it replaces the old one; may be nil
}

// isOurs reports whether we wrote the file, or may write it because there is none.
func isOurs(path string) (bool, error) {
	read := ReadSmall
	if filepath.Base(path) == devicesName {
		read = readDevicesFile
	}
	content, err := read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case errors.Is(err, errStrange):
		return false, nil
	case err != nil:
		return false, err
	case filepath.Ext(path) != ".json":
		return strings.HasPrefix(string(content), mark), nil
	}
	var d Definition
	return isDevices(content) || json.Unmarshal(content, &d) == nil && d.calledName() == binary, nil
}

// errStrange is wrapped by errors about a file that neither podman nor this package can have written.
var errStrange = errors.New("is not a regular file of an expected size")

// ReadSmall reads a regular file of at most 1 MiB, and refuses others without blocking:
// a fifo may have no writer, and a sparse file can be larger than our memory.
func ReadSmall(path string) ([]byte, error) { return readAtMost(path, 1<<20) }

func readAtMost(path string, limit int64) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENXIO) { // a socket (open(2))
		err = errStrange
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()

	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s %w (at most %d MiB)", path, errStrange, limit>>20)
	}
	return io.ReadAll(io.LimitReader(file, limit))
}

// Write writes the file as a whole or not at all: podman starts no container while a definition is
// broken. All users may read the file, which holds no secret.
func (f File) Write() error {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return err
	}
	return durable.Replace(f.Path, f.Content, 0o644, f.check)
}
