package gate_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

func TestTheTrailSaysWhoMovedWhatFromWhereToWhere(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 2)
	token, _ := h.tied(t)
	git(t, h.dir, "clone", "--quiet", h.url(token, "demo"), "work")
	work := filepath.Join(h.dir, "work")
	before := git(t, demo, "rev-parse", "main")
	git(t, work, "commit", "--quiet", "--allow-empty", "-m", "one")
	git(t, work, "push", "--quiet", "origin", "main", "main:side")
	git(t, work, "push", "--quiet", "origin", ":side")
	after := git(t, demo, "rev-parse", "main")

	who := trail.Event{Container: "c1", Project: "demo", Task: "task-1", Fingerprint: store.Token(token).Fingerprint()}
	check := func(e, want trail.Event) {
		t.Helper()
		want.Container, want.Project, want.Task, want.Fingerprint = who.Container, who.Project, who.Task, who.Fingerprint
		if !strings.HasPrefix(e.From, "127.0.0.1:") {
			t.Errorf("from %q", e.From)
		}
		want.From, want.Bytes, want.Duration = e.From, e.Bytes, e.Duration
		if e != want {
			t.Errorf("the trail has\n%+v, not\n%+v", e, want)
		}
	}
	check(h.trailed(t, trail.Fetch, 1)[0], trail.Event{Event: trail.Fetch})
	pushes := h.trailed(t, trail.Push, 2)
	check(pushes[0], trail.Event{Event: trail.Push, Refs: 2})
	check(pushes[1], trail.Event{Event: trail.Push, Refs: 1})
	zero := strings.Repeat("0", 40)
	moved := h.trailed(t, trail.Moved, 3)
	check(moved[0], trail.Event{Event: trail.Moved, Ref: "refs/heads/main", Old: before, New: after})
	check(moved[1], trail.Event{Event: trail.Moved, Ref: "refs/heads/side", Old: zero, New: after})
	check(moved[2], trail.Event{Event: trail.Moved, Ref: "refs/heads/side", Old: after, New: zero})
}

func TestTheGateFindsOutWhatAPushMovedThatWasCutTooLate(t *testing.T) {
	for name, others := range map[string]int{"a few refs": 0, "more than a push can name": 150_000} {
		t.Run(name, func(t *testing.T) { findOut(t, others) })
	}
}

func findOut(t *testing.T, others int) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	token := h.issue(t, "demo")
	git(t, h.dir, "clone", "--quiet", h.url(token, "demo"), "work")
	work := filepath.Join(h.dir, "work")
	git(t, work, "commit", "--quiet", "--allow-empty", "-m", "one")
	tip := git(t, demo, "rev-parse", "main")
	packed := []byte("# pack-refs with: peeled fully-peeled sorted \n")
	for i := range others {
		packed = fmt.Appendf(packed, "%s refs/tags/%080d\n", tip, i)
	}
	must(t, os.WriteFile(filepath.Join(demo, "packed-refs"), packed, 0o644))
	// A post-receive that waits: git has moved the refs by then, and nobody has told.
	hook := filepath.Join(h.repos, ".hooks", "post-receive")
	must(t, os.Remove(hook))
	must(t, os.WriteFile(hook, []byte("#!/bin/sh\nsleep 1000\n"), 0o755))
	push := command(work, "push", "origin", "main", "main:side")
	cutShort(t, h, push, func() bool {
		return git(t, demo, "for-each-ref", "refs/heads/side") != ""
	}, func() { h.revoke(t, "demo") })
	if event := h.trailed(t, trail.Cut, 1)[0]; event.Refs != 2 {
		t.Errorf("the trail has %+v", event)
	}
	if moved := h.trailed(t, trail.Moved, 2); moved[0].Ref != "refs/heads/main" || moved[1].Ref != "refs/heads/side" || moved[1].New != git(t, work, "rev-parse", "main") {
		t.Errorf("the trail has %+v", moved)
	}
}
