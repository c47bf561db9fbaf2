package gate_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
)

func TestObjectsOfManyPushesArePacked(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	git(t, demo, "config", "gc.auto", "1")
	h.pushMany(t, h.url(h.issue(t, "demo"), "demo"), demo)
	h.becomesPacked(t, demo)
}

// Guards against: the objects of a project that containers only read are never packed, since a sync
// does not make the gate pack them.
func TestObjectsOfManySyncsArePacked(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	h.pushMany(t, demo, demo) // by path
	git(t, demo, "config", "gc.auto", "1")

	h.again(t, gate.Settings{})
	h.becomesPacked(t, demo)
}

// pushMany pushes so many objects to the repository demo that git gc packs them. Until then, each
// object is a file of its own there.
func (h *harness) pushMany(t *testing.T, address, demo string) {
	t.Helper()
	git(t, h.dir, "clone", "--quiet", address, "work")
	work := filepath.Join(h.dir, "work")
	// git gc estimates the number of objects from one of the 256 directories. Of so many objects,
	// some are in that one.
	for i := range 600 {
		must(t, os.WriteFile(filepath.Join(work, fmt.Sprint("many-", i)), []byte(fmt.Sprint(i)), 0o644))
	}
	git(t, work, "add", ".")
	git(t, work, "commit", "--quiet", "-m", "many")
	git(t, demo, "config", "receive.unpackLimit", "10000")
	git(t, work, "push", "--quiet", "origin", "main")
}

func (h *harness) becomesPacked(t *testing.T, demo string) {
	t.Helper()
	testenv.Eventually(t, "git gc has packed them", func() bool {
		return len(glob(demo+"/objects/[0-9a-f][0-9a-f]/*")) == 0 && len(processesIn(h.repos)) == 0
	})
}
