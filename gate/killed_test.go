package gate_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// gateVar makes this test binary a gate, over the folder that it names.
const gateVar = "GATE_TEST_GATE"

func gateOfItsOwn() error {
	gate.SaveMemory()
	dir := os.Getenv(gateVar)
	tokens := store.File{Path: filepath.Join(dir, "tokens", "tokens.json")}
	g, err := gate.New(gate.Settings{Repos: filepath.Join(dir, "repos"), Tokens: tokens.Reader(func(error) {})})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return g.Serve(listener)
}

// A gate that is killed cleans nothing up: its git ends by itself, and the next gate
// removes what is left.
func TestAKilledGateLeavesNothing(t *testing.T) {
	h := open(t, gate.Settings{}) // for its folder
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

	// Whether or not git could clean up, a push that is cut by the machine's end cannot.
	must(t, os.MkdirAll(strings.Replace(quarantine, "*", "abc123/pack", 1), 0o755))
	h.again(t, gate.Settings{})
	if left := glob(quarantine); len(left) > 0 {
		t.Errorf("left behind: %s", left)
	}
	if refs := git(t, empty, "for-each-ref"); refs != "" {
		t.Errorf("the push moved %s", refs)
	}
}

// startGate starts a gate of its own over the house's folder.
func startGate(t *testing.T, h *house) *exec.Cmd {
	t.Helper()
	cmd := testenv.Again()
	cmd.Env = append(cmd.Env, gateVar+"="+h.dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	h.address = strings.TrimSpace(address)
	return cmd
}

// What only counts for hours writes nothing, and does not notice that nobody reads.
func TestAKilledGatesGitEndsThoughItHasNothingToWrite(t *testing.T) {
	h := open(t, gate.Settings{}) // for its folder
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
