package gate_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

func TestMain(m *testing.M) {
	if status, isHook := gate.RunHook(os.Args[0]); isHook {
		testenv.ExitPromptly(status)
	}
	if os.Getenv(askVar) != "" {
		fmt.Fprintln(os.Stderr, askGate())
		os.Exit(1)
	}

	// Earlier runs that were killed have left their directories in memory.
	for _, left := range glob(inMemory + "*") {
		if pid, err := strconv.Atoi(strings.TrimPrefix(left, inMemory)); err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			os.RemoveAll(left)
		}
	}

	if err := gate.AdoptOrphans(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ours = inMemory + strconv.Itoa(os.Getpid())
	if err := os.Mkdir(ours, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}

	status := m.Run()
	os.RemoveAll(ours)
	if testenv.Dir != "" {
		os.RemoveAll(testenv.Dir)
	}
	os.Exit(status)
}

// inMemory is the beginning of the names of directories in memory, one for each run. A gigabyte is
// written to memory much faster than to a disk.
const inMemory = "/dev/shm/terok-gate-test-"

var ours string

// terokGate builds the gate's program, without the race detector, which takes memory.
var terokGate = sync.OnceValues(func() (path string, err error) {
	if testenv.Dir, err = os.MkdirTemp("", "terok-gate-test-"); err != nil {
		return "", err
	}
	return testenv.Build("terok-gate-hook/cmd/terok-gate")
})

// harness is a gate over a directory of repositories, with the token file that it reads.
type harness struct {
	*gate.Gate
	dir, repos string
	tokens     store.File
	address    string

	mu     sync.Mutex
	events []trail.Event
}

// open opens a gate at a port of this machine.
func open(t *testing.T, settings gate.Settings) *harness {
	t.Helper()
	testenv.Need(t, "git")
	h := &harness{dir: memory(t)}
	h.repos = filepath.Join(h.dir, "repos")
	h.tokens = store.File{Path: filepath.Join(h.dir, "tokens", "tokens.json")}
	must(t, os.Mkdir(h.repos, 0o755))

	settings.Repos, settings.Tokens = h.repos, h.tokens.Reader(func(error) {})
	also := settings.Trail
	settings.Trail = func(events ...trail.Event) error {
		if also != nil {
			if err := also(events...); err != nil {
				return err
			}
		}
		return h.note(events...)
	}

	var err error
	h.Gate, err = gate.New(settings)
	must(t, err)

	// The kernel holds little of an answer that its client does not read.
	limited := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 256<<10) })
	}}
	listener, err := limited.Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	h.address = listener.Addr().String()
	served := make(chan error, 1)
	go func() { served <- h.Serve(listener) }()

	t.Cleanup(func() {
		stopNow(h.Gate)
		if err := <-served; err != nil {
			t.Errorf("the gate ended: %v", err)
		}
		// No test may leave a process or a directory of git's behind.
		for _, process := range processesIn(h.repos) {
			t.Errorf("left behind: %s", process)
		}
		for _, directory := range glob(h.repos + "/*.git/objects/*tmp_*") {
			t.Errorf("left behind: %s", directory)
		}
	})
	return h
}

// stopNow stops a gate, without patience for what is under way.
func stopNow(g *gate.Gate) {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	g.Stop(now)
}

// again stops the harness's gate, and returns the next one, which serves no port.
func (h *harness) again(t *testing.T, settings gate.Settings) *gate.Gate {
	t.Helper()
	stopNow(h.Gate)
	settings.Repos, settings.Tokens = h.repos, h.tokens.Reader(func(error) {})
	settings.Trail = h.note
	g, err := gate.New(settings)
	must(t, err)
	t.Cleanup(func() { stopNow(g) })
	return g
}

// memory is a directory in memory, for what is large.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(ours, "")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// note is the harness's trail.
func (h *harness) note(events ...trail.Event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, events...)
	return nil
}

// issue issues a token for a project.
func (h *harness) issue(t *testing.T, project string) string {
	t.Helper()
	token, err := store.NewToken()
	must(t, err)
	_, err = h.tokens.Issue(store.Entry{Token: token, Grant: store.Grant{Project: project, Task: "task-1"}})
	must(t, err)
	return string(token)
}

// revoke revokes all tokens of a project.
func (h *harness) revoke(t *testing.T, project string) {
	t.Helper()
	_, err := h.tokens.Revoke(func(e store.Entry) bool { return e.Project == project })
	must(t, err)
}

// url is what git is told, with the token and an empty password: without any password in the URL,
// newer gits (2.53) would prompt for one.
func (h *harness) url(token, project string) string {
	return "http://" + token + ":@" + h.address + "/" + project + ".git"
}

// trailed waits until there are that many events of a kind, and returns them. It fails if there are
// more. One line may stand for several events.
func (h *harness) trailed(t *testing.T, event string, number int) []trail.Event {
	t.Helper()
	var found []trail.Event
	times := 0
	testenv.Eventually(t, fmt.Sprintf("there are %d events %q", number, event), func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		found = slices.DeleteFunc(slices.Clone(h.events), func(e trail.Event) bool { return e.Event != event })
		times = 0
		for _, e := range found {
			times += max(1, e.Times)
		}
		return times >= number
	})
	if times > number {
		t.Errorf("there are %d events %q, not %d, first %+v", times, event, number, found[:min(20, len(found))])
	}
	return found
}

