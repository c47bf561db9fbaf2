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
		"a small disk, 6 % free":                   {100, 6, 1000, 900, 0, false},
		"a small disk, 4 % free":                   {100, 4, 1000, 900, 0, true},
		"a large disk, 2 GiB free":                 {4 << 20, 2048, 1000, 900, 0, false},
		"a large disk, less than 1 GiB free":       {4 << 20, 1023, 1000, 900, 0, true},
		"10 MiB are needed, 10 MiB are free":       {4 << 20, 10, 1000, 900, 10 * mib, false},
		"10 MiB are needed, 9 MiB are free":        {4 << 20, 9, 1000, 900, 10 * mib, true},
		"nothing is needed":                        {100, 0, 1000, 0, -1, false},
		"too few free inodes":                      {100, 50, 1000, 49, 0, true},
		"a file system that does not count inodes": {100, 50, 0, 0, 0, false},
		"more is needed than the disk has":         {100, 100, 1000, 1000, 101 * mib, true},
		"exactly a twentieth is free":              {100, 5, 1000, 50, 0, false},
		"no blocks at all, as in proc":             {0, 0, 0, 0, 0, false},
		"no blocks at all, one byte is needed":     {0, 0, 0, 0, 1, true},
		"fewer than 20 inodes, none of them free":  {100, 50, 10, 0, 0, false},
	} {
		disk := unix.Statfs_t{Bsize: mib, Blocks: row.total, Bavail: row.free, Files: row.files, Ffree: row.unused}
		if got := isNearlyFull(&disk, row.needs); got != row.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
