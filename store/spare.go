// Space for the next token file, so that a token can be revoked when the disk is full.
//
// Beside the token file lies a spare, a file without content whose blocks are allocated.
// Where a new token file finds no space, the spare becomes the temporary file: it is
// written in place, and renamed into the token file's place as any. A change that takes
// tokens out always fits into it.
//
// What is not promised: that it works on a file system that allocates anew for what is
// written in place, or twice in a row, while something takes every block that gets free.

package store

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// spareName is the spare's name beside a token file.
func spareName(name string) string { return "." + name + ".spare" }

// isFull reports whether an error says that there is no space.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// takeSpare makes the spare the temporary file, for this much content. What it is longer it
// loses here: the blocks that it keeps stay allocated.
//
// In a directory of somebody else's, anything may stand in its place: it is written to only
// if it has no other name and nobody else could have opened it.
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
		err = errors.New("what stands in the spare file's place is none")
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

// keepSpare makes sure that there is a spare for a token file of this size, whose owner can
// use it too. It is not needed for this change, so what fails here fails nothing.
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
	// First, since one of another owner's is of no use and one without blocks is made again:
	// this may be the last that a killed writer does.
	if int(owned.Uid) != unix.Geteuid() {
		err = unix.Fchown(fd, int(owned.Uid), -1)
	}
	if err == nil {
		const some = 64 << 10 // for a while of growing
		if err = allocate(fd, size+size/4+some); isFull(err) {
			err = allocate(fd, size)
		}
	}
	if err != nil {
		_ = f.remove(spare)
	}
}

// allocate makes a file this large, with blocks for all of it (fallocate(2)), or of zeroes
// where the file system cannot do that.
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
