// Reserves space for the next token file, so that a token can be revoked when the disk is full.
//
// Beside the token file is a spare, a file of zeroes whose blocks are allocated. If there is no
// space for a new temporary file, the spare becomes the temporary file: it is overwritten in place,
// and then renamed to the token file like any other temporary file. A change that only revokes
// tokens always fits into the spare.
//
// This does not work on a file system that allocates new blocks for writes in place. It may not
// work twice in a row if another program takes every block that becomes free.

package store

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// spareName returns the name of the spare beside a token file.
func spareName(name string) string { return "." + name + ".spare" }

// isFull reports whether the disk, or the owner's quota, is full.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// takeSpare renames the spare to the temporary file, for content of this size, and returns it open
// for writing. If the spare is longer, takeSpare truncates it; the blocks that remain stay
// allocated.
//
// In another user's directory, any file may be in the spare's place. takeSpare returns an error if
// the file has a second name (a hard link), or if its mode or owner shows that another user could
// have opened it.
func (f directory) takeSpare(name string, size int) (fd int, err error) {
	spare := spareName(name)
	fd, stat, err := f.openRegular(spare, unix.O_WRONLY)
	if err != nil {
		return -1, err
	}

	owned, err := f.stat(name)
	switch {
	case err != nil:
	case stat.Nlink != 1 || stat.Mode&0o077 != 0 || stat.Uid != owned.Uid && int(stat.Uid) != unix.Geteuid():
		err = errors.New("the spare file is not one of ours")
	case stat.Size > int64(size):
		err = os.NewSyscallError("truncate", unix.Ftruncate(fd, int64(size)))
	}
	if err == nil {
		err = f.rename(spare, temporaryName(name))
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// keepSpare makes sure that there is a spare for a token file of this size. It gives a new spare to
// the token file's owner, who may need it, too. It ignores errors, since only later changes need
// the spare.
func (f directory) keepSpare(name string, size int) {
	spare := spareName(name)
	there, err := f.stat(spare)
	if err == nil && there.Mode&unix.S_IFMT == unix.S_IFREG && there.Size >= int64(size) {
		return
	}
	owned, err := f.stat(name)
	if err != nil || mapped(owned.Uid, owned.Gid) != nil {
		return
	}

	_ = f.remove(spare)
	fd, err := openAt(f.fd, spare, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	defer unix.Close(fd)

	// The owner is set before the blocks are allocated, in case this writer is killed in between.
	// The next writer replaces a spare that is too short, but keeps one that the owner of the token
	// file cannot open.
	if int(owned.Uid) != unix.Geteuid() {
		err = unix.Fchown(fd, int(owned.Uid), -1)
	}
	if err == nil {
		const extra = 64 << 10 // for growth
		if err = allocate(fd, size+size/4+extra); isFull(err) {
			err = allocate(fd, size)
		}
	}
	if err != nil {
		_ = f.remove(spare)
	}
}

// allocate grows a file to this size with allocated blocks (fallocate(2)). If the file system
// cannot do that, it writes zeroes.
func allocate(fd, size int) error {
	for {
		err := unix.Fallocate(fd, 0, 0, int64(size))
		if errors.Is(err, unix.EOPNOTSUPP) {
			return writeAll(fd, [][]byte{make([]byte, size)})
		}
		if err != unix.EINTR {
			return err
		}
	}
}
