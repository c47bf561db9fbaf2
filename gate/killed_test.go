package gate_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
)

// A gate that is killed cleans nothing up: its git ends by itself, and the next gate
// removes what is left.
func TestAKilledGateLeavesNothing(t *testing.T) {
	h := open(t, gate.Settings{}) // for its directory
	stopNow(h.Gate)
	demo := h.bare(t, "demo")
	git(t, demo, "update-ref", "refs/heads/main", borrow(t, demo))
	work := filepath.Join(h.dir, "work.git")
	git(t, h.dir, "init", "--quiet", "--bare", work)
	git(t, work, "update-ref", "refs/heads/main", borrow(t, work))
	empty := h.bare(t, "empty")

	killed := startGate(t, h)
	clients := []*exec.Cmd{
		command(h.dir, "clone", "--quiet", "--bare", h.url(h.issue(t, "demo"), "demo"), "clone"),
		command(work, "push", "--quiet", h.url(h.issue(t, "empty"), "empty"), "main"),
	}
	for _, client := range clients {
		must(t, client.Start())
		t.Cleanup(func() {
			killTree(client.Process.Pid)
			_ = client.Wait()
		})
	}
	quarantine := empty + "/objects/tmp_objdir-incoming-*"
	testenv.Eventually(t, "clone and push are under way", func() bool {
		return sizeOf(h.dir+"/clone/objects/pack/tmp_pack_*") > 10<<20 && sizeOf(quarantine+"/pack/tmp_pack_*") > 10<<20
	})
	must(t, killed.Process.Kill())
	_ = killed.Wait()
	testenv.Eventually(t, "git has ended", func() bool { return len(processesIn(h.repos)) == 0 })

	// Git may clean up after itself, but not after a push that is cut because the machine crashes.
	must(t, os.MkdirAll(strings.Replace(quarantine, "*", "abc123/pack", 1), 0o755))
	h.again(t, gate.Settings{})
	if left := glob(quarantine); len(left) > 0 {
		t.Errorf("left behind: %s", left)
	}
	if refs := git(t, empty, "for-each-ref"); refs != "" {
		t.Errorf("the push moved %s", refs)
	}
}

// startGate starts terok-gate over the harness's directory, as a process of its own. It can be
// killed, and its memory is not that of the tests.
func startGate(t *testing.T, h *harness) *exec.Cmd {
	t.Helper()
	program, err := terokGate()
	must(t, err)
	socket, address, err := testenv.ListenForClients()
	must(t, err)
	defer socket.Close()

	cmd := testenv.ServiceCommand([]*os.File{socket}, program,
		"--token-file", h.tokens.Path, "--log-file", filepath.Join(h.dir, "killed.log"), "serve", "--repos", h.repos)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	h.address = address
	return cmd
}

// A git that only counts objects writes nothing, for hours, and does not notice that its
// reader is gone.
func TestAKilledGatesGitEndsThoughItHasNothingToWrite(t *testing.T) {
	h := open(t, gate.Settings{}) // for its directory
	stopNow(h.Gate)
	demo := h.bare(t, "demo")
	git(t, demo, "update-ref", "refs/heads/main", borrow(t, demo))
	must(t, os.Remove(filepath.Join(demo, "info/attributes")))
	git(t, demo, "config", "pack.window", "1000")
	git(t, demo, "config", "uploadpack.keepAlive", "0")

	killed := startGate(t, h)
	clone := command(h.dir, "clone", "--quiet", "--bare", h.url(h.issue(t, "demo"), "demo"), "clone")
	must(t, clone.Start())
	t.Cleanup(func() {
		killTree(clone.Process.Pid)
		_ = clone.Wait()
		for _, process := range processesIn(h.repos) { // should it fail
			var pid int
			fmt.Sscanf(process, "/proc/%d", &pid)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})

	testenv.Eventually(t, "git counts", func() bool {
		return strings.Contains(strings.Join(processesIn(h.repos), "\n"), "pack-objects")
	})

	must(t, killed.Process.Kill())
	testenv.Eventually(t, "git has ended", func() bool { return len(processesIn(h.repos)) == 0 })
}
