// Reads a token file, and replaces it as a whole and durably.

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

// sizeLimit is the largest size of a token file, enough for some hundred thousand tokens. Without a
// limit, a sparse file of terabytes, which costs its owner nothing, would use up the machine's
// memory when it is read.
const sizeLimit = 64 << 20

// tokenFile is a token file as it was read.
type tokenFile struct {
	content []byte
	stat    *unix.Stat_t // nil if there is no file; the content is then an empty object
}

// read reads the token file with this name.
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

// readAll reads a file of about this size to its end. It returns an error if the file has more
// than limit bytes.
func readAll(fd, size, limit int) ([]byte, error) {
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
		if read += n; read > limit {
			return nil, fmt.Errorf("more than %d bytes", limit)
		}
		if read == len(content) {
			content = append(content, make([]byte, len(content)/2+64)...)
		}
	}
}

// replace replaces the old token file with one that has this content. If durable is set, it also
// syncs the directory, so that the change outlives a power cut. If mustFit is set and the disk is
// full, it writes into the spare.
func (f directory) replace(name string, old tokenFile, content [][]byte, durable, mustFit bool) error {
	size := 0
	for _, piece := range content {
		size += len(piece)
	}
	if size > sizeLimit {
		// Our programs refuse to read a larger file, so they could not make it smaller.
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

	// Committed. The rest makes this rename durable, and gives the next change a spare.
	f.keepSpare(name, size)
	if durable {
		return f.sync()
	}
	return nil
}

// create creates the temporary file, in place of one that a killed writer may have left.
func (f directory) create(name string) (fd int, err error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW
	fd, err = openAt(f.fd, name, flags, 0o600)
	if errors.Is(err, fs.ErrExist) {
		if err := f.remove(name); err != nil {
			return -1, fmt.Errorf("remove a killed writer's temporary file: %w", err)
		}
		fd, err = openAt(f.fd, name, flags, 0o600)
	}
	return fd, err
}

// fill writes the content of the new token file, sets its owner, mode and modification
// time, syncs and closes it. On an error it removes the file.
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
		// Without this, a power cut may leave the rename done and the content lost.
		err = os.NewSyscallError("sync", unix.Fsync(fd))
	}
	if err != nil {
		_ = f.remove(name)
	}
	return err
}

// after returns the pieces without their first n bytes.
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

// temporaryName returns the name under which a new token file is written before it replaces
// the old one. One writer at a time holds the lock, so one name is enough.
func temporaryName(name string) string { return "." + name + ".terok-gate-hook" }

// keepOwnerAndMode gives the new file the owner, group and mode of the old one. If there is no old
// file, the mode is 0600, and the new file gets the directory's owner. For example, if the
// directory belongs to the gate server's user and root issues the first token, the file then
// belongs to that user.
//
// An owner that cannot be kept is an error. A group that cannot be kept is an error if the mode
// gives the group rights, or if the group is not mapped into this user namespace.
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
		// A group without rights may be lost without harm. For example, a file that root's hook
		// made has root's group. If the gate's user sweeps, the new file loses that group, since
		// this user cannot give a file to root's group.
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

// mapped returns an error if the owner or group is not mapped into this user namespace.
//
// An id that is not mapped shows as the overflow id, usually 65534. That number can itself be
// mapped to another id: chown(2) would then succeed and give the file to the wrong user (seen in
// podman's rootless user namespace, Linux 6.18).
func mapped(uid, gid uint32) error {
	inside, err := InUserNamespace()
	if err != nil {
		return err
	}
	if inside && (isOverflowID(uid, "uid") || isOverflowID(gid, "gid")) {
		return fmt.Errorf("cannot keep owner and group %d:%d: one is not mapped into this user namespace: "+
			"give the file to the user that runs the engine", uid, gid)
	}
	return nil
}

// setNewMtime sets the modification time to now or, if that is not later than the old file's time,
// to just after the old file's time. Otherwise, two replacements within a clock tick would have the
// same time, and a gate server would not notice the second. The time is read back because file
// systems round it (to a second on ext4 with 128-byte inodes, to two on FAT).
//
// If the old file has the latest time that the file system can store, as a wrong clock may have
// set, no later time is possible. The new file then gets an earlier time, which at least differs.
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
		err = fmt.Errorf("the file system cannot store a modification time other than %v", last)
	}
	return err
}

// setMtime sets the modification time of a file by its descriptor: under the file's name, the
// directory's owner may have put another file. It returns the time as the file system stored it.
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

// InUserNamespace reports whether user ids in this process differ from the kernel's. They do if
// uid_map is not the identity (user_namespaces(7)).
func InUserNamespace() (bool, error) {
	m, err := readSmall(unix.AT_FDCWD, "/proc/self/uid_map")
	if err != nil {
		return false, fmt.Errorf("look for a user namespace: %w", err)
	}
	return strings.Join(strings.Fields(string(m)), " ") != "0 0 4294967295", nil
}

// isOverflowID reports whether the id is the one that the kernel shows for ids that are not mapped.
func isOverflowID(id uint32, kind string) bool {
	overflow, err := readSmall(unix.AT_FDCWD, "/proc/sys/kernel/overflow"+kind)
	if err != nil {
		return id == 65534
	}
	return strings.TrimSpace(string(overflow)) == fmt.Sprint(id)
}
