package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

// After each of these faults, podman runs no poststop hook (seen with 4.3.1). The token is
// revoked nevertheless: by the next hook of any container, by `reap`, and by `reap --watch`
// as soon as the process is dead.

// Another program's hook comes after ours and fails.
func TestATokenGoesWhenAnotherProgramsLaterHookFails(t *testing.T) {
	onCrunAndRunc(t, func(t *testing.T, e *engine) {
		for _, stage := range []string{"prestart", "poststart"} {
			// This hook reads its input: crun 1.8.1 dies of SIGPIPE if a hook does not.
			failing := func(dir string) error {
				return writeJSON(filepath.Join(dir, "99-zz-of-another-program.json"), map[string]any{
					"version": "1.0.0",
					"hook":    map[string]any{"path": "/bin/sh", "args": []string{"sh", "-c", "read -r state; exit 1"}},
					"when":    map[string]any{"always": true},
					"stages":  []string{stage},
				})
			}

			t.Run(stage+" without reap --watch", func(t *testing.T) {
				t.Parallel()
				own := e.withAudit(t)
				c := own.withHooks(t, own.audited(), failing).create(t, annotations("demo", "1")...)
				if !own.failsToStart(t, c) {
					return
				}
				if got := own.events(t, c.id); !slices.Equal(got, []string{"issued"}) {
					if slices.Equal(got, []string{"issued", "revoked"}) {
						t.Log("this podman runs poststop, so there is no orphan")
						return
					}
					t.Fatalf("after the start that failed, the token was %q", got)
				}

				own.outlived(t, c.id)
				own.sweeps(t, c.id)
			})

			t.Run(stage+" with reap --watch", func(t *testing.T) {
				t.Parallel()
				own := e.withAudit(t)
				own.watch(t)
				c := own.withHooks(t, own.audited(), failing).create(t, annotations("demo", "1")...)
				if !own.failsToStart(t, c) {
					return
				}

				testenv.Eventually(t, "the token is gone", func() bool { return len(own.tokensOf(t, c.id)) == 0 })
				// The audit trail is written after the token file.
				testenv.Eventually(t, "the audit trail says so", func() bool { return len(own.events(t, c.id)) > 1 })
				if got := own.events(t, c.id); len(got) != 2 || got[0] != "issued" {
					t.Errorf("the token was %q", got)
				}
			})
		}
	})
}

// failsToStart reports whether a container does not start because a hook fails. A container
// that starts nevertheless must hold its token, and lose the token when it stops.
func (e *engine) failsToStart(t *testing.T, c *container) bool {
	t.Helper()
	if _, err := c.tryPodman("start", c.id); err != nil {
		t.Log(err)
		return true
	}
	t.Logf("%s does not mind", e.runtime) // crun 1.8.1 ignores that a poststart hook failed
	l := c.nextLife(t)
	c.holdsToken(t, l, "demo", "1")
	c.podman(t, "stop", c.id)
	c.revoked(t, l.token)
	return false
}

