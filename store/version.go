// Detects whether a file has changed since it was read.

package store

import (
	"time"

	"golang.org/x/sys/unix"
)

// FileVersion identifies a file that was read, to see whether it has changed.
type FileVersion struct {
	stat   *unix.Stat_t // nil: the file was not there
	unsure bool         // a change after the read may have left the times as they were
}

// FileVersionOf returns the version of a file that was read at readAt. If file is nil, there was no
// file. Before Linux 6.13, file times are those of the last clock tick, so a file that is written
// twice within a tick has the same times after both writes. A version that was read so soon after a
// write is unsure.
func FileVersionOf(file *unix.Stat_t, readAt time.Time) FileVersion {
	unsure := file != nil && readAt.Sub(time.Unix(file.Mtim.Unix())).Abs() < 20*time.Millisecond
	return FileVersion{file, unsure}
}

// Exists reports whether the file was there.
func (v FileVersion) Exists() bool { return v.stat != nil }

// IsAt reports whether the file at a path is surely still this version. It is false for a version
// that is unsure. The flags are those of fstatat(2), such as AT_SYMLINK_NOFOLLOW.
func (v FileVersion) IsAt(path string, flags int) bool {
	if v.unsure {
		return false
	}
	var now unix.Stat_t
	err := unix.Fstatat(unix.AT_FDCWD, path, &now, flags)
	if v.stat == nil {
		return err == unix.ENOENT
	}
	was := v.stat
	return err == nil && now.Dev == was.Dev && now.Ino == was.Ino && now.Size == was.Size && now.Mtim == was.Mtim && now.Ctim == was.Ctim
}
