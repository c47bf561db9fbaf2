package gate_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
)

// pushOf is what a client sends to push a commit of its own to a new branch.
func pushOf(t *testing.T, dir, branch string) string {
	t.Helper()
	work := filepath.Join(dir, "work-"+branch)
	git(t, dir, "init", "--quiet", work)
	git(t, work, "commit", "--quiet", "--allow-empty", "-m", branch)
	tip := git(t, work, "rev-parse", "HEAD")
	pack := feed(t, work, tip+"\n", "pack-objects", "--quiet", "--revs", "--stdout")
	return pkt(fmt.Sprintf("%040d %s refs/heads/%s\x00report-status", 0, tip, branch)) + "0000" + pack
}

// pushByPath begins a push that no gate knows of. finish sends the rest.
func pushByPath(t *testing.T, dir, repo, branch string) (finish func() error) {
	t.Helper()
	push := pushOf(t, dir, branch)
	cmd := command(dir, "receive-pack", "--stateless-rpc", repo)
	stdin, err := cmd.StdinPipe()
	must(t, err)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	must(t, cmd.Start())
	t.Cleanup(func() { killTree(cmd.Process.Pid); _ = cmd.Wait() })

	_, err = io.WriteString(stdin, push[:len(push)-10])
	must(t, err)
	return func() error {
		_, _ = io.WriteString(stdin, push[len(push)-10:])
		stdin.Close()
		if err := cmd.Wait(); err != nil || !strings.Contains(said.String(), "ok refs/heads/"+branch) {
			return fmt.Errorf("%v: %q", err, said.String())
		}
		return nil
	}
}

// pushBy begins a push through the gate. finish sends the rest.
func (h *harness) pushBy(t *testing.T, token, branch string) (finish func() error) {
	t.Helper()
	push := pushOf(t, h.dir, branch)
	conn := h.dial(t, head("POST /demo.git/git-receive-pack", token, receiveRequest, "Connection: close",
		fmt.Sprintf("Content-Length: %d", len(push)))+push[:len(push)-10])
	return func() error {
		_, _ = io.WriteString(conn, push[len(push)-10:])
		if answer, err := io.ReadAll(conn); err != nil || !strings.Contains(string(answer), "ok refs/heads/"+branch) {
			return fmt.Errorf("%v: %q", err, answer)
		}
		return nil
	}
}

func quarantines(repo string) []string { return glob(repo + "/objects/tmp_objdir-incoming-*") }

// unpacks waits until so many pushes to a repository unpack. They come no further without the bytes
// that finish sends. It returns the quarantines of the repository.
func unpacks(t *testing.T, repo string, pushes int) []string {
	t.Helper()
	testenv.Eventually(t, fmt.Sprintf("%d pushes unpack", pushes), func() bool {
		unpackers := slices.DeleteFunc(processesIn(repo), func(p string) bool { return !strings.Contains(p, " unpack-objects ") })
		return len(unpackers) == pushes
	})
	return quarantines(repo)
}

func TestAPushThatIsCutTakesNothingFromOthers(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	other, err := h.tokens.CreateToken("demo", "task-2")
	must(t, err)
	pushes := map[string]func() error{
		"by path":         pushByPath(t, h.dir, demo, "by-path"),
		"of another task": h.pushBy(t, string(other), "another"),
	}
	before := unpacks(t, demo, 2)

	h.pushBy(t, h.issue(t, "demo"), "cut")
	unpacks(t, demo, 3)
	_, err = h.tokens.RevokeTokenForTask("demo", "task-1")
	must(t, err)
	h.trailed(t, trail.Cut, 1)
	if after := quarantines(demo); !slices.Equal(after, before) {
		t.Errorf("there were %q, and then %q", before, after)
	}
	for name, finish := range pushes {
		if err := finish(); err != nil {
			t.Errorf("the push %s: %v", name, err)
		}
	}
}

func TestAGateThatStartsLeavesAPushAlone(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	finish := pushByPath(t, h.dir, demo, "by-path")
	before := unpacks(t, demo, 1)
	h.Gate = h.again(t, gate.Settings{})
	if after := quarantines(demo); !slices.Equal(after, before) {
		t.Errorf("there were %q, and then %q", before, after)
	}
	must(t, finish())

	abandoned, another := demo+"/objects/tmp_objdir-incoming-abc123", demo+"/objects/tmp_objdir-incoming-def456"
	for _, path := range []string{abandoned, another} {
		must(t, os.MkdirAll(path+"/pack", 0o755))
	}
	if os.Geteuid() == 0 {
		must(t, os.Chown(another, 12345, -1))
	}
	// A gate that starts removes no quarantine while a git of ours may be at work, such as that of
	// another test.
	testenv.Eventually(t, "a gate that starts removes what is abandoned", func() bool {
		h.Gate = h.again(t, gate.Settings{})
		_, err := os.Stat(abandoned)
		return errors.Is(err, fs.ErrNotExist)
	})
	if _, err := os.Stat(another); (err == nil) != (os.Geteuid() == 0) {
		t.Errorf("%s: %v", another, err)
	}
	must(t, os.RemoveAll(another))
}

func TestASecondGateOverTheSameRepositoriesIsRefused(t *testing.T) {
	h := open(t, gate.Settings{})
	link := filepath.Join(h.dir, "link")
	must(t, os.Symlink(h.repos, link))
	second := func() error {
		g, err := gate.New(gate.Settings{Repos: link, Tokens: h.tokens.Reader(func(error) {})})
		if err == nil {
			stopNow(g)
		}
		return err
	}
	if err := second(); err == nil || !strings.Contains(err.Error(), "another gate serves the repositories in "+h.repos) {
		t.Errorf("a second gate says %v", err)
	}
	stopNow(h.Gate)
	if err := second(); err != nil {
		t.Errorf("when the first has ended, it says %v", err)
	}
}

// A process that a gate has just started holds the lock until it executes git, also when the gate
// is killed meanwhile.
func TestAGateWaitsForTheLockOfOneThatWasKilled(t *testing.T) {
	h := open(t, gate.Settings{})
	stopNow(h.Gate)
	lock := flock.New(filepath.Join(h.repos, ".lock"))
	must(t, lock.Lock())
	time.AfterFunc(100*time.Millisecond, func() { _ = lock.Unlock() })
	g, err := gate.New(gate.Settings{Repos: h.repos, Tokens: h.tokens.Reader(func(error) {})})
	must(t, err)
	stopNow(g)
}
