package faults

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// insideVar tells the two processes of a run by root apart. The one that `go test`
// started waits and removes what is left; the one with this variable is pid 1 of
// namespaces of its own and runs the tests.
const insideVar = "TEROK_FAULTS_DIR"

var (
	workDir      string // a tmpfs of this run, gone with the mount namespace
	binary       string // the hook, built for this run
	noNamespaces string // says why no test can run here; empty if they can
)

func TestMain(m *testing.M) {
	var status int
	var err error
	if workDir = os.Getenv(insideVar); workDir != "" {
		status, err = inside(m)
	} else {
		status, err = outside(m)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		status = 1
	}
	os.Exit(status)
}

func outside(m *testing.M) (status int, err error) {
	if os.Geteuid() != 0 {
		noNamespaces = "only root can run this test"
		return m.Run(), nil
	}
	dir, err := os.MkdirTemp("", "terok-faults-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	// Pdeathsig counts from the death of the thread that forked, so this
	// goroutine keeps its thread.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVar+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
	}
	if err := cmd.Start(); errors.Is(err, unix.EPERM) {
		noNamespaces = "root may not make namespaces here"
		return m.Run(), nil
	} else if err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	go func() {
		<-signals
		cmd.Process.Kill() // and with pid 1 all the rest
	}()
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}

func inside(m *testing.M) (status int, err error) {
	if err := furnish(); err != nil {
		return 0, err
	}
	binary = filepath.Join(workDir, "terok-gate-hook")
	build := exec.Command("go", "build", "-trimpath", "-tags", "urfave_cli_no_docs", "-o", binary, ".")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("go build: %w\n%s", err, out)
	}
	startTracers()
	status = m.Run()
	if systemLog.tokens > 0 {
		return 0, fmt.Errorf("%d messages to the system log held a token", systemLog.tokens)
	}
	return status, nil
}

// furnish makes the new namespaces a place where the machine does not notice.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", workDir, "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	return ownDev(filepath.Join(workDir, "dev"))
}

// ownDev puts a /dev of ours in the place of the machine's: the usual devices, and
// a system log that the tests read.
func ownDev(dev string) error {
	if err := os.Mkdir(dev, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	for _, device := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		ours := filepath.Join(dev, device)
		if err := os.WriteFile(ours, nil, 0o666); err != nil {
			return err
		}
		if err := unix.Mount("/dev/"+device, ours, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount over %s: %w", ours, err)
		}
	}
	if err := os.Symlink("/proc/self/fd", filepath.Join(dev, "fd")); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dev, "shm"), 0o1777); err != nil {
		return err
	}
	if err := unix.Mount(dev, "/dev", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("mount over /dev: %w", err)
	}
	return systemLog.listen("/dev/log")
}

// systemLog counts what arrives at /dev/log.
var systemLog logSocket

type logSocket struct {
	mu               sync.Mutex
	messages, tokens int
}

func (l *logSocket) listen(path string) error {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	go func() {
		message := make([]byte, 64<<10)
		for {
			n, err := conn.Read(message)
			if err != nil {
				return
			}
			l.mu.Lock()
			l.messages++
			if aToken.Match(message[:n]) {
				l.tokens++
			}
			l.mu.Unlock()
		}
	}()
	return nil
}

// aToken matches the secret itself.
var aToken = regexp.MustCompile(`terok-g-[0-9a-f]{32}`)

// needRoot ends a test that needs containers, where there can be none.
func needRoot(t *testing.T) {
	t.Helper()
	if noNamespaces != "" {
		cannot(t, noNamespaces)
	}
}

// cannot skips the test for lack of something that it needs, or fails it where
// nothing may be skipped.
func cannot(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("TEROK_TEST_ALL") == "1" {
		t.Fatalf("TEROK_TEST_ALL=1, but %s", reason)
	}
	t.Skip(reason)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
