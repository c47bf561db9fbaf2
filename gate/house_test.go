package gate_test

import (
	"context"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
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

func TestARepositoryOfAnotherOwner(t *testing.T) {
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

// A repository's own hooks are programs of whoever made it, perhaps elsewhere.
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
	h.trailed(t, trail.Moved, 1) // ours do
	if text, err := readFile(ran); err == nil {
		t.Errorf("these ran: %s", text)
	}
}

func TestWhatManyPushesLeaveIsPacked(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	git(t, demo, "config", "gc.auto", "1")
	url := h.url(h.issue(t, "demo"), "demo")
	git(t, h.dir, "clone", "--quiet", url, "work")
	work := filepath.Join(h.dir, "work")
	// git guesses from one folder of 256: enough objects for one to be there.
	for i := range 600 {
		must(t, os.WriteFile(filepath.Join(work, fmt.Sprint("many-", i)), []byte(fmt.Sprint(i)), 0o644))
	}
	git(t, work, "add", ".")
	git(t, work, "commit", "--quiet", "-m", "many")
	git(t, demo, "config", "receive.unpackLimit", "10000")
	git(t, work, "push", "--quiet", "origin", "main")
	testenv.Eventually(t, "git gc has packed them", func() bool {
		return len(glob(demo+"/objects/[0-9a-f][0-9a-f]/*")) == 0 && len(processesIn(h.repos)) == 0
	})
}

func TestTheGateFindsOutWhatAPushMovedThatWasCutTooLate(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	token := h.issue(t, "demo")
	git(t, h.dir, "clone", "--quiet", h.url(token, "demo"), "work")
	work := filepath.Join(h.dir, "work")
	git(t, work, "commit", "--quiet", "--allow-empty", "-m", "one")
	// A post-receive that waits: git has moved the refs by then, and nobody has told.
	hook := filepath.Join(h.repos, ".hooks", "post-receive")
	must(t, os.Remove(hook))
	must(t, os.WriteFile(hook, []byte("#!/bin/sh\nsleep 1000\n"), 0o755))
	push := command(work, "push", "origin", "main", "main:side")
	cutShort(t, h, push, func() bool {
		return strings.Contains(git(t, demo, "for-each-ref"), "refs/heads/side")
	}, func() { h.revoke(t, "demo") })
	if event := h.trailed(t, trail.Cut, 1)[0]; event.Refs != 2 {
		t.Errorf("the trail has %+v", event)
	}
	if moved := h.trailed(t, trail.Moved, 2); moved[0].Ref != "refs/heads/main" || moved[1].Ref != "refs/heads/side" || moved[1].New != git(t, work, "rev-parse", "main") {
		t.Errorf("the trail has %+v", moved)
	}
}

func TestAGateThatStopsLetsFinishWhatIsUnderWay(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	git(t, h.dir, "clone", "--quiet", h.url(h.issue(t, "demo"), "demo"), "work")
	work := filepath.Join(h.dir, "work")
	gone := filepath.Join(h.dir, "go-on")
	hook := filepath.Join(h.repos, ".hooks", "pre-receive")
	real, err := os.Readlink(hook)
	must(t, err)
	must(t, os.Remove(hook))
	must(t, os.WriteFile(hook, fmt.Appendf(nil, "#!/bin/bash\nuntil [ -e %s ]; do sleep 0.01; done\nexec -a pre-receive %s\n", gone, real), 0o755))
	push := command(work, "push", "origin", "main:side")
	must(t, push.Start())
	testenv.Eventually(t, "the push waits", func() bool {
		return strings.Contains(strings.Join(processesIn(h.repos), "\n"), "pre-receive")
	})
	stopped := make(chan struct{})
	go func() {
		h.Stop(context.Background())
		close(stopped)
	}()
	testenv.Eventually(t, "it takes no new connections", func() bool {
		conn, err := net.Dial("tcp", h.address)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	must(t, os.WriteFile(gone, nil, 0o644))
	if err := push.Wait(); err != nil {
		t.Errorf("the push: %v", err)
	}
	<-stopped
	if git(t, demo, "for-each-ref", "refs/heads/side") == "" {
		t.Error("nothing has moved")
	}
}

func TestTheFigures(t *testing.T) {
	h := open(t, gate.Settings{})
	h.demo(t, "demo", 1)
	token := h.issue(t, "demo")
	git(t, h.dir, "clone", "--quiet", h.url(token, "demo"), "work")
	git(t, filepath.Join(h.dir, "work"), "push", "--quiet", "origin", "main:side")
	h.request(t, "GET", "/demo.git/info/refs?service=git-upload-pack", "wrong", "")
	h.trailed(t, trail.Refused, 1)
	scrape := httptest.NewRecorder()
	h.Metrics().ServeHTTP(scrape, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range []string{
		`terok_gate_requests_total{code="403"} 1`,
		`terok_gate_requests_total{code="200"} `,
		`terok_gate_requests_under_way 0`,
		`terok_gate_bytes_total{service="git-upload-pack"} `,
		`terok_gate_bytes_total{service="git-receive-pack"} `,
		`terok_gate_cuts_total 0`,
		`terok_gate_refusals_total 1`,
		`terok_gate_tokens 1`,
		`terok_gate_listeners 1`,
		`terok_gate_token_file_age_seconds `,
	} {
		if !strings.Contains(scrape.Body.String(), line) {
			t.Errorf("no %s in\n%s", line, scrape.Body)
		}
	}
}
