// Opens and rotates the trail's file, and knows its default path.

package trail

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/store"
)

// DefaultFile returns the path that the trail has if no log file is named: below /var/log for root,
// and in the state directory for another user. Inside a user namespace, where a rootless engine
// runs hooks, it returns an empty path, since their user is unknown there.
func DefaultFile() string {
	const name = "terok-gate/trail.log"
	if inside, err := store.InUserNamespace(); err != nil || inside {
		return ""
	}
	if os.Geteuid() == 0 {
		return filepath.Join("/var/log", name)
	}

	// The XDG base directory specification says that relative paths are ignored.
	state := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		state = filepath.Join(home, ".local/state")
	}
	return filepath.Join(state, name)
}

// open opens the file for appending. If necessary, it creates the file and its directories, and
// syncs the file's directory. It does not return an os.File, whose Write would wait while a fifo is
// full.
func open(path string) (fd int, err error) {
	const flags = unix.O_WRONLY | unix.O_APPEND | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	if fd, err = unix.Open(path, flags, 0); err != unix.ENOENT {
		return fd, err
	}

	directory := filepath.Dir(path)
	if err := os.MkdirAll(directory, 0o711); err != nil { // others may enter: the gate's trail can be in a directory below
		return -1, err
	}
	if fd, err = unix.Open(path, flags|unix.O_CREAT, 0o600); err != nil {
		return fd, err
	}

	if dir, err := unix.Open(directory, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
		_ = unix.Fsync(dir)
		unix.Close(dir)
	}
	return fd, nil
}

// A file of the trail that has grown to mostBytes is set aside. At least leastAside such files are
// kept. Further ones are kept until they are older than maxAge, or the disk lacks space. One push
// of many refs writes 25 MB of lines, and a container must not displace what was written before.
const (
	mostBytes  = 32 << 20
	leastAside = 8
	maxAge     = 90 * 24 * time.Hour
)

// isExpendable reports whether a file that is not among the youngest may be removed: it is
// too old, or less than a tenth of the disk is free.
func isExpendable(file *unix.Stat_t, disk *unix.Statfs_t, now time.Time) bool {
	return now.Sub(time.Unix(file.Mtim.Unix())) > maxAge || disk.Bavail < disk.Blocks/10
}

// aside returns the path of the i-th file that was set aside. The first is the youngest.
func aside(path string, i int) string { return fmt.Sprintf("%s.%d", path, i) }

// setAside is called after a write to this descriptor. If the file has grown to its limit, setAside
// removes expendable files and renames PATH to PATH.1. Several writers may find the file full. The
// lock is on the file itself, so only one of them renames the file. The others do not get the lock,
// or no longer find their file at the path. What they still write is in PATH.1.
func setAside(path string, fd int) {
	if size, err := unix.Seek(fd, 0, io.SeekCurrent); err != nil || size < mostBytes { // for a fifo, an error
		return
	}
	if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil { // held until fd is closed
		return
	}

	var ours, there unix.Stat_t
	if unix.Fstat(fd, &ours) != nil || unix.Lstat(path, &there) != nil ||
		ours.Mode&unix.S_IFMT != unix.S_IFREG || ours.Dev != there.Dev || ours.Ino != there.Ino {
		return
	}

	kept := makeRoom(path)
	for i := kept; i >= 1; i-- {
		if unix.Rename(aside(path, i), aside(path, i+1)) != nil {
			return
		}
	}
	_ = unix.Rename(path, aside(path, 1))
}

// makeRoom removes expendable files to make room for one more, and returns how many remain.
func makeRoom(path string) (number int) {
	var file unix.Stat_t
	var disk unix.Statfs_t
	for unix.Lstat(aside(path, number+1), &file) == nil {
		number++
	}

	for ; number >= leastAside; number-- {
		last := aside(path, number)
		if unix.Lstat(last, &file) != nil || unix.Statfs(path, &disk) != nil || !isExpendable(&file, &disk, time.Now()) ||
			unix.Unlink(last) != nil {
			break
		}
	}
	return number
}
