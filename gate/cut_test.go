package gate_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"terok-gate-hook/gate"
	"terok-gate-hook/hook"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

// gigabyte makes a bare repository whose main has a GiB that cannot be compressed. quarter makes
// one with a quarter of that, for transfers that are to end by themselves. Each repository is made
// once, and used through objects/info/alternates.
var gigabyte, quarter = sync.OnceValues(largeRepository(1024)), sync.OnceValues(largeRepository(256))

func largeRepository(files int) func() (string, error) {
	return func() (string, error) {
		dir, err := os.MkdirTemp(ours, "")
		if err != nil {
			return "", err
		}
		if out, err := command(dir, "init", "--quiet", "--bare", "--initial-branch=main", dir).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
		return dir, makeLarge(dir, files)
	}
}

// borrow has a repository use the objects of gigabyte, and returns the tip of gigabyte's main.
func borrow(t *testing.T, repo string) (tip string) {
	t.Helper()
	return borrowFrom(t, repo, gigabyte)
}

func borrowFrom(t *testing.T, repo string, large func() (string, error)) (tip string) {
	t.Helper()
	from, err := large()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(repo, "objects/info/alternates"), []byte(from+"/objects\n"), 0o644))
	// git sends the objects as they are, and spends no time on what cannot get smaller.
	must(t, os.WriteFile(filepath.Join(repo, "info/attributes"), []byte("* -delta\n"), 0o644))
	git(t, repo, "config", "pack.compression", "0")
	return git(t, from, "rev-parse", "main")
}

// ways are the ways in which a request that is under way is cut.
var ways = map[string]struct {
	end    func(t *testing.T, h *harness, container *exec.Cmd)
	says   string // what the trail says
	byHand bool   // the token is tied to no process
}{
	"its token is revoked": {
		func(t *testing.T, h *harness, _ *exec.Cmd) { h.revoke(t, "demo") },
		"the token was revoked", false,
	},
	"the container's poststop hook runs": {
		func(t *testing.T, h *harness, _ *exec.Cmd) {
			_, err := hook.Settings{Tokens: h.tokens, EnvDir: h.dir}.Poststop(strings.NewReader(`{"id": "c1"}`))
			must(t, err)
		},
		"the token was revoked", true,
	},
	"its process dies and its entry stays": {
		func(t *testing.T, _ *harness, container *exec.Cmd) { must(t, container.Process.Kill()) },
		"the token's process has ended", false,
	},
	"the gate stops": {
		func(_ *testing.T, h *harness, _ *exec.Cmd) {
			now, cancel := context.WithCancel(context.Background())
			cancel()
			go h.Stop(now)
		},
		"the gate is stopping", false,
	},
}

// tied issues a token for demo that lives as long as a process.
func (h *harness) tied(t *testing.T) (token string, container *exec.Cmd) {
	t.Helper()
	container = exec.Command("sleep", "1000")
	must(t, container.Start())
	t.Cleanup(func() {
		_ = container.Process.Kill()
		_ = container.Wait()
	})
	process, err := store.ProcessOf(container.Process.Pid)
	must(t, err)
	return h.issueTo(t, process), container
}

// issueTo issues a token for demo to container c1.
func (h *harness) issueTo(t *testing.T, process *store.Process) (token string) {
	t.Helper()
	drawn, err := store.NewToken()
	must(t, err)
	_, err = h.tokens.Issue(store.Entry{
		Token: drawn, Grant: store.Grant{Project: "demo", Task: "task-1"}, Container: "c1", Process: process,
	})
	must(t, err)
	return string(drawn)
}

// cutShort starts a client. When far reports that the transfer has come far enough, cutShort calls
// end, and returns how long the gate's git then takes to end. It does not wait for the client: in a
// push, the client's git still reads objects that it cannot send any more.
func cutShort(t *testing.T, h *harness, client *exec.Cmd, far func() bool, end func()) (took time.Duration) {
	t.Helper()
	must(t, client.Start())
	testenv.Eventually(t, "it is under way", far)
	began := time.Now()
	end()
	testenv.Eventually(t, "git has ended", func() bool { return len(processesIn(h.repos)) == 0 })
	took = time.Since(began)
	t.Logf("git had ended after %v", took.Round(time.Millisecond))
	t.Cleanup(func() {
		killTree(client.Process.Pid)
		_ = client.Wait()
	})
	return took
}

