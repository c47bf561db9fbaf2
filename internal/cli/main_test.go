package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// insideVar says that this process is in the tests' own mount namespace.
const insideVar = "TEROK_TEST_INSIDE"

// repository is the folder of the sources, which hold what install writes and what
// the tests read.
var repository = func() string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "../..")
}()

// commands are what scripts and tests run by name: this test binary again.
var commands = map[string]func(){
	"terok-gate-hook":   func() { os.Exit(Run(os.Args, os.DirFS(repository))) },
	"wait-as-container": waitAsContainer,
	"podman":            podmanStandIn,
}

// TestMain runs the tests in a mount namespace of their own, in which the system
// log is theirs and mounts of theirs are nobody else's business.
func TestMain(m *testing.M) {
	_, isCommand := commands[filepath.Base(os.Args[0])]
	if !isCommand && os.Getenv(insideVar) == "" {
		status, err := inNamespaceOfOurOwn()
		if err == nil {
			os.Exit(status)
		}
		systemLog.missing = "no mount namespace of our own: " + err.Error()
	}
	testscript.Main(furnished{m}, commands)
}

// inNamespaceOfOurOwn runs this binary again. Whoever is not root needs a user
// namespace for that, and stays who they are in it.
func inNamespaceOfOurOwn() (status int, err error) {
	runtime.LockOSThread() // Pdeathsig counts from the death of the thread that forked
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN} // it has mounts to make
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// furnished is m in a namespace that is made ready for it.
type furnished struct{ m *testing.M }

func (f furnished) Run() int {
	// A race detector's second of rest at the end of every command adds up.
	if os.Getenv("GORACE") == "" {
		os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
	// Another user runs the commands too.
	hook, err := exec.LookPath("terok-gate-hook")
	if err == nil {
		err = os.Chmod(filepath.Dir(filepath.Dir(hook)), 0o755)
	}
	if err == nil && systemLog.missing == "" {
		err = systemLog.listen()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare the tests:", err)
		return 1
	}
	status := f.m.Run()
	if leaks := systemLog.matching(secret); len(leaks) > 0 {
		fmt.Fprintf(os.Stderr, "the system log holds a token: %q\n", leaks)
		return 1
	}
	return status
}

// secret is a token in full, which no log and no error may hold.
var secret = regexp.MustCompile(`terok-g-[0-9a-f]{32}`)

// systemLog is what arrives at /dev/log.
var systemLog logSocket

type logSocket struct {
	missing  string // why there is none
	mu       sync.Mutex
	messages []string
}

// listen puts a /dev of our own, with a socket for the log in it, in the place of
// the machine's.
func (l *logSocket) listen() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	old, err := os.MkdirTemp("", "terok-dev-")
	if err != nil {
		return err
	}
	defer os.Remove(old)
	if err := unix.Mount("/dev", old, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind /dev: %w", err)
	}
	defer unix.Unmount(old, unix.MNT_DETACH)
	if err := unix.Mount("terok-dev", "/dev", "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom"} {
		device := filepath.Join("/dev", name)
		if err := os.WriteFile(device, nil, 0o666); err != nil {
			return err
		}
		if err := unix.Mount(filepath.Join(old, name), device, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", device, err)
		}
	}
	if err := os.Mkdir("/dev/pts", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0600"); err != nil {
		return fmt.Errorf("mount /dev/pts: %w", err)
	}
	if err := os.Symlink("pts/ptmx", "/dev/ptmx"); err != nil {
		return err
	}
	for name, target := range map[string]string{"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		if err := os.Symlink("/proc/self/"+target, filepath.Join("/dev", name)); err != nil {
			return err
		}
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "/dev/log", Net: "unixgram"})
	if err != nil {
		return err
	}
	if err := os.Chmod("/dev/log", 0o666); err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			l.mu.Lock()
			l.messages = append(l.messages, string(buf[:n]))
			l.mu.Unlock()
		}
	}()
	return nil
}

func (l *logSocket) matching(pattern *regexp.Regexp) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for _, m := range l.messages {
		if pattern.MatchString(m) {
			found = append(found, m)
		}
	}
	return found
}

// wait returns the first message that matches as soon as there is one, and none if
// there is none for longer than anything takes on a busy machine.
func (l *logSocket) wait(pattern *regexp.Regexp) (message string, ok bool) {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); <-time.After(time.Millisecond) {
		if found := l.matching(pattern); len(found) > 0 {
			return found[0], true
		}
	}
	return "", false
}

// need skips a test for lack of something, or fails it where nothing may be
// skipped.
func need(t *testing.T, reason string) {
	t.Helper()
	if reason == "" {
		return
	}
	if os.Getenv("TEROK_TEST_ALL") == "1" {
		t.Fatalf("TEROK_TEST_ALL=1, but there is %s", reason)
	}
	t.Skip(reason)
}

// result is how a command ended.
type result struct {
	status         int
	stdout, stderr string
	pid            int
}

// call is a command line with what it runs in.
type call struct {
	args   []string
	stdin  string
	env    []string // added to an environment that holds nothing of ours
	nobody bool     // run by another user, if root runs the tests
}

func (c call) run(t *testing.T) result {
	t.Helper()
	return runCommand(t, c.command(t))
}

func runCommand(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	r := result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String(), cmd.Process.Pid}
	if secret.MatchString(r.stderr) {
		t.Errorf("standard error holds a token: %s", r.stderr)
	}
	return r
}

func (c call) command(t *testing.T) *exec.Cmd {
	t.Helper()
	hook, err := exec.LookPath("terok-gate-hook")
	must(t, err)
	cmd := exec.Command(hook, c.args...)
	cmd.Stdin = strings.NewReader(c.stdin)
	cmd.Dir = "/"
	cmd.Env = append([]string{"GORACE=" + os.Getenv("GORACE"), "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}, c.env...)
	if c.nobody && os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

const nobody = 65534

// errorLine checks that a failed command said one line of the form
// "terok-gate-hook: <command>: <what>: <why>", and for a stage that the system log
// has it too.
func (r result) errorLine(t *testing.T, command, what string) {
	t.Helper()
	line, rest, _ := strings.Cut(r.stderr, "\n")
	if rest != "" || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 }) {
		t.Errorf("standard error is not one line without control characters: %q", r.stderr)
	}
	if !strings.HasPrefix(line, "terok-gate-hook: "+command) || !strings.Contains(line, what) {
		t.Errorf("the error is not \"terok-gate-hook: %s... %s\" but %q", command, what, line)
	}
	if r.stdout != "" {
		t.Errorf("a failing command prints %q", r.stdout)
	}
	if !strings.HasPrefix(command, "prestart") && !strings.HasPrefix(command, "poststop") {
		return
	}
	need(t, systemLog.missing)
	said := fmt.Sprintf("%q", strings.TrimPrefix(line, "terok-gate-hook: "))
	message := fmt.Sprintf(`^<27>... .. ..:..:.. terok-gate-hook\[%d\]: (failed|refused) .*error=%s$`, r.pid, regexp.QuoteMeta(said))
	if _, ok := systemLog.wait(regexp.MustCompile(message)); !ok {
		t.Errorf("the system log has not %s but %q", message, systemLog.matching(regexp.MustCompile(fmt.Sprintf(`terok-gate-hook\[%d\]`, r.pid))))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
