// The lock that every writer of a token file holds, ours or not.

package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

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
		return nil, fmt.Errorf("lock file %s: another process has held the lock for more than %v", path, limit)
	}
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