func TestATokenGoesWhenPodmanAndConmonAreKilled(t *testing.T) {
	onCrunAndRunc(t, func(t *testing.T, e *engine) {
		own := e.withAudit(t)
		own = own.withHooks(t, own.audited(), nil)
		c := own.create(t, annotations("demo", "1")...)

		podman, cancel := c.command("podman", c.podmanArgs([]string{"start", "--attach", c.id})...)
		defer cancel()
		if podman.SysProcAttr == nil {
			podman.SysProcAttr = new(syscall.SysProcAttr)
		}
		podman.SysProcAttr.Setpgid = true // a rootless podman is two processes
		if err := podman.Start(); err != nil {
			t.Fatal(err)
		}

		l := c.nextLife(t)
		pid := c.pid(t)
		process := openPidfd(t, pid)
		watched := own.copied(t)
		watched.watch(t, pid)

		conmon := conmonOf(t, pid)
		if err := syscall.Kill(-podman.Process.Pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		podman.Wait()
		own.signal(t, conmon, unix.SIGKILL)
		testenv.Eventually(t, "conmon is dead", func() bool { return syscall.Kill(conmon, 0) == unix.ESRCH })

		c.holdsToken(t, l, "demo", "1")
		if _, there := watched.tokens(t)[l.token]; !there {
			t.Error("reap --watch revokes the token of a living process")
		}

		own.signal(t, pid, unix.SIGKILL)
		watched.goesWithProcess(t, l.token, process)
		own.sweeps(t, c.id)
		// At the first removal, podman 5.4 only finds out that conmon is gone.
		_, _ = c.tryPodman("rm", "--force", "--time", "0", c.id)
	})
}

// A dead process whose exit status its parent has not collected is a zombie.
func TestATokenGoesWhenItsContainersProcessIsAZombie(t *testing.T) {
	onCrunAndRunc(t, func(t *testing.T, e *engine) {
		own := e.withAudit(t)
		own = own.withHooks(t, own.audited(), nil)
		c := own.create(t, annotations("demo", "1")...)
		l := c.start(t)
		pid := c.pid(t)
		process := openPidfd(t, pid)
		watched := own.copied(t)
		watched.watch(t, pid)

		conmon := conmonOf(t, pid)
		own.signal(t, conmon, unix.SIGSTOP)
		t.Cleanup(func() { own.signal(t, conmon, unix.SIGCONT) })
		own.signal(t, pid, unix.SIGKILL)
		watched.goesWithProcess(t, l.token, process)
		own.sweeps(t, c.id)
		if state := statFields(t, pid)[0]; state != "Z" {
			t.Errorf("the container's process was not a zombie all the time: now it is %s", state)
		}
	})
}

// Each of a container's tokens is tied to a process. outlived waits until these processes are
// dead: a runtime that has given up may not have killed them yet.
func (e *engine) outlived(t *testing.T, id string) {
	t.Helper()
	for _, name := range e.tokensOf(t, id) {
		var process struct{ PID int }
		if err := json.Unmarshal(e.tokens(t)[name].Process, &process); err != nil || process.PID == 0 {
			t.Fatalf("the token is tied to no process: %v", err)
		}
		testenv.Eventually(t, "the container's process is dead", func() bool { return syscall.Kill(process.PID, 0) == unix.ESRCH })
	}
}

// sweeps checks that any kind of change to a token file sweeps the container's token, an orphan.
// Each kind gets a token file of its own, with the orphan in it.
func (e *engine) sweeps(t *testing.T, id string) {
	t.Helper()
	gate, err := gateBinary()
	if err != nil {
		t.Fatal(err)
	}

	for _, next := range []struct {
		name string
		run  func(e *engine) error
	}{
		{"reap", func(e *engine) error {
			out, err := e.run(gate, "--token-file", e.tokenFile, "--log-file", e.audit(), "reap")
			if out != "revoked 1\n" {
				t.Errorf("reap says %q", out)
			}
			return err
		}},
		{"the poststop hook of another container", func(e *engine) error {
			_, err := e.hook(t, `{"ociVersion": "1.0.2", "id": "another"}`, "--log-file", e.audit(), "poststop")
			return err
		}},
		{"the prestart hook of another container", func(e *engine) error {
			e = e.withHooks(t, e.audited(), nil)
			_, err := e.tryPodman(append(append([]string{"run", "--rm"}, annotations("another", "2")...), image, "true")...)
			return err
		}},
	} {
		e := e.copied(t)
		if tokens := e.tokensOf(t, id); len(tokens) != 1 {
			t.Fatalf("before %s the container has %d tokens", next.name, len(tokens))
		}

		if err := next.run(e); err != nil {
			t.Errorf("%s: %v", next.name, err)
		}
		if tokens := e.tokensOf(t, id); len(tokens) > 0 {
			t.Errorf("after %s the token is still there", next.name)
		}
		if got := e.events(t, id); !slices.Equal(got, []string{"swept"}) {
			t.Errorf("%s says that the token was %q", next.name, got)
		}
	}
}

// goesWithProcess waits until the process is dead and the token is gone, and logs the time
// between the two.
func (e *engine) goesWithProcess(t *testing.T, token string, pidfd int) {
	t.Helper()

	n, err := 0, error(unix.EINTR) // Go's runtime sends its threads signals
	for err == unix.EINTR {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 20_000)
	}
	if n != 1 {
		t.Fatalf("the container's process does not die: %v", err)
	}

	died := time.Now()
	for {
		if _, there := e.tokens(t)[token]; !there {
			break
		}
		if time.Since(died) > 20*time.Second {
			t.Fatal("reap --watch does not revoke the token of a dead process")
		}
		time.Sleep(200 * time.Microsecond)
	}
	t.Logf("reap --watch revoked the token %v after its process died", time.Since(died).Round(100*time.Microsecond))
}

