package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/internal/testenv"
)

// container is a container whose process reports what it sees at every start, and then
// waits to be ended.
type container struct {
	*engine
	id     string
	about  string // directory of what podman writes about it: log and pid
	starts int
}

// life is one cycle of a container, from a start to the next end.
type life struct {
	env   []string // the lines of its gate.env
	mount []string // the mounts of /run/terok
	token string
}

// sentry is the script of the process. USR1 ends it with 0, USR2 with 3.
const sentry = `
trap 'exit 0' TERM USR1
trap 'exit 3' USR2
cat /run/terok/gate.env | sed 's/^/env /'
grep ' /run/terok ' /proc/self/mounts | sed 's/^/mount /'
echo ready
while :; do sleep 1000 & wait; done`

// annotations returns the arguments that give a container a token.
func annotations(project, task string) []string {
	return []string{"--annotation", "terok.project=" + project, "--annotation", "terok.task=" + task}
}

// create makes a container of the image, or of the root file system that the arguments
// name, and does not start it. The container is removed at the end of the test.
func (e *engine) create(t *testing.T, args ...string) *container {
	t.Helper()
	c := &container{engine: e, about: e.tempDir(t)}
	args = append([]string{
		"create", "--log-opt", "path=" + filepath.Join(c.about, "log"), "--pidfile", filepath.Join(c.about, "pid"),
	}, args...)
	if !slices.Contains(args, "--rootfs") {
		args = append(args, image)
	}
	c.id = e.podman(t, append(args, "sh", "-c", sentry)...)
	t.Cleanup(func() {
		if _, err := e.tryPodman("rm", "--force", "--ignore", "--time", "0", c.id); err != nil {
			t.Error(err)
		}
	})
	return c
}

// start starts the container and returns what its process saw.
func (c *container) start(t *testing.T) life {
	t.Helper()
	c.podman(t, "start", c.id)
	return c.nextLife(t)
}

// nextLife waits until the container's process is ready after a start by podman or systemd, and
// returns what the process saw.
func (c *container) nextLife(t *testing.T) life {
	t.Helper()
	var lines []string
	testenv.Eventually(t, fmt.Sprintf("container %.12s is ready after start number %d", c.id, c.starts+1), func() bool {
		lines = c.output(t)
		return count(lines, "ready") > c.starts
	})

	var l life
	seen := 0
	for _, line := range lines {
		switch kind, rest, _ := strings.Cut(line, " "); {
		case kind == "ready":
			seen++
		case seen < c.starts:
		case kind == "env":
			l.env = append(l.env, rest)
		case kind == "mount":
			l.mount = append(l.mount, rest)
		default:
			t.Errorf("the container says %q", line)
		}
	}

	c.starts++
	for _, line := range l.env {
		if token, ok := strings.CutPrefix(line, "TEROK_GATE_TOKEN="); ok {
			l.token = token
		}
	}
	return l
}

// output returns the lines that the process wrote, standard error included.
func (c *container) output(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.about, "log"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		// time, stream, F for full, text
		if f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4); len(f) == 4 {
			lines = append(lines, f[3])
		}
	}
	return lines
}

func count(lines []string, line string) (n int) {
	for _, l := range lines {
		if l == line {
			n++
		}
	}
	return n
}

// pid returns the id of the container's process.
func (c *container) pid(t *testing.T) int {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(readFile(t, filepath.Join(c.about, "pid"))))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// kill sends a signal to the container's process without podman: after `podman kill`,
// podman assumes that the user wants the container to end, and does not restart it.
func (c *container) kill(t *testing.T, s syscall.Signal) {
	t.Helper()
	c.signal(t, c.pid(t), s)
}

// exitCode waits until the container has ended, and returns its exit code.
func (c *container) exitCode(t *testing.T) string {
	t.Helper()
	return c.podman(t, "wait", "--interval", "20ms", c.id)
}

// runAndRemove runs a container, removes it, and returns its id. It does so without --rm,
// which since podman 4.4 also removes the file with the id.
func (e *engine) runAndRemove(t *testing.T, args ...string) (id, out string, err error) {
	t.Helper()
	cid := filepath.Join(e.tempDir(t), "cid")
	out, err = e.tryPodman(append([]string{"run", "--cidfile", cid}, args...)...)
	id = readFile(t, cid)
	e.podman(t, "rm", "--force", "--time", "0", id)
	return id, out, err
}

var tokenForm = regexp.MustCompile(`^terok-g-[0-9a-f]{32}$`)

// holdsToken checks that the process has read a valid token, which is the container's only
// one.
func (c *container) holdsToken(t *testing.T, l life, project, task string) {
	t.Helper()
	if !tokenForm.MatchString(l.token) {
		t.Fatalf("the process of container %.12s read no token in gate.env: %q", c.id, l.env)
	}

	want := []string{
		"TEROK_GATE_TOKEN=" + l.token,
		"TEROK_PROJECT=" + project,
		"TEROK_TASK=" + task,
	}
	if diff := cmp.Diff(want, l.env); diff != "" {
		t.Errorf("gate.env (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{l.token}, c.tokensOf(t, c.id)); diff != "" {
		t.Errorf("tokens of the container (-want +got):\n%s", diff)
	}

	got, there := c.tokens(t)[l.token]
	if !there {
		return
	}
	if got.Created.IsZero() || len(got.Process) == 0 {
		t.Errorf("the entry does not say when it was made and for which process: %+v", got)
	}

	got.Created, got.Process = token{}.Created, nil
	if diff := cmp.Diff(token{Project: project, Scope: project, Task: task, Container: c.id}, got); diff != "" {
		t.Errorf("the entry (-want +got):\n%s", diff)
	}
}

// revoked waits until the token is gone. Podman's clean-up, which runs the
// poststop hook, may still be at work when the command that ended the container
// has returned.
func (e *engine) revoked(t *testing.T, token string) {
	t.Helper()
	testenv.Eventually(t, "the token is gone", func() bool {
		_, there := e.tokens(t)[token]
		return !there
	})
}
