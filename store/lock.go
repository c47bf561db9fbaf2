// Takes the lock that every program, ours or not, holds while it writes a token file.

package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

// DefaultLockTimeout is how long a change waits for the lock by default.
const DefaultLockTimeout = 8 * time.Second

// underLock takes the lock, and calls do with the token file's directory and name.
func (f File) underLock(do func(dir directory, name string) error) error {
	path, name := split(f.Path)
	dir, err := openDirectory(path)
	if err != nil {
		return err
	}
	defer dir.close()

	unlock, err := f.lock(dir, name)
	if err != nil {
		return err
	}
	defer unlock()

	return do(dir, name)
}

// lock takes the exclusive lock and returns a function that releases it. It waits in a blocking
// flock(2) and does not poll, so that a waiter costs nothing and gets the lock as soon as the lock
// is free.
func (f File) lock(dir directory, name string) (unlock func(), err error) {
	path := f.Path + ".lock"
	fail := func(err error) (func(), error) { return nil, fmt.Errorf("lock file %s: %w", path, err) }
	if err := dir.createLock(name+".lock", name); err != nil {
		return fail(err)
	}

	// The file is opened for writing, too: otherwise, NFS grants no exclusive lock on it.
	lock := flock.New(path, flock.SetFlag(os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK))
	unlock = func() { lock.Unlock() }

	// The lock is usually free, and a try without waiting needs no second thread.
	if locked, err := lock.TryLock(); err != nil || locked {
		if err != nil {
			return fail(err)
		}
		return unlock, nil
	}

	limit := cmp.Or(f.LockTimeout, DefaultLockTimeout)
	locked := make(chan error)
	gaveUp := make(chan struct{})
	go func() {
		err := lock.Lock()
		select {
		case locked <- err:
		case <-gaveUp:
			lock.Unlock()
		}
	}()

	timer := time.NewTimer(limit)
	defer timer.Stop()

	select {
	case err := <-locked:
		if err != nil {
			return fail(err)
		}
		return unlock, nil
	case <-timer.C:
		close(gaveUp)
		held := &HeldError{Lock: path, Limit: limit}
		held.PID, held.Program = holderOf(path)
		return nil, held
	}
}

// CheckLock takes the lock as a change would, and releases it. If it cannot take the lock, it
// returns the error that the change would return. It does not create a lock file: if there is none,
// no process holds the lock.
func (f File) CheckLock() error {
	if _, err := os.Lstat(f.Path + ".lock"); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return f.underLock(func(directory, string) error { return nil })
}

// HeldError reports that another process held the lock for longer than a change waits.
type HeldError struct {
	Lock    string        // the lock file's path
	Limit   time.Duration // how long the change waited
	PID     int           // of the process that took the lock; 0 if that process is gone or cannot be seen from here
	Program string        // the name of that process, which the process can choose; empty if it cannot be read
}

func (e *HeldError) Error() string {
	if e.Program == "" {
		return e.Holder()
	}
	return fmt.Sprintf("%s (%q)", e.Holder(), e.Program)
}

// Holder returns the error's text without the program name, which anyone can choose.
func (e *HeldError) Holder() string {
	by := "another process"
	if e.PID != 0 {
		by = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("lock file %s: held for more than %v by %s", e.Lock, e.Limit, by)
}

// holderOf returns the process that took the lock (proc_locks(5)). It returns 0 if that process has
// ended and left the lock to its children.
func holderOf(path string) (pid int, program string) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, ""
	}

	inode := info.Sys().(*syscall.Stat_t).Ino
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0, ""
	}

	for line := range strings.Lines(string(locks)) {
		var n, pid int
		var major, minor, held uint64
		// The device is not compared, since btrfs shows a different one here than in stat(2). A
		// process outside our pid namespace has a pid of 0 or less here.
		_, err := fmt.Sscanf(line, "%d: FLOCK ADVISORY WRITE %d %x:%x:%d", &n, &pid, &major, &minor, &held)
		if err != nil || held != inode || pid <= 0 {
			continue
		}

		if errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			return 0, ""
		}
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return pid, strings.TrimSpace(string(name))
	}
	return 0, ""
}

// createLock makes sure that there is a lock file, and that the token file's owner can open it. If
// there is no token file, the directory's owner must be able to open it. createLock creates the
// lock file with mode 0600. Lock files are never removed.
//
// In another user's directory, root gives that user the lock file. In place of the lock file,
// the user may have put a hard link to another file that belongs to root. So root gives away only an
// empty regular file that has a single name.
func (f directory) createLock(name, tokenFile string) error {
	owned, err := f.stat(tokenFile)
	if errors.Is(err, fs.ErrNotExist) {
		owned, err = f.stat(".")
	}
	if err != nil {
		return err
	}

	fd, stat, err := f.openRegular(name, unix.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		if int(owned.Uid) != os.Geteuid() {
			if err := mapped(owned.Uid, 0); err != nil {
				return err // the owner could not open a lock file: create none
			}
		}

		created, err := openAt(f.fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
		if err == nil {
			err = unix.Fchmod(created, 0o600) // whatever the umask
			unix.Close(created)
		} else if errors.Is(err, fs.ErrExist) {
			err = nil
		}
		if err != nil {
			return err
		}

		fd, stat, err = f.openRegular(name, unix.O_RDWR)
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	defer unix.Close(fd)

	if stat.Nlink != 1 || stat.Size != 0 {
		return nil // it may be a hard link to an unrelated file
	}

	// Anyone who can open the file can hold the lock indefinitely, and another program may have
	// created it with a wider mode.
	if stat.Mode&0o007 != 0 {
		_ = unix.Fchmod(fd, stat.Mode&0o770) // may fail: the file can belong to another user
	}

	if stat.Uid != owned.Uid && int(stat.Uid) == os.Geteuid() {
		if err := mapped(owned.Uid, 0); err != nil {
			return err
		}
		if err := unix.Fchown(fd, int(owned.Uid), -1); err != nil {
			return os.NewSyscallError("chown", err)
		}
	}
	return nil
}
