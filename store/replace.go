// Reading a token file, and replacing it as a whole.

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
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
func (f folder) read(name string) (tokenFile, error) {
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

// replace commits content in the place of the token file that was read, in the folder
// whose lock is held. If it shall outlive a power cut, the folder is synced too.
func (f folder) replace(name string, old *unix.Stat_t, content [][]byte, durable bool) (err error) {
	size := 0
	for _, piece := range content {
		size += len(piece)
	}
	if size > sizeLimit {
		// Written, it could be read by nobody, and never be mended.
		return fmt.Errorf("would grow to more than %d bytes: revoke tokens first", sizeLimit)
	}
	// What stands under the name now was left by a writer that was killed.
	temporary := temporaryName(name)
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW
	fd, err := openAt(f.fd, temporary, flags, 0o600)
	if errors.Is(err, fs.ErrExist) {
		if err := f.remove(temporary); err != nil {
			return fmt.Errorf("remove what a killed writer left: %w", err)
		}
		fd, err = openAt(f.fd, temporary, flags, 0o600)
	}
	if err != nil {
		return err
	}
	defer func() {
		unix.Close(fd)
		if err != nil {
			_ = f.remove(temporary)
		}
	}()
	if err := writeAll(fd, content, size); err != nil {
		return err
	}
	if err := f.keepOwnerAndMode(fd, old); err != nil {
		return err
	}
	if err := setNewMtime(fd, old); err != nil {
		return err
	}
	// Without it, a file system may keep the rename and not the content.
	if err := unix.Fsync(fd); err != nil {
		return os.NewSyscallError("sync", err)
	}
	if err := f.rename(temporary, name); err != nil {
		return err
	}
	// Committed. What follows only makes the rename durable.
	if durable {
		return f.sync()
	}
	return nil
}

// writeAll writes the pieces, and has the disk begin before fsync(2) waits for it, which
// is faster from a few megabytes on.
func writeAll(fd int, pieces [][]byte, size int) error {
	const early = 4 << 20
	for written := 0; written < size; {
		batch, length := nextBatch(pieces, early)
		n, err := unix.Writev(fd, batch)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		if length == early {
			// Advice: one that is not taken fails nothing.
			_ = unix.SyncFileRange(fd, int64(written), int64(n), unix.SYNC_FILE_RANGE_WRITE)
		}
		written += n
		for n > 0 {
			k := min(n, len(pieces[0]))
			if n -= k; k == len(pieces[0]) {
				pieces = pieces[1:]
			} else {
				pieces[0] = pieces[0][k:]
			}
		}
	}
	return nil
}

// nextBatch is what writev(2) is to write next: no more than most bytes, nor pieces
// than it takes.
func nextBatch(pieces [][]byte, most int) (batch [][]byte, length int) {
	const pieceLimit = 1024 // UIO_MAXIOV
	for _, piece := range pieces {
		if len(batch) == pieceLimit || length == most {
			break
		}
		piece = piece[:min(len(piece), most-length)]
		batch, length = append(batch, piece), length+len(piece)
	}
	return batch, length
}

// temporaryName is where a new token file is written before it takes the old one's
// place. One writer at a time holds the lock, so one name is enough.
func temporaryName(name string) string { return "." + name + ".terok-gate-hook" }

// keepOwnerAndMode gives the file owner, group and mode of the old one. A new one
// is mode 0600 and belongs to the owner of its folder: the gate server's user, say,
// when root issues the first token.
func (f folder) keepOwnerAndMode(fd int, old *unix.Stat_t) error {
	var have unix.Stat_t
	if err := unix.Fstat(fd, &have); err != nil {
		return os.NewSyscallError("stat", err)
	}
	uid, gid, mode := have.Uid, have.Gid, uint32(0o600)
	if old != nil {
		uid, gid, mode = old.Uid, old.Gid, old.Mode&0o777
	} else {
		var folder unix.Stat_t
		if err := unix.Fstat(f.fd, &folder); err != nil {
			return os.NewSyscallError("stat", err)
		}
		uid = folder.Uid
	}
	if uid != have.Uid || gid != have.Gid {
		if err := mapped(uid, gid); err != nil {
			return err
		}
		if err := unix.Fchown(fd, int(uid), int(gid)); err != nil {
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
// A clock that was wrong once can have set the last time that the file system has. It
// is different that counts then: the time is now, whatever it was.
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

// setMtime is os.Chtimes by descriptor: under the name, the folder's owner may have
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
