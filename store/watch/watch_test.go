package watch_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
	"terok-gate-hook/store/watch"
)

// report collects the errors that a watch reports.
type report struct {
	mu     sync.Mutex
	errors []error
}

func (r *report) reported() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]error(nil), r.errors...)
}

// watched watches the file until the test ends.
func watched(t *testing.T, file store.File) *report {
	t.Helper()
	var r report
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- watch.Tokens(ctx, file, func(_ []store.Entry, err error) {
			if err != nil {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.errors = append(r.errors, err)
			}
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return &r
}

// lives starts n processes, each with a token, and keeps no descriptor of them.
func lives(t *testing.T, file store.File, n int) (pids []int, tokens []store.Token) {
	t.Helper()
	for i := range n {
		cmd := exec.Command("sleep", "600")
		must(t, cmd.Start())
		pid := cmd.Process.Pid
		must(t, cmd.Process.Release())
		t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGKILL) }) // nobody waits for the process, so its pid is not reused

		process, err := store.ProcessOf(pid)
		must(t, err)
		token, err := store.NewToken()
		must(t, err)

		_, err = file.Issue(store.Entry{
			Token: token, Grant: store.Grant{Project: "demo", Task: "1"},
			Container: fmt.Sprint("c", i), Process: process,
		})
		must(t, err)
		pids, tokens = append(pids, pid), append(tokens, token)
	}
	return pids, tokens
}

func left(t *testing.T, file store.File) int {
	t.Helper()
	entries, err := file.Entries()
	must(t, err)
	return len(entries)
}

func TestTokensBeyondTheDescriptorLimitAreReportedAndPolled(t *testing.T) {
	const limit, tokens = 64, 100
	if !inside(t, syscall.SysProcAttr{}) {
		return
	}
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}))

	file := store.File{Path: filepath.Join(t.TempDir(), "tokens.json")}
	pids, issued := lives(t, file, tokens)
	r := watched(t, file)
	waitFor(t, "a report of the unwatched processes", func() bool { return len(r.reported()) > 0 })

	said := r.reported()[0].Error()
	named := 0
	for _, token := range issued {
		if strings.Contains(said, token.Fingerprint()) {
			named++
		}
		if strings.Contains(said, string(token)) {
			t.Error("the error shows a token")
		}
	}

	if named == 0 || named >= tokens || !strings.Contains(said, fmt.Sprintf("%d tokens", named)) || !strings.Contains(said, "limit of open files is 64") {
		t.Errorf("the error names %d of %d tokens: %s", named, tokens, said)
	}

	for _, pid := range pids {
		must(t, unix.Kill(pid, unix.SIGKILL))
	}
	waitFor(t, "the end of all tokens", func() bool { return left(t, file) == 0 })
	if errs := r.reported(); len(errs) != 1 {
		t.Errorf("more errors: %v", errs)
	}
}

func TestTokensAreSweptWithoutInotifyInstances(t *testing.T) {
	id := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	if !inside(t, syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: id}) {
		return
	}

	// The limit is this user namespace's alone.
	must(t, os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("0"), 0))

	file := store.File{Path: filepath.Join(t.TempDir(), "tokens.json")}
	r := watched(t, file)
	waitFor(t, "a report of the missing inotify instance", func() bool { return len(r.reported()) > 0 })
	if err := r.reported()[0]; !errors.Is(err, unix.EMFILE) {
		t.Errorf("the error is %v", err)
	}

	for range 2 { // a token that is issued later is found, and goes with its process
		pids, _ := lives(t, file, 1)
		must(t, unix.Kill(pids[0], unix.SIGKILL))
		waitFor(t, "the end of the token", func() bool { return left(t, file) == 0 })
	}

	if errs := r.reported(); len(errs) != 1 {
		t.Errorf("more errors: %v", errs)
	}
}

var must = testenv.Must

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: it did not happen in time", what)
		}
	}
}

const insideVar = "WATCH_TEST_INSIDE"

// inside reports whether this process was started for the test, with attr. If it was not, inside
// runs the test again in a process that is started for it, and takes over the result.
func inside(t *testing.T, attr syscall.SysProcAttr) bool {
	t.Helper()
	if os.Getenv(insideVar) == t.Name() {
		return true
	}
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self, "-test.v", "-test.count=1", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), insideVar+"="+t.Name())
	cmd.SysProcAttr = &attr
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Fatalf("in a process of its own: %v\n%s", err, out)
	}
	return false
}
