// Reading a token file, and replacing it as a whole.

package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync/atomic"
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
	if size >= large {
		// Advice. To hand out this memory in pages of 4 KiB takes the kernel longer than to
		// read the file into it.
		_ = unix.Madvise(content, unix.MADV_HUGEPAGE)
	}
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

// draft is a new token file before it takes the old one's place, which it does if it is
// committed. Its file is made when there is something to write.
type draft struct {
	folder folder // whose lock is held
	name   string // of the token file
	file   int    // -1: there is none yet, or no longer
	spare  bool   // it may become the spare, if there is no space
	longer bool   // it is the spare, which is longer than what is written
	ahead  chan wroteAhead
	enough atomic.Bool // has been written ahead
}

// wroteAhead says how far the draft is a copy of the old content.
type wroteAhead struct {
	n   int
	err error
}

func (f folder) draft(name string) *draft { return &draft{folder: f, name: name, file: -1} }

// open makes the draft's file.
func (d *draft) open() (err error) {
	if d.file >= 0 {
		return nil
	}
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW
	temporary := temporaryName(d.name)
	d.file, err = openAt(d.folder.fd, temporary, flags, 0o600)
	if errors.Is(err, fs.ErrExist) {
		if err := d.folder.remove(temporary); err != nil {
			return fmt.Errorf("remove what a killed writer left: %w", err)
		}
		d.file, err = openAt(d.folder.fd, temporary, flags, 0o600)
	}
	return err
}

// large is the size from which on a file is written ahead. Pieces of this size go to the
// disk at once, before fsync(2) waits for it.
const large = 4 << 20

// writeAhead copies the old content while it is being edited, if that is worth it: most
// of the new content begins as the old one does.
func (d *draft) writeAhead(content []byte) {
	if len(content) < large || d.open() != nil { // commit will say why
		return
	}
	d.ahead = make(chan wroteAhead, 1)
	go func() {
		n := 0
		for n < len(content) && !d.enough.Load() {
			step := min(large, len(content)-n)
			if err := writeAt(d.file, [][]byte{content[n : n+step]}, n); err != nil {
				d.ahead <- wroteAhead{n, err}
				return
			}
			n += step
		}
		d.ahead <- wroteAhead{n, nil}
	}()
}

// stopAhead returns how much of the old content is written.
func (d *draft) stopAhead() (int, error) {
	if d.ahead == nil {
		return 0, nil
	}
	d.enough.Store(true)
	wrote := <-d.ahead
	d.ahead = nil
	return wrote.n, wrote.err
}

// commit makes the draft the token file, in the place of the old one. If it shall
// outlive a power cut, the folder is synced too.
func (d *draft) commit(old tokenFile, content [][]byte, durable bool) error {
	size := 0
	for _, piece := range content {
		size += len(piece)
	}
	if size > sizeLimit {
		// Once written, it could be read by nobody, and so not be mended either.
		return fmt.Errorf("would grow to more than %d bytes: revoke tokens first", sizeLimit)
	}
	err := d.fill(old, content, size)
	if d.spare && isFull(err) && d.takeSpare() == nil {
		err = d.fill(old, content, size)
	}
	if err != nil {
		return err
	}
	if err := d.folder.rename(temporaryName(d.name), d.name); err != nil {
		return err
	}
	// Committed. What follows only makes the rename durable, and the next one possible.
	unix.Close(d.file)
	d.file = -1
	d.folder.keepSpare(d.name, size)
	if durable {
		return d.folder.sync()
	}
	return nil
}

// fill gives the draft its content, and all else that the token file is to have.
func (d *draft) fill(old tokenFile, content [][]byte, size int) error {
	if err := d.open(); err != nil {
		return err
	}
	written, err := d.stopAhead()
	if err != nil {
		return err
	}
	same := min(written, sameBeginning(old.content, content))
	if err := writeAt(d.file, after(content, same), same); err != nil {
		return err
	}
	if written > size || d.longer {
		if err := unix.Ftruncate(d.file, int64(size)); err != nil {
			return os.NewSyscallError("truncate", err)
		}
	}
	if err := d.folder.keepOwnerAndMode(d.file, old.stat); err != nil {
		return err
	}
	if err := setNewMtime(d.file, old.stat); err != nil {
		return err
	}
	// Without it, a file system may keep the rename and not the content.
	if err := unix.Fsync(d.file); err != nil {
		return os.NewSyscallError("sync", err)
	}
	return nil
}

// close removes the draft's file if it was not committed.
func (d *draft) close() {
	_, _ = d.stopAhead()
	if d.file >= 0 {
		unix.Close(d.file)
		d.file = -1
		_ = d.folder.remove(temporaryName(d.name))
	}
}

// sameBeginning is how many bytes the pieces have in common with the old content. Most
// are parts of it, which are equal to themselves without a look.
func sameBeginning(old []byte, pieces [][]byte) int {
	n := 0
	for _, piece := range pieces {
		if n+len(piece) > len(old) || !bytes.Equal(piece, old[n:n+len(piece)]) {
			break
		}
		n += len(piece)
	}
	return n
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

// writeAt writes the pieces at an offset, and has the disk begin with large parts of them
// before fsync(2) waits for it.
func writeAt(fd int, pieces [][]byte, offset int) error {
	for {
		batch, length := nextBatch(pieces, large)
		if length == 0 {
			return nil
		}
		n, err := unix.Pwritev(fd, batch, int64(offset))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		if length == large {
			// Advice: one that is not taken fails nothing.
			_ = unix.SyncFileRange(fd, int64(offset), int64(n), unix.SYNC_FILE_RANGE_WRITE)
		}
		offset += n
		pieces = after(pieces, n)
	}
}

// nextBatch is what writev(2) is to write next: at most so many bytes, in no more pieces
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
// when root issues the first token. A group without rights is only kept where we may give
// files to it.
func (f folder) keepOwnerAndMode(fd int, old *unix.Stat_t) error {
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
	m, err := readSmall("/proc/self/uid_map")
	if err != nil {
		return false, fmt.Errorf("look for a user namespace: %w", err)
	}
	return strings.Join(strings.Fields(string(m)), " ") != "0 0 4294967295", nil
}

// isOverflowID tells whether the id is what the kernel shows for an unmapped one.
func isOverflowID(id uint32, kind string) bool {
	overflow, err := readSmall("/proc/sys/kernel/overflow" + kind)
	if err != nil {
		return id == 65534
	}
	return strings.TrimSpace(string(overflow)) == fmt.Sprint(id)
}