// bare makes the project's repository, empty.
func (h *harness) bare(t *testing.T, project string, options ...string) (path string) {
	t.Helper()
	path = filepath.Join(h.repos, project+".git")
	git(t, h.dir, append([]string{"init", "--quiet", "--bare", "--initial-branch=main", path}, options...)...)
	return path
}

// demo makes the project's repository with some history: main with n commits.
func (h *harness) demo(t *testing.T, project string, commits int) (path string) {
	t.Helper()
	path = h.bare(t, project)
	var stream strings.Builder
	for i := range commits {
		fmt.Fprintf(&stream, "commit refs/heads/main\ncommitter A <a@example> %d +0000\ndata 6\ncommit\nM 644 inline file-%d\ndata %d\n%d\n\n",
			1700000000+i, i%10, len(fmt.Sprint(i)), i)
	}
	feed(t, path, stream.String(), "fast-import", "--quiet")
	return path
}

// makeLarge commits files of a MiB each, which nothing compresses, to a repository's main.
// git itself would take a minute for a thousand.
func makeLarge(repo string, files int) error {
	random := rand.NewChaCha8([32]byte{})
	noise := make([]byte, 1<<20)
	var tree strings.Builder
	for i := range files {
		_, _ = random.Read(noise)
		object := append(fmt.Appendf(nil, "blob %d\x00", len(noise)), noise...)
		id := fmt.Sprintf("%x", sha1.Sum(object))
		fmt.Fprintf(&tree, "100644 blob %s\tfile-%d\n", id, i)

		var packed bytes.Buffer
		z, _ := zlib.NewWriterLevel(&packed, zlib.NoCompression)
		_, _ = z.Write(object)
		z.Close()

		directory := filepath.Join(repo, "objects", id[:2])
		if err := os.MkdirAll(directory, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(directory, id[2:]), packed.Bytes(), 0o444); err != nil {
			return err
		}
	}

	mktree := command(repo, "mktree")
	mktree.Stdin = strings.NewReader(tree.String())
	id, err := mktree.Output()
	if err != nil {
		return err
	}
	tip, err := command(repo, "commit-tree", "-m", "large", strings.TrimSpace(string(id))).Output()
	if err != nil {
		return err
	}
	return command(repo, "update-ref", "refs/heads/main", strings.TrimSpace(string(tip))).Run()
}

// command is git without any settings of the machine or of a user.
func command(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("git", append([]string{
		"-c", "user.name=A", "-c", "user.email=a@example", "-c", "safe.directory=*", "-c", "core.compression=0", "-c", "protocol.file.allow=always",
	}, args...)...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0"}
	return cmd
}

// git runs git in a directory, and returns what it prints.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	return feed(t, dir, "", args...)
}

// feed runs git in a directory with the input on its standard input.
func feed(t *testing.T, dir, input string, args ...string) string {
	t.Helper()
	cmd := command(dir, args...)
	var said bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(input), &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, said.String())
	}
	return strings.TrimSuffix(string(out), "\n")
}

// gitFails runs git, which must fail, and returns what it prints.
func gitFails(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := command(dir, args...).CombinedOutput()
	if err == nil {
		t.Fatalf("git %s succeeds:\n%s", strings.Join(args, " "), out)
	}
	return string(out)
}

// request sends a request, whether git would send such a request or not.
func (h *harness) request(t *testing.T, method, path, token, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, "http://"+h.address+path, strings.NewReader(body))
	must(t, err)
	if token != "" {
		r.SetBasicAuth(token, "")
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if r.Header.Set(name, value); name == "Host" {
			r.Host = value
		}
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	must(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(t, err)
	return answer, string(text)
}

// processesIn returns the command lines of all processes that work in a directory.
func processesIn(directory string) (found []string) {
	for _, process := range glob("/proc/[0-9]*") {
		if cwd, err := os.Readlink(process + "/cwd"); err == nil && strings.HasPrefix(cwd, directory) {
			args, _ := os.ReadFile(process + "/cmdline")
			found = append(found, process+" "+strings.ReplaceAll(string(args), "\x00", " "))
		}
	}
	return found
}

func glob(pattern string) []string {
	found, err := filepath.Glob(pattern)
	if err != nil {
		panic(err)
	}
	return found
}

var must = testenv.Must

// logged returns what the gate logs during the test.
func logged(t *testing.T) *safeBuffer {
	t.Helper()
	log := &safeBuffer{}
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(log, nil)))
	t.Cleanup(func() { slog.SetDefault(old) })
	return log
}

type safeBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func readFile(path string) (string, error) {
	text, err := os.ReadFile(path)
	return string(text), err
}

// replaceFile replaces a file as a whole, and makes its directory.
func replaceFile(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func sha256Of(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }
