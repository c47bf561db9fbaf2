package doctor

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSubordinateIDsAreSharedWithNobody(t *testing.T) {
	for _, row := range []struct {
		uids, gids string
		want       uint64
	}{
		{"", "", 100000},
		{"alice:100000:65536\n", "", 165536},
		{"alice:100000:65536\nbob:165536:65536\n", "alice:100000:65536\n", 231072},
		{"alice:100000:65536\n", "podman:300000:1000\n", 301000},
		{"alice:1000:1\n# a comment\nbob:many:65536\n", "", 100000},
	} {
		dir := t.TempDir()
		uids, gids := filepath.Join(dir, "subuid"), filepath.Join(dir, "subgid")
		must(t, os.WriteFile(uids, []byte(row.uids), 0o644))
		if row.gids != "" {
			must(t, os.WriteFile(gids, []byte(row.gids), 0o644))
		}
		if got := firstFreeID(uids, gids); got != row.want {
			t.Errorf("the first free id after %q and %q is %d, not %d", row.uids, row.gids, got, row.want)
		}
	}
}
