// Tests how many git processes a request starts, and that none is left afterwards.

package gate_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
)

// openOver opens a gate whose git is a shell script. The script appends its first argument as a
// line to the file runs, executes the commands in before, and then becomes git.
func openOver(t *testing.T, before string) (h *harness, runs string) {
	t.Helper()
	dir, path := memory(t), os.Getenv("PATH")
	runs = filepath.Join(dir, "runs")
	script := "#!/bin/sh\necho $1 >>" + runs + "\n" + before + "\nexec " + testenv.Tool(t, "git") + ` "$@"` + "\n"
	must(t, os.WriteFile(filepath.Join(dir, "git"), []byte(script), 0o755))
	t.Setenv("PATH", dir+":"+path)
	h = open(t, gate.Settings{})
	t.Setenv("PATH", path) // the gate has found it
	return h, runs
}

func TestARequestStartsNoMoreGitProcessesThanItNeeds(t *testing.T) {
	h, runs := openOver(t, "")
	h.demo(t, "demo", 3)
	url := h.url(h.issue(t, "demo"), "demo")
	for _, one := range []struct {
		what, starts string
		do           func()
	}{
		{"the first command with protocol 2", "upload-pack upload-pack", func() { git(t, h.dir, "-c", "protocol.version=2", "ls-remote", url) }},
		{"again, with the advertisement cached", "upload-pack", func() { git(t, h.dir, "-c", "protocol.version=2", "ls-remote", url) }},
		{"a shallow clone", "upload-pack upload-pack", func() { git(t, h.dir, "-c", "protocol.version=2", "clone", "--quiet", "--depth", "1", url, "clone") }},
		{"with protocol 0", "upload-pack", func() { git(t, h.dir, "-c", "protocol.version=0", "ls-remote", url) }},
		{"git's request without a token", "", func() { h.request(t, "GET", "/demo.git/info/refs?service=git-upload-pack", "", "") }},
		{"git's probe before a large push", "", func() {
			h.request(t, "POST", "/demo.git/git-receive-pack", h.issue(t, "demo"), "0000", receiveRequest)
		}},
		{"what is refused", "", func() { gitFails(t, h.dir, "ls-remote", h.url("nobody", "demo")) }},
	} {
		_ = os.Remove(runs)
		one.do()
		text, err := os.ReadFile(runs)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if starts := strings.Join(strings.Fields(string(text)), " "); starts != one.starts {
			t.Errorf("%s: it starts %q, not %q", one.what, starts, one.starts)
		}
	}
}

// By default, orphans become children of process 1, which may reap them late, or never. So the
// gate adopts and reaps them itself.
func TestGitsProcessesEndWithTheirRequest(t *testing.T) {
	h, runs := openOver(t, "sleep 1000 >/dev/null 2>&1 &\necho $$ >>$0.group")
	h.demo(t, "demo", 1)
	git(t, h.dir, "clone", "--quiet", h.url(h.issue(t, "demo"), "demo"), "clone")
	h.trailed(t, trail.Fetch, 1)
	groups, err := os.ReadFile(filepath.Join(filepath.Dir(runs), "git.group"))
	must(t, err)
	for _, line := range strings.Fields(string(groups)) {
		group, err := strconv.Atoi(line)
		must(t, err)
		if err := syscall.Kill(-group, 0); err != syscall.ESRCH {
			t.Errorf("a process is left in git's process group: %v", err)
		}
	}
}
