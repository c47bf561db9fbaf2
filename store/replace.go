// Reading a token file, and replacing it as a whole.

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sizeLimit is some hundred thousand tokens. A sparse file of terabytes costs its
// owner nothing, and would cost the machine its memory.
const sizeLimit = 64 << 20

// tokenFile is a token file as it was read.
type tokenFile struct {
	content []byte
	stat    *unix.Stat_t // nil: there is none, and its content is an object without members
}

// read returns the token file with this name.
func (f directory) read(name string) (tokenFile, error) {
	fd, stat, err := f.openRegular(name, unix.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return tokenFile{content: []byte("{}\n")}, nil
	}
	if err != nil {
		return tokenFile{}, err
	}
	defer unix.Close(fd)
	content, err := readAll(fd, int(min(stat.Size, sizeLimit))+1, sizeLimit)
	if err != nil {
		return tokenFile{}, err
	}
	return tokenFile{content, &stat}, nil
}

// readAll reads a file of about this size, to its end. One that is larger than most is
// an error.
func readAll(fd, size, most int) ([]byte, error) {
	content := make([]byte, size)
	read := 0
	for {
		n, err := unix.Read(fd, content[read:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, os.NewSyscallError("read", err)
		case n == 0:
			return content[:read], nil
		}
		if read += n; read > most {
			return nil, fmt.Errorf("more than %d bytes", most)
		}
		if read == len(content) {
			content = append(content, make([]byte, len(content)/2+64)...)
		}
	}
}

// replace puts a token file with this content in the place of the old one. If it shall
// outlive a power cut, the directory is synced too. If it must fit, it takes the spare where
// there is no space.
func (f directory) replace(name string, old tokenFile, content [][]byte, durable, mustFit bool) error {
	size := 0
	for _, piece := range content {
		size += len(piece)
	}
	if size > sizeLimit {
		// Once written, no program could read it, and so none could fix it.
		return fmt.Errorf("would grow to more than %d bytes: revoke tokens first", sizeLimit)
	}

	temporary := temporaryName(name)
	fd, err := f.create(temporary)
	if err == nil {
		err = f.fill(fd, temporary, content, old.stat)
	}
	if mustFit && isFull(err) {
		if fd, spareErr := f.takeSpare(name, size); spareErr == nil {
			err = f.fill(fd, temporary, content, old.stat)
		}
	}
	if err != nil {
		return err
	}

	if err := f.rename(temporary, name); err != nil {
		_ = f.remove(temporary)
		return err
	}

	// Committed. What follows only makes the rename durable, and the next one possible.
	f.keepSpare(name, size)
	if durable {
		return f.sync()
	}
	return nil
}

// create makes a temporary file, in the place of what a killed writer left.
func (f directory) create(name string) (fd int, err error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW
	fd, err = openAt(f.fd, name, flags, 0o600)
	if errors.Is(err, fs.ErrExist) {
		if err := f.remove(name); err != nil {
			return -1, fmt.Errorf("remove what a killed writer left: %w", err)
		}
		fd, err = openAt(f.fd, name, flags, 0o600)
	}
	return fd, err
}

// fill gives a file its content, and all else that the token file is to have, and closes
// it. On an error it removes the file.
func (f directory) fill(fd int, name string, content [][]byte, old *unix.Stat_t) error {
	defer unix.Close(fd)
	err := writeAll(fd, content)
	if err == nil {
		err = f.keepOwnerAndMode(fd, old)
	}
	if err == nil {
		err = setNewMtime(fd, old)
	}
	if err == nil {
		// Without it, a file system may keep the rename and not the content.
		err = os.NewSyscallError("sync", unix.Fsync(fd))
	}
	if err != nil {
		_ = f.remove(name)
	}
	return err
}

// after is what is left of the pieces after so many bytes.
func after(pieces [][]byte, n int) [][]byte {
	for len(pieces) > 0 && n >= len(pieces[0]) {
		n -= len(pieces[0])
		pieces = pieces[1:]
	}
	if n == 0 {
		return pieces
	}

	rest := slices.Clone(pieces)
	rest[0] = rest[0][n:]
	return rest
}

// writeAll writes the pieces one after the other, from the beginning of the file.
func writeAll(fd int, pieces [][]byte) error {
	const most = 1024 // UIO_MAXIOV
	offset := 0
	for len(pieces) > 0 {
		n, err := unix.Pwritev(fd, pieces[:min(len(pieces), most)], int64(offset))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		offset += n
		pieces = after(pieces, n)
	}
	return nil
}

// temporaryName is where a new token file is written before it takes the old one's
// place. One writer at a time holds the lock, so one name is enough.
func temporaryName(name string) string { return "." + name + ".terok-gate-hook" }

// keepOwnerAndMode gives the file owner, group and mode of the old one. A new one
// is mode 0600 and belongs to the owner of its directory: the gate server's user, say,
// when root issues the first token. A group without rights is only kept where we may give
// files to it.
func (f directory) keepOwnerAndMode(fd int, old *unix.Stat_t) error {
	var have unix.Stat_t
	if err := unix.Fstat(fd, &have); err != nil {
		return os.NewSyscallError("stat", err)
	}
	var uid uint32
	gid, mode := have.Gid, uint32(0o600)
	if old != nil {
		uid, gid, mode = old.Uid, old.Gid, old.Mode&0o777
	} else {
		var above unix.Stat_t
		if err := unix.Fstat(f.fd, &above); err != nil {
			return os.NewSyscallError("stat", err)
		}
		uid = above.Uid
	}
	if uid != have.Uid || gid != have.Gid {
		if err := mapped(uid, gid); err != nil {
			return err
		}
		err := unix.Fchown(fd, int(uid), int(gid))
		// A group that may do nothing is no loss: root's, of a file that root's hook made
		// for the gate's user, who now sweeps it.
		if err != nil && (uid != have.Uid || mode&0o070 != 0) {
			return fmt.Errorf("keep owner and group %d:%d: %w", uid, gid, err)
		}
	}
	if have.Mode&0o7777 != mode {
		if err := unix.Fchmod(fd, mode); err != nil {
			return os.NewSyscallError("chmod", err)
		}
	}
	return nil
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
// A clock that was wrong once can have set the latest time that the file system can
// keep. No later one can be set then, so the time is set to now: it differs at least.
func setNewMtime(fd int, old *unix.Stat_t) error {
	now := time.Now()
	if old == nil {
		_, err := setMtime(fd, now)
		return err
	}
	last := time.Unix(old.Mtim.Unix())
	if now.After(last) {
		if kept, err := setMtime(fd, now); err != nil || kept.After(last) {
			return err
		}
	}
	const farthest = 4 * time.Second
	for step := time.Duration(1); step <= farthest; step *= 2 {
		if kept, err := setMtime(fd, last.Add(step)); err != nil || kept.After(last) {
			return err
		}
	}
	if !now.Before(last) {
		now = last.Add(-farthest)
	}
	kept, err := setMtime(fd, now)
	if err == nil && kept.Equal(last) {
		err = fmt.Errorf("the file system keeps no modification time other than %v", last)
	}
	return err
}

// setMtime is os.Chtimes by descriptor: under the name, the directory's owner may have
// put another file by now. It returns the time that the file system keeps.
func setMtime(fd int, mtime time.Time) (kept time.Time, err error) {
	modified, err := unix.TimeToTimespec(mtime)
	if err == nil {
		times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, modified}
		err = unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
	}
	var stat unix.Stat_t
	if err == nil {
		err = unix.Fstat(fd, &stat)
	}
	if err != nil {
		return kept, fmt.Errorf("set the modification time: %w", err)
	}
	return time.Unix(stat.Mtim.Unix()), nil
}

// InUserNamespace reports whether our ids are other than the kernel's: whether
// uid_map is anything but all ids to themselves (user_namespaces(7)).
func InUserNamespace() (bool, error) {
	m, err := readSmall(unix.AT_FDCWD, "/proc/self/uid_map")
	if err != nil {
		return false, fmt.Errorf("look for a user namespace: %w", err)
	}
	return strings.Join(strings.Fields(string(m)), " ") != "0 0 4294967295", nil
}

// isOverflowID reports whether the id is what the kernel shows for an unmapped one.
func isOverflowID(id uint32, kind string) bool {
	overflow, err := readSmall(unix.AT_FDCWD, "/proc/sys/kernel/overflow"+kind)
	if err != nil {
		return id == 65534
	}
	return strings.TrimSpace(string(overflow)) == fmt.Sprint(id)
}