// inEveryWay tries a transfer that is cut, in each of the ways. The transfer must end within the
// time that the gate promises. On a busy machine, inEveryWay tries it again for a while.
func inEveryWay(t *testing.T, try func(t *testing.T, h *harness, token, says string, end func()) (took time.Duration)) {
	const promised = 100 * time.Millisecond
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			best := testenv.AWhile
			for began := time.Now(); best > promised; {
				t.Run("", func(t *testing.T) {
					h := open(t, gate.Settings{})
					token, container := h.tied(t)

					if way.byHand {
						h.revoke(t, "demo")
						token = h.issueTo(t, nil)
					}
					best = min(best, try(t, h, token, way.says, func() { way.end(t, h, container) }))
				})

				if t.Failed() {
					return
				}
				if best > promised && time.Since(began) > testenv.AWhile {
					t.Fatalf("the cut takes %v at best", best)
				}
			}
		})
	}
}

func sizeOf(pattern string) (size int64) {
	for _, path := range glob(pattern) {
		if info, err := os.Stat(path); err == nil {
			size += info.Size()
		}
	}
	return size
}

func TestACloneOfAGigabyteIsCut(t *testing.T) {
	inEveryWay(t, func(t *testing.T, h *harness, token, says string, end func()) time.Duration {
		demo := h.bare(t, "demo")
		git(t, demo, "update-ref", "refs/heads/main", borrow(t, demo))
		clone := command(h.dir, "clone", "--quiet", "--bare", h.url(token, "demo"), "clone")
		took := cutShort(t, h, clone, func() bool {
			return sizeOf(h.dir+"/clone/objects/pack/tmp_pack_*") > 10<<20
		}, end)
		if clone.Wait() == nil {
			t.Error("the client takes a part of the pack for the whole")
		}
		if event := h.trailed(t, trail.Cut, 1)[0]; event.Error != says || event.Container != "c1" || event.Bytes < 10<<20 {
			t.Errorf("the trail has %+v", event)
		}
		return took
	})
}

func TestAPushOfAGigabyteIsCutAndMovesNothing(t *testing.T) {
	inEveryWay(t, func(t *testing.T, h *harness, token, says string, end func()) time.Duration {
		demo := h.demo(t, "demo", 1)
		before := git(t, demo, "for-each-ref")
		work := filepath.Join(h.dir, "work.git")
		git(t, h.dir, "init", "--quiet", "--bare", work)
		git(t, work, "update-ref", "refs/heads/main", borrow(t, work))

		push := command(work, "push", "--quiet", "--force", h.url(token, "demo"), "main", "main:side")
		took := cutShort(t, h, push, func() bool {
			return sizeOf(demo+"/objects/tmp_objdir-incoming-*/pack/tmp_pack_*") > 10<<20
		}, end)

		event := h.trailed(t, trail.Cut, 1)[0]
		if event.Error != says || event.Refs != 0 || event.Bytes < 10<<20 {
			t.Errorf("the trail has %+v", event)
		}
		if after := git(t, demo, "for-each-ref"); after != before {
			t.Errorf("the refs were %s and are %s", before, after)
		}
		if left := glob(demo + "/objects/*tmp_*"); len(left) > 0 {
			t.Errorf("left behind: %s", left)
		}
		return took
	})
}

func TestAClientThatGoesAwayLeavesNothing(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.bare(t, "demo")
	git(t, demo, "update-ref", "refs/heads/main", borrow(t, demo))
	work := filepath.Join(h.dir, "work.git")
	git(t, h.dir, "init", "--quiet", "--bare", work)
	git(t, work, "update-ref", "refs/heads/main", borrow(t, work))
	h.bare(t, "empty")

	clone := command(h.dir, "clone", "--quiet", "--bare", h.url(h.issue(t, "demo"), "demo"), "clone")
	leave := func(cmd *exec.Cmd) func() {
		return func() { killTree(cmd.Process.Pid) }
	}
	cutShort(t, h, clone, func() bool { return sizeOf(h.dir+"/clone/objects/pack/tmp_pack_*") > 10<<20 }, leave(clone))
	push := command(work, "push", "--quiet", h.url(h.issue(t, "empty"), "empty"), "main")
	cutShort(t, h, push, func() bool {
		return sizeOf(h.repos+"/empty.git/objects/tmp_objdir-incoming-*/pack/tmp_pack_*") > 10<<20
	}, leave(push))
	for _, event := range h.trailed(t, trail.Cut, 2) {
		if event.Error != "the client went away" {
			t.Errorf("the trail has %+v", event)
		}
	}
}

