// A stand-in for the service manager's file-descriptor store.

package testenv

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Shelf keeps files for programs that are replaced, as a service manager does (FDSTORE=1 in
// sd_notify(3)).
type Shelf struct {
	mu    sync.Mutex
	files map[string]int
}

// Keep keeps a copy of a file.
func (s *Shelf) Keep(name string, file *os.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.files[name]; there {
		return fmt.Errorf("%s is kept already", name)
	}

	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	if s.files == nil {
		s.files = map[string]int{}
	}
	return conn.Control(func(fd uintptr) {
		if s.files[name], err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3); err != nil {
			panic(err)
		}
	})
}

// Drop closes the file that is kept under a name, if there is one.
func (s *Shelf) Drop(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fd, there := s.files[name]; there {
		delete(s.files, name)
		return unix.Close(fd)
	}
	return nil
}

// Passed returns copies of all files, for the start of a new program.
func (s *Shelf) Passed(t *testing.T) (files []*os.File) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, fd := range s.files {
		fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		Must(t, err)
		files = append(files, os.NewFile(uintptr(fd), name))
	}
	return files
}

// Names returns the names of all files, sorted.
func (s *Shelf) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.files))
}