func openPidfd(t *testing.T, pid int) int {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pidfd) })
	return pidfd
}

// conmonOf returns the parent of a container's process, which is conmon.
func conmonOf(t *testing.T, pid int) int {
	t.Helper()
	parent := statFields(t, pid)[1]
	if name := strings.TrimSpace(readFile(t, "/proc/"+parent+"/comm")); name != "conmon" {
		t.Fatalf("the parent of the container's process is %s", name)
	}
	conmon, err := strconv.Atoi(parent)
	if err != nil {
		t.Fatal(err)
	}
	return conmon
}

// statFields returns the fields of /proc/<pid>/stat that follow the name: state,
// parent and so on.
func statFields(t *testing.T, pid int) []string {
	t.Helper()
	stat := readFile(t, fmt.Sprintf("/proc/%d/stat", pid))
	return strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
}

// withAudit returns the same engine with a token file and an audit trail of its own: in a
// shared token file, other tests' hooks would sweep the orphans of this test.
func (e *engine) withAudit(t *testing.T) *engine {
	t.Helper()
	return e.withTokenFile(t, "{}")
}

// audit returns the path of the log file beside the token file.
func (e *engine) audit() string { return filepath.Join(filepath.Dir(e.tokenFile), "audit.log") }

// audited returns the flags that make hooks write to the audit trail.
func (e *engine) audited() hookFlags {
	return hookFlags{common: []string{"--log-file", e.audit()}}
}

// copied returns the same engine with a copy of the token file, and an audit trail
// beside it.
func (e *engine) copied(t *testing.T) *engine {
	t.Helper()
	return e.withTokenFile(t, readFile(t, e.tokenFile))
}

// events returns what the audit trail says of a container.
func (e *engine) events(t *testing.T, id string) []string {
	t.Helper()
	text, err := os.ReadFile(e.audit())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var events []string
	for line := range bytes.Lines(text) {
		var event struct{ Event, Container string }
		if err := json.Unmarshal(line, &event); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if event.Container == id {
			events = append(events, event.Event)
		}
	}
	return events
}

// watch runs reap --watch until the end of the test, as the user whom podman runs for,
// outside of podman's namespaces. It returns when the token file and these processes
// are watched.
func (e *engine) watch(t *testing.T, pids ...int) {
	t.Helper()
	gate, err := gateBinary()
	if err != nil {
		t.Fatal(err)
	}

	cmd, cancel := e.command(gate, "--token-file", e.tokenFile, "--log-file", e.audit(), "reap", "--watch")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() {
		defer cancel()
		if err := errors.Join(cmd.Process.Signal(unix.SIGTERM), cmd.Wait()); err != nil || stderr.Len() > 0 {
			t.Errorf("reap --watch: %v\n%s", err, &stderr)
		}
	})

	want := []string{"inotify "} // proc_pid_fdinfo(5)
	for _, pid := range pids {
		want = append(want, fmt.Sprintf("Pid:\t%d\n", pid))
	}

	testenv.Eventually(t, "reap --watch is watching", func() bool {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", cmd.Process.Pid))
		var all strings.Builder
		for _, f := range files {
			text, _ := os.ReadFile(f)
			all.Write(text)
		}
		return !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(all.String(), w) })
	})
}
