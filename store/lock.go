// The lock that every writer of a token file holds, ours or not.

package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

// underLock runs do in the token file's folder while no other writer is at work.
func (f File) underLock(do func(*os.Root) error) error {
	root, err := openFolder(filepath.Dir(f.Path))
	if err != nil {
		return err
	}
	defer root.Close()
	unlock, err := f.lock(root)
	if err != nil {
		return err
	}
	defer unlock()
	return do(root)
}

// lock takes the exclusive lock and returns what releases it. The wait is a
// blocking flock(2), not a poll: a waiter costs nothing and gets its turn at once.
func (f File) lock(root *os.Root) (unlock func(), err error) {
	path := f.Path + ".lock"
	if err := createLock(root, filepath.Base(path), filepath.Base(f.Path)); err != nil {
		return nil, fmt.Errorf("lock file %s: %w", path, err)
	}
	limit := cmp.Or(f.LockTimeout, DefaultLockTimeout)
	// Read-write, since NFS grants an exclusive lock on nothing less.
	lock := flock.New(path, flock.SetFlag(os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK))
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
			return nil, fmt.Errorf("lock file %s: %w", path, err)
		}
		return func() { lock.Unlock() }, nil
	case <-timer.C:
		close(gaveUp)
		return nil, fmt.Errorf("lock file %s: held for more than %v by %s", path, limit, holderOf(path))
	}
}

// CheckLock takes the lock as a change would and gives it back. Its error is that of
// the change. It changes nothing: without a lock file there is nobody who holds it.
func (f File) CheckLock() error {
	if _, err := os.Lstat(f.Path + ".lock"); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return f.underLock(func(*os.Root) error { return nil })
}

// holderOf names the process that took the lock, as far as it can be seen from here
// (proc_locks(5)). It may have left the lock to its children, and be gone.
func holderOf(path string) string {
	const somebody = "another process"
	info, err := os.Stat(path)
	if err != nil {
		return somebody
	}
	inode := info.Sys().(*syscall.Stat_t).Ino
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return somebody
	}
	for line := range strings.Lines(string(locks)) {
		var n, pid int
		var major, minor, held uint64
		// The device is not asked: btrfs shows another here than stat(2) does. A pid
		// that is not in our namespace shows as 0 or less.
		_, err := fmt.Sscanf(line, "%d: FLOCK ADVISORY WRITE %d %x:%x:%d", &n, &pid, &major, &minor, &held)
		if err != nil || held != inode || pid <= 0 {
			continue
		}
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			return fmt.Sprintf("process %d", pid)
		}
		return fmt.Sprintf("process %d (%q)", pid, strings.TrimSpace(string(name)))
	}
	return somebody
}

// createLock makes sure that the lock file exists and that the owner of the token
// file, or else of its folder, can open it too. It is mode 0600 and never removed.
//
// Root may lock in a folder of somebody who is not to be trusted with other files:
// what is handed over to them is only ever an empty regular file of ours with no
// other name.
func createLock(root *os.Root, name, tokenFile string) error {
	owned, err := root.Lstat(tokenFile)
	if errors.Is(err, fs.ErrNotExist) {
		owned, err = root.Lstat(".")
	}
	if err != nil {
		return err
	}
	owner := owned.Sys().(*syscall.Stat_t).Uid
	if _, err := root.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		if int(owner) != os.Geteuid() {
			if err := mapped(owner, 0); err != nil {
				return err // before there is one that its owner cannot open
			}
		}
		created, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			err = created.Chmod(0o600) // whatever the umask
			created.Close()
		} else if errors.Is(err, fs.ErrExist) {
			err = nil
		}
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	lock, info, err := openRegular(root, name, os.O_RDWR)
	if err != nil {
		return err
	}
	defer lock.Close()
	stat := info.Sys().(*syscall.Stat_t)
	if stat.Nlink != 1 || stat.Size != 0 {
		return nil // it may be another file of somebody's, by a second name
	}
	// Whoever can open it can hold it for ever. Another program may have let all do so.
	if info.Mode()&0o007 != 0 {
		_ = lock.Chmod(info.Mode().Perm() &^ 0o007) // it may not be ours
	}
	if stat.Uid != owner && int(stat.Uid) == os.Geteuid() {
		if err := mapped(owner, 0); err != nil {
			return err
		}
		return lock.Chown(int(owner), -1)
	}
	return nil
}
