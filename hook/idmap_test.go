package hook

import (
	"os"
	"strings"
	"testing"

	"terok-gate-hook/store"
)

func TestIDsOfAContainerAreTranslatedToOurUserNamespace(t *testing.T) {
	// Maps as they were seen in /proc/<pid>/uid_map.
	const (
		rootful = "         0     100000      65536\n"
		keepID  = "         0          1       1000\n      1000          0          1\n      1001       1001      64536\n"
		// The second range is not mapped into our user namespace.
		hidden = "         0          0          1\n         1 4294967295      65536\n"
		whole  = "         0          0 4294967295\n"
	)

	for _, row := range []struct {
		name, content string
		id            uint32
		ours          int // -1: not mapped
	}{
		{"rootful, root", rootful, 0, 100000},
		{"rootful, a user", rootful, 1234, 101234},
		{"rootful, the last", rootful, 65535, 165535},
		{"rootful, one too far", rootful, 65536, -1},
		{"keep-id, root", keepID, 0, 1},
		{"keep-id, the user", keepID, 1000, 0},
		{"keep-id, just before the user", keepID, 999, 1000},
		{"keep-id, just after the user", keepID, 1001, 1001},
		{"a range that is not mapped here", hidden, 1, -1},
		{"a mapped range beside one that is not", hidden, 0, 0},
		{"all ids", whole, 4294967294, 4294967294},
		{"the number that is not an id", whole, 4294967295, -1},
		{"an empty map", "", 0, -1},
	} {
		t.Run(row.name, func(t *testing.T) {
			m, err := parseIDMap(row.content)
			must(t, err)

			ours, err := m.ours(row.id)
			if row.ours < 0 {
				if err == nil {
					t.Errorf("id %d is %d", row.id, ours)
				}
				return
			}
			if err != nil || ours != row.ours {
				t.Errorf("id %d is %d, %v", row.id, ours, err)
			}
		})
	}
}

func TestWithoutAUserNamespaceIDsStayTheSame(t *testing.T) {
	process, err := store.Pin(os.Getpid())
	must(t, err)
	defer process.Close()
	ids, err := idsOf(process)
	must(t, err)
	for _, id := range []uint32{0, 1234, 4294967294} {
		uid, uidErr := ids.uid.ours(id)
		gid, gidErr := ids.gid.ours(id)
		if uidErr != nil || gidErr != nil || uid != int(id) || gid != int(id) {
			t.Errorf("%d is %d:%d, %v, %v", id, uid, gid, uidErr, gidErr)
		}
	}
}

func TestAMapOfAnotherFormIsAnError(t *testing.T) {
	if _, err := parseIDMap("0 100000 65536\n1 many 2\n"); err == nil || !strings.Contains(err.Error(), `"1 many 2\n"`) {
		t.Errorf("the error does not quote the line: %v", err)
	}
}
