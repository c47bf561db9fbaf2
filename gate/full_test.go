package gate_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/trail"
)

// A push must not fill the disk that the token file is on: git says why the push is refused, and
// fetching goes on.
func TestANearlyFullDiskRefusesPushes(t *testing.T) {
	h := open(t, gate.Settings{Free: 1 << 60})
	demo := h.demo(t, "demo", 1)
	token := h.issue(t, "demo")
	url := "http://" + token + ":@" + h.address + "/demo.git"
	work := filepath.Join(t.TempDir(), "work")
	git(t, ".", "clone", "--quiet", url, work)
	before := git(t, demo, "for-each-ref")
	out, err := exec.Command("git", "-C", work, "push", "origin", "HEAD:refs/heads/new").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "remote: the gate's disk is nearly full: no push is taken until there is space") || !strings.Contains(string(out), "507") {
		t.Errorf("git says %v: %s", err, out)
	}
	if after := git(t, demo, "for-each-ref"); after != before {
		t.Errorf("refs were %s and are %s", before, after)
	}
	h.trailed(t, trail.Refused, 1)
}
