// The token file's directory, by descriptor: what stands at its path may change, this
// directory stays. Names in it are single names, and no symbolic link under one of them is
// followed.
//
// These are system calls, not os.Root and os.File, which ask the kernel some thirty
// things more: on the way of a container's start that is a quarter of our time.

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

type directory struct {
	fd   int
	path string
}

// openDirectory opens a directory and nothing else: it does not wait for the other end of a
// fifo.
func openDirectory(path string) (directory, error) {
	fd, err := openAt(unix.AT_FDCWD, path+"/.", unix.O_DIRECTORY|unix.O_RDONLY, 0) // with /., to fail if we may not enter it
	if err != nil {
		return directory{}, fmt.Errorf("the token file's directory: %w", err)
	}
	return directory{fd, path}, nil
}

func (f directory) close() { unix.Close(f.fd) }

// openAt opens a path in the directory with this descriptor.
func openAt(dir int, path string, flags int, mode uint32) (fd int, err error) {
	for {
		fd, err = unix.Openat(dir, path, flags|unix.O_CLOEXEC, mode)
		if err == nil {
			return fd, nil
		}
		if err != unix.EINTR {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// stat is lstat(2).
func (f directory) stat(name string) (stat unix.Stat_t, err error) {
	if err := unix.Fstatat(f.fd, name, &stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return stat, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return stat, nil
}

func (f directory) remove(name string) error {
	err := unix.Unlinkat(f.fd, name, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(f.fd, name, unix.AT_REMOVEDIR)
	}
	if err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

func (f directory) rename(from, to string) error {
	if err := unix.Renameat(f.fd, from, f.fd, to); err != nil {
		return &fs.PathError{Op: "rename", Path: to, Err: err}
	}
	return nil
}

func (f directory) sync() error {
	if err := unix.Fsync(f.fd); err != nil {
		return &fs.PathError{Op: "sync", Path: f.path, Err: err}
	}
	return nil
}

// openRegular opens a regular file and nothing else: not what a symbolic link in its
// place points to, since a replacement would replace the link, and not a fifo, whose
// other end might never come.
func (f directory) openRegular(name string, flags int) (fd int, stat unix.Stat_t, err error) {
	// Looked at before it is opened, since to open a device may wake what is behind it.
	// A writer may replace the file in between; a reader, who takes no lock, then looks
	// again.
	for range 100 {
		before, err := f.stat(name)
		if err != nil {
			return -1, stat, err
		}
		if before.Mode&unix.S_IFMT != unix.S_IFREG {
			return -1, stat, errors.New("is not a regular file")
		}
		fd, err := openAt(f.fd, name, flags|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.ELOOP) {
			continue
		}
		if err != nil {
			return -1, stat, err
		}
		err = unix.Fstat(fd, &stat)
		if err == nil && stat.Dev == before.Dev && stat.Ino == before.Ino {
			return fd, stat, nil
		}
		unix.Close(fd)
		if err != nil {
			return -1, stat, &fs.PathError{Op: "stat", Path: name, Err: err}
		}
	}
	return -1, stat, errors.New("is replaced faster than it can be opened")
}

// split returns a path's directory and the name in it.
func split(path string) (dir, name string) { return filepath.Dir(path), filepath.Base(path) }