// killTree kills a process that we started, with those that it started.
func killTree(pid int) {
	for _, one := range append(childrenOf(pid), pid) {
		_ = syscall.Kill(one, syscall.SIGKILL)
	}
}

func TestATokenThatIsRevokedBeforeGitAsksMovesNothing(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	work := filepath.Join(h.dir, "work")
	git(t, h.dir, "clone", "--quiet", demo, work)
	git(t, work, "commit", "--quiet", "--allow-empty", "-m", "one")

	// The program in the hook's place revokes the token, as can happen at that moment, and
	// then asks as the hook does.
	hook := filepath.Join(h.repos, ".hooks", "pre-receive")
	must(t, os.Remove(hook))
	must(t, os.WriteFile(hook, []byte("#!/bin/bash\nmv "+h.tokens.Path+".none "+h.tokens.Path+`
echo ask >&3
read -r answer <&3
[ "$answer" = yes ]
`), 0o755))

	for i := range 10 { // the cut may come before git asks
		url := h.url(h.issue(t, "demo"), "demo")
		must(t, os.WriteFile(h.tokens.Path+".none", []byte("{}"), 0o600))
		gitFails(t, work, "push", url, "main")
		if event := h.trailed(t, trail.Cut, i+1)[i]; event.Refs != 0 || event.Error != "the token was revoked" {
			t.Errorf("the trail has %+v", event)
		}
		if git(t, demo, "rev-parse", "main") == git(t, work, "rev-parse", "main") {
			t.Fatal("main has moved")
		}
	}
}

// The answer to a refused push of many refs is long. It ends when its client hangs up, and when the
// request is cut.
func TestALongRefusalEnds(t *testing.T) {
	var commands []string
	for i := range 900 {
		commands = append(commands, fmt.Sprintf("%s %040d refs/heads/%04000d", noObject, 1, i))
	}

	for _, capabilities := range []string{"report-status", "report-status side-band-64k"} {
		for end, row := range map[string]struct {
			end func(h *harness, conn net.Conn)
			err string
		}{
			"its client hangs up": {func(_ *harness, conn net.Conn) { conn.Close() }, "the client went away"},
			"it is cut":           {func(h *harness, _ net.Conn) { h.revoke(t, "demo") }, store.ErrRevoked.Error()},
		} {
			t.Run(capabilities+", "+end, func(t *testing.T) {
				h := open(t, gate.Settings{})
				h.demo(t, "demo", 1)
				h.put(t, limitedToken, `{"limited": {"project": "demo", "access": "write", "push": [["refs/heads/agent/**"]]}, "task": "1"}`)

				conn := h.dial(t, "")
				must(t, conn.(*net.TCPConn).SetReadBuffer(4<<10))
				_, err := io.WriteString(conn, pushRequest(limitedToken, capabilities, commands...))
				must(t, err)
				_, err = conn.Read(make([]byte, 1)) // it is being answered
				must(t, err)

				row.end(h, conn)
				if e := h.trailed(t, trail.Cut, 1)[0]; e.Error != row.err {
					t.Errorf("the trail has %+v", e)
				}
			})
		}
	}
}

func TestHooksThatAreGoneAreMadeAgain(t *testing.T) {
	log := logged(t)
	h := open(t, gate.Settings{})
	h.demo(t, "demo", 1)
	work := filepath.Join(h.dir, "work")
	git(t, h.dir, "clone", "--quiet", h.url(h.issue(t, "demo"), "demo"), work)
	must(t, os.RemoveAll(filepath.Join(h.repos, ".hooks")))
	git(t, work, "push", "--quiet", "origin", "main:one")
	h.trailed(t, trail.Moved, 1) // a hook said so
	if !strings.Contains(log.String(), "hooks were deleted: making them again") {
		t.Errorf("the log says %s", log)
	}
}
