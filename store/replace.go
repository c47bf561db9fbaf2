// Reading a token file, and replacing it as a whole.

package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sizeLimit is some hundred thousand tokens. A sparse file of terabytes costs its
// owner nothing, and would cost the machine its memory.
const sizeLimit = 64 << 20

// read returns the entries of the token file and what fstat(2) says of it. Without
// a file there are no entries and no info.
func read(root *os.Root, path string) (map[string]json.RawMessage, fs.FileInfo, error) {
	fail := func(err error) (map[string]json.RawMessage, fs.FileInfo, error) {
		return nil, nil, fmt.Errorf("token file %s: %w", path, err)
	}
	file, info, err := openRegular(root, filepath.Base(path), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]json.RawMessage{}, nil, nil
	}
	if err != nil {
		return fail(err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, sizeLimit+1))
	if err == nil && len(content) > sizeLimit {
		err = fmt.Errorf("more than %d bytes", sizeLimit)
	}
	if err != nil {
		return fail(err)
	}
	entries, err := parse(content)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", ErrCorrupt, err))
	}
	return entries, info, nil
}

// openRegular opens a regular file and nothing else: not what a symbolic link in
// its place points to, since a replacement would replace the link, and not a fifo,
// whose other end might never come.
func openRegular(root *os.Root, name string, flag int) (*os.File, fs.FileInfo, error) {
	// A writer may replace the file between the look and the opening; a reader,
	// who takes no lock, looks again then.
	for range 100 {
		before, err := root.Lstat(name)
		if err != nil {
			return nil, nil, err
		}
		if !before.Mode().IsRegular() {
			return nil, nil, errors.New("is not a regular file")
		}
		file, err := root.OpenFile(name, flag|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, nil, err
		}
		info, err := file.Stat()
		if err == nil && os.SameFile(before, info) {
			return file, info, nil
		}
		file.Close()
		if err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, errors.New("is replaced faster than it can be opened")
}

// replace commits content in the place of the token file that old describes, nil
// if there is none. It expects the lock to be held.
func replace(root *os.Root, path string, old fs.FileInfo, content []byte) (err error) {
	name := filepath.Base(path)
	// What stands under the name now was left by a writer that was killed.
	temporary := temporaryName(path)
	if err := root.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what a killed writer left: %w", err)
	}
	file, err := root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		file.Close()
		if err != nil {
			root.Remove(temporary)
		}
	}()
	if _, err := file.Write(content); err != nil {
		return err
	}
	if err := keepOwnerAndMode(root, file, old); err != nil {
		return err
	}
	if err := setNewMtime(file, old); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if err := root.Rename(temporary, name); err != nil {
		return err
	}
	// Committed. What follows only makes the rename durable.
	folder, err := root.Open(".")
	if err != nil {
		return fmt.Errorf("sync the folder: %w", err)
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil {
		return fmt.Errorf("sync the folder: %w", err)
	}
	return nil
}

// temporaryName is where a new token file is written before it takes the old one's
// place. One writer at a time holds the lock, so one name is enough.
func temporaryName(path string) string { return "." + filepath.Base(path) + ".terok-gate-hook" }

// keepOwnerAndMode gives the file owner, group and mode of the old one. A new one
// is mode 0600 and belongs to the owner of its folder: the gate server's user, say,
// when root issues the first token.
func keepOwnerAndMode(root *os.Root, file *os.File, old fs.FileInfo) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	have := info.Sys().(*syscall.Stat_t)
	want, mode := *have, fs.FileMode(0o600)
	if old != nil {
		want, mode = *old.Sys().(*syscall.Stat_t), old.Mode().Perm()
	} else {
		folder, err := root.Stat(".")
		if err != nil {
			return err
		}
		want.Uid = folder.Sys().(*syscall.Stat_t).Uid
	}
	if want.Uid != have.Uid || want.Gid != have.Gid {
		if err := mapped(want.Uid, want.Gid); err != nil {
			return err
		}
		if err := file.Chown(int(want.Uid), int(want.Gid)); err != nil {
			return fmt.Errorf("keep owner and group %d:%d: %w", want.Uid, want.Gid, err)
		}
	}
	return file.Chmod(mode)
}

// mapped refuses owners and groups that are not mapped into this user namespace.
//
// Such an id reads as the overflow id, usually 65534. That number may well be mapped,
// to another id: chown(2) would succeed and give the file away (seen in podman's
// rootless user namespace, Linux 6.18).
func mapped(uid, gid uint32) error {
	inside, err := InUserNamespace()
	if err != nil {
		return err
	}
	if inside && (isOverflowID(uid, "uid") || isOverflowID(gid, "gid")) {
		return fmt.Errorf("owner and group %d:%d cannot be kept, one is not mapped into this user namespace: "+
			"give the file to the user that runs the engine", uid, gid)
	}
	return nil
}

// setNewMtime sets the modification time to now, or as much later as it takes to be
// later than old's. Two replacements within a clock tick would get the same time, and
// a gate server would not notice the second. It reads the time back since file systems
// round it (to a second on ext4 with 128-byte inodes, two on FAT).
//
// A clock that was wrong once can have set the last time that the file system has. It
// is different that counts then: the time is now, whatever it was.
func setNewMtime(file *os.File, old fs.FileInfo) error {
	now := time.Now()
	if old == nil {
		_, err := setMtime(file, now)
		return err
	}
	last := old.ModTime()
	if now.After(last) {
		if kept, err := setMtime(file, now); err != nil || kept.After(last) {
			return err
		}
	}
	const farthest = 4 * time.Second
	for step := time.Duration(1); step <= farthest; step *= 2 {
		if kept, err := setMtime(file, last.Add(step)); err != nil || kept.After(last) {
			return err
		}
	}
	if !now.Before(last) {
		now = last.Add(-farthest)
	}
	kept, err := setMtime(file, now)
	if err == nil && kept.Equal(last) {
		err = fmt.Errorf("the file system keeps no modification time other than %v", last)
	}
	return err
}

// InUserNamespace tells whether our ids are other than the kernel's: whether
// uid_map is anything but all ids to themselves (user_namespaces(7)).
func InUserNamespace() (bool, error) {
	m, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false, fmt.Errorf("look for a user namespace: %w", err)
	}
	return strings.Join(strings.Fields(string(m)), " ") != "0 0 4294967295", nil
}

// isOverflowID tells whether the id is what the kernel shows for an unmapped one.
func isOverflowID(id uint32, kind string) bool {
	overflow, err := os.ReadFile("/proc/sys/kernel/overflow" + kind)
	if err != nil {
		return id == 65534
	}
	return strings.TrimSpace(string(overflow)) == fmt.Sprint(id)
}

// setMtime is os.Chtimes by descriptor: under the name, the folder's owner may have
// put another file by now. It returns the time that the file system keeps.
func setMtime(file *os.File, mtime time.Time) (kept time.Time, err error) {
	fail := func(err error) (time.Time, error) {
		return kept, fmt.Errorf("set the modification time: %w", err)
	}
	modified, err := unix.TimeToTimespec(mtime)
	if err != nil {
		return fail(err)
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, modified}
	if err := unix.UtimesNanoAt(int(file.Fd()), "", times, unix.AT_EMPTY_PATH); err != nil {
		return fail(err)
	}
	info, err := file.Stat()
	if err != nil {
		return fail(err)
	}
	return info.ModTime(), nil
}
