// Refuses pushes while the repositories' disk is nearly full. The token file may be on that disk,
// and no token can be issued on a full disk.

package gate

import (
	"fmt"
	"net/http"

	"golang.org/x/sys/unix"
)

// mostFree is how many bytes must be free by default on a large disk.
const mostFree = 1 << 30

// checkSpace returns an error if a repository's disk is nearly full. It does not stop pushes in
// progress, even if they fill the disk, since tokens can be revoked on a full disk, too.
func (g *Gate) checkSpace(repo repository) error {
	var disk unix.Statfs_t
	if err := unix.Statfs(repo.path, &disk); err != nil {
		return fmt.Errorf("read the free space on the disk of the repositories: %w", err)
	}
	if isNearlyFull(&disk, g.free) {
		return nearlyFull
	}
	return nil
}

var nearlyFull = &refusal{code: http.StatusInsufficientStorage, text: "the gate's disk is nearly full: no push is taken until there is space"}

// isNearlyFull reports whether a disk has too little free space or too few free inodes. needs is
// how many bytes must be free. If needs is 0, a twentieth of the disk's size must be free, or 1 GiB
// if that is less. A twentieth of the disk's inodes must be free, too.
//
// If needs is negative, no disk is nearly full. A file system that does not count inodes has enough
// of them.
func isNearlyFull(disk *unix.Statfs_t, needs int64) bool {
	if needs < 0 {
		return false
	}
	block := uint64(disk.Bsize)
	if needs == 0 {
		needs = int64(min(disk.Blocks*block/20, mostFree))
	}
	return disk.Bavail*block < uint64(needs) || disk.Ffree < disk.Files/20
}
