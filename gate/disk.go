// Refuses pushes while the disk of the repositories, where the token file may be too, is nearly
// full.

package gate

import (
	"fmt"
	"net/http"

	"golang.org/x/sys/unix"
)

// mostFree is how much a large disk needs free by default, in bytes.
const mostFree = 1 << 30

// checkSpace returns an error if a repository's disk is nearly full. Pushes in progress go on,
// even if they fill the disk: tokens can be revoked on a full disk, too.
func (g *Gate) checkSpace(repo repository) error {
	var disk unix.Statfs_t
	if err := unix.Statfs(repo.path, &disk); err != nil {
		return fmt.Errorf("space on the disk of the repositories: %w", err)
	}
	if isNearlyFull(&disk, g.free) {
		return nearlyFull
	}
	return nil
}

var nearlyFull = &refusal{code: http.StatusInsufficientStorage, text: "the gate's disk is nearly full: no push is taken until there is space"}

// isNearlyFull reports whether a disk has fewer bytes free than it needs or, if its file system
// counts inodes, less than a twentieth of these free. If needs is 0, the default, the disk needs
// a twentieth of its size, 1 GiB at most. If needs is negative, no disk is nearly full.
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
