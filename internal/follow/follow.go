// Package follow reads a file again when it has changed. It follows symbolic links, since
// Kubernetes replaces a mounted file by moving a link.
package follow

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// File follows the file at a path. It is not safe for concurrent use.
type File struct {
	Path string

	seen    version
	content []byte
	err     error
}

// version identifies a file that was read.
type version struct {
	known         bool
	device, inode uint64
	size          int64
	mtime, ctime  syscall.Timespec
}

// Read returns the content of the file or the error in reading it, and whether that may differ
// from what the last call returned.
func (f *File) Read() (content []byte, changed bool, err error) {
	if f.seen.known {
		if info, err := os.Stat(f.Path); err == nil && versionOf(info) == f.seen {
			return f.content, false, f.err
		}
	}

	f.seen = version{}
	f.content, f.err = f.read()
	return f.content, true, f.err
}

// most is the largest size of a file that is read, in bytes.
const most = 1 << 20

// read reads the file. It takes the version before the content, so that the next Read notices a
// change that happens in between.
func (f *File) read() ([]byte, error) {
	file, err := os.Open(f.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}

	content, err := io.ReadAll(io.LimitReader(file, most+1))
	if len(content) > most {
		return nil, fmt.Errorf("%s is larger than %d bytes", f.Path, most)
	}
	// Before Linux 6.13, times are those of the last clock tick: if a file was just written, it can
	// change again while its times stay the same. So such a file is read again.
	if err == nil && time.Since(info.ModTime()).Abs() > 20*time.Millisecond {
		f.seen = versionOf(info)
	}
	return content, err
}

func versionOf(info os.FileInfo) version {
	stat := info.Sys().(*syscall.Stat_t)
	return version{true, uint64(stat.Dev), stat.Ino, stat.Size, stat.Mtim, stat.Ctim}
}
