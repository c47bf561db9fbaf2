package gate_test

import (
	"os"
	"path/filepath"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
)

func TestARepositoryOfAnotherOwnerIsServed(t *testing.T) {
	testenv.NeedRoot(t)
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	must(t, filepath.WalkDir(demo, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			err = os.Lchown(path, 12345, 12345)
		}
		return err
	}))
	git(t, h.dir, "clone", "--quiet", h.url(h.issue(t, "demo"), "demo"), "work")
	git(t, filepath.Join(h.dir, "work"), "push", "--quiet", "origin", "main:side")
}

// A repository's own hooks are programs from its owner, or were copied together with it.
func TestHooksOfARepositoryDoNotRun(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	ran := filepath.Join(h.dir, "ran")
	for _, hook := range []string{"pre-receive", "update", "post-receive", "post-update", "reference-transaction"} {
		must(t, os.WriteFile(filepath.Join(demo, "hooks", hook), []byte("#!/bin/sh\necho "+hook+" >>"+ran+"\n"), 0o755))
	}
	git(t, demo, "config", "core.hooksPath", demo+"/hooks")
	git(t, demo, "config", "hook.mine.event", "pre-receive")
	git(t, demo, "config", "hook.mine.command", "echo configured >>"+ran)
	git(t, h.dir, "clone", "--quiet", h.url(h.issue(t, "demo"), "demo"), "work")
	git(t, filepath.Join(h.dir, "work"), "push", "--quiet", "origin", "main:side")
	h.trailed(t, trail.Moved, 1) // the gate's hooks do run
	if text, err := readFile(ran); err == nil {
		t.Errorf("these ran: %s", text)
	}
}
