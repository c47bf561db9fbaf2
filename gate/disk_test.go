package gate

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestADiskIsNearlyFullBelowItsLimit(t *testing.T) {
	const mib = 1 << 20
	for name, row := range map[string]struct {
		total, free   uint64 // MiB
		files, unused uint64
		needs         int64
		want          bool
	}{
		"a small one, 6 % free":           {100, 6, 1000, 900, 0, false},
		"a small one, 4 % free":           {100, 4, 1000, 900, 0, true},
		"a large one, 2 GiB free":         {4 << 20, 2048, 1000, 900, 0, false},
		"a large one, less than 1 GiB":    {4 << 20, 1023, 1000, 900, 0, true},
		"one that needs 10 MiB and has":   {4 << 20, 10, 1000, 900, 10 * mib, false},
		"one that needs 10 MiB and not":   {4 << 20, 9, 1000, 900, 10 * mib, true},
		"one that needs nothing":          {100, 0, 1000, 0, -1, false},
		"no inodes":                       {100, 50, 1000, 49, 0, true},
		"a file system without inodes":    {100, 50, 0, 0, 0, false},
		"as much as it has blocks for":    {100, 100, 1000, 1000, 101 * mib, true},
		"more than it needs, for root":    {100, 5, 1000, 50, 0, false},
		"no block at all, an empty proc":  {0, 0, 0, 0, 0, false},
		"needs something, an empty proc":  {0, 0, 0, 0, 1, true},
		"more inodes used than it counts": {100, 50, 10, 0, 0, false},
	} {
		disk := unix.Statfs_t{Bsize: mib, Blocks: row.total, Bavail: row.free, Files: row.files, Ffree: row.unused}
		if got := isNearlyFull(&disk, row.needs); got != row.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
