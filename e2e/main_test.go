package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A run goes through three processes, told apart by stageVar:
//
//	outside   what `go test` started; waits, then removes what is left
//	init      collects orphans, as an init does; for root, pid 1 of new namespaces
//	tests     runs the tests
const (
	stageVar = "TEROK_E2E_STAGE"
	dirVar   = "TEROK_E2E_DIR"
)

// workDir is the folder of this run. Every user can enter it: the rootless
// engine's files are in there.
var workDir string

// noContainers says why no container can be run here at all; empty if one can.
var noContainers string

func TestMain(m *testing.M) {
	var status int
	var err error
	switch os.Getenv(stageVar) {
	case "":
		status, err = outside(m)
	case "init":
		status, err = initProcess()
	case "tests":
		workDir = os.Getenv(dirVar)
		if os.Geteuid() != 0 {
			status = m.Run()
			endOwnEngines()
		} else if err = furnish(); err == nil {
			status = m.Run()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		status = 1
	}
	os.Exit(status)
}

func outside(m *testing.M) (status int, err error) {
	workDir, err = os.MkdirTemp("", "terok-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(workDir)
	if err := os.Chmod(workDir, 0o755); err != nil {
		return 0, err
	}
	var namespaces uintptr
	if os.Geteuid() == 0 {
		namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID
		releaseLog, err := claimLogMountPoint()
		if err != nil {
			return 0, err
		}
		defer releaseLog()
	}

	// Pdeathsig counts from the death of the thread that forked, so this
	// goroutine keeps its thread.
	runtime.LockOSThread()
	cmd := again("init", dirVar+"="+workDir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: namespaces,
		Pdeathsig:  unix.SIGKILL,
	}
	if err := cmd.Start(); errors.Is(err, unix.EPERM) {
		noContainers = "root may not make namespaces here"
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

// again is this test binary with the same arguments, in another stage.
func again(stage string, env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(append(os.Environ(), stageVar+"="+stage), env...)
	return cmd
}

// initProcess waits for the tests and for every process that lost its parent:
// a conmon that nobody collects would count as running for ever. What is left when
// the tests are over, it ends.
func initProcess() (status int, err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("collect orphans: %w", err)
	}
	tests := again("tests")
	if err := tests.Start(); err != nil {
		return 0, err
	}
	over := false
	for {
		if over {
			children, _ := filepath.Glob("/proc/self/task/*/children")
			for _, path := range children {
				pids, _ := os.ReadFile(path)
				for _, pid := range strings.Fields(string(pids)) {
					if pid, err := strconv.Atoi(pid); err == nil {
						unix.Kill(pid, unix.SIGKILL)
					}
				}
			}
		}
		var ended unix.WaitStatus
		pid, waitErr := unix.Wait4(-1, &ended, 0, nil)
		switch {
		case waitErr == unix.EINTR:
		case waitErr == unix.ECHILD && over:
			return status, err
		case waitErr != nil:
			return 0, fmt.Errorf("wait: %w", waitErr)
		case pid == tests.Process.Pid:
			over = true
			if status = ended.ExitStatus(); !ended.Exited() {
				err = fmt.Errorf("the tests were ended by signal %v", ended.Signal())
			}
		}
	}
}

// furnish makes the new namespaces a place where podman runs and where the
// machine does not notice.
func furnish() error {
	// Cut off from the machine, and then shared among the namespaces below ours,
	// as systemd has it on any machine: with --uidmap and root, podman runs
	// conmon in a mount namespace of its own and counts on its unmounts coming
	// back to us. (Else `podman rm` fails now and then with "userdata/shm: device
	// or resource busy", podman 4.3.1.)
	for _, propagation := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} {
		if err := unix.Mount("", "/", "", unix.MS_REC|propagation, ""); err != nil {
			return fmt.Errorf("change mount propagation: %w", err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := hideHybridCgroup(); err != nil {
		return err
	}
	if err := addTestUser(); err != nil {
		return err
	}
	return systemLog.listen(filepath.Join(workDir, "log"))
}

// hideHybridCgroup takes away the v2 tree that some machines mount beside
// cgroup v1: crun 1.8.1 refuses to run where it sees both.
func hideHybridCgroup() error {
	var base, unified unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &base) != nil || unix.Statfs("/sys/fs/cgroup/unified", &unified) != nil {
		return nil
	}
	if base.Type == unix.CGROUP2_SUPER_MAGIC || unified.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	if err := unix.Unmount("/sys/fs/cgroup/unified", 0); err != nil {
		return fmt.Errorf("unmount the cgroup v2 tree: %w", err)
	}
	return nil
}

// The user of the rootless engines, when root runs the tests. It exists only in
// copies of the machine's files that are mounted over them in our namespace.
const (
	testUser = "terok-e2e"
	testUID  = 4711
)

func addTestUser() error {
	for file, line := range map[string]string{
		"/etc/passwd": fmt.Sprintf("%s:x:%d:%d::/:/bin/sh\n", testUser, testUID, testUID),
		"/etc/group":  fmt.Sprintf("%s:x:%d:\n", testUser, testUID),
		"/etc/subuid": testUser + ":1879048192:65536\n",
		"/etc/subgid": testUser + ":1879048192:65536\n",
	} {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(file, "/etc/sub") {
			continue // no rootless containers on this machine; engine.setup says so
		}
		if err != nil {
			return err
		}
		if len(text) > 0 && text[len(text)-1] != '\n' {
			text = append(text, '\n')
		}
		ours := filepath.Join(workDir, filepath.Base(file))
		if err := os.WriteFile(ours, append(text, line...), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(ours, file, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount over %s: %w", file, err)
		}
	}
	return nil
}

// binary is the path of the hook, built for this run.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(workDir, "terok-gate-hook")
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "urfave_cli_no_docs", "-o", path, ".")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, os.Chmod(path, 0o755)
})

// rootfsTar is the one root file system that all fixtures are made from:
// busybox, its applets, and the folders that a runtime wants to mount on. It has
// no /run/terok, and nobody in it has a name.
var rootfsTar = sync.OnceValues(func() (string, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(workDir, "rootfs")
	for _, d := range []string{"bin", "dev", "etc", "proc", "run", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return "", err
		}
	}
	if err := copyFile(busybox, filepath.Join(dir, "bin/busybox"), 0o755); err != nil {
		return "", err
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return "", fmt.Errorf("%s --list: %w", busybox, err)
	}
	for _, applet := range strings.Fields(string(applets)) {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", applet)); err != nil && !errors.Is(err, os.ErrExist) {
			return "", err
		}
	}
	path := filepath.Join(workDir, "rootfs.tar")
	tar := exec.Command("tar", "-C", dir, "--owner=0", "--group=0", "-cf", path, ".")
	if out, err := tar.CombinedOutput(); err != nil {
		return "", fmt.Errorf("tar: %w\n%s", err, out)
	}
	return path, os.Chmod(path, 0o644)
})

func copyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
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

// need ends the test, as cannot does, if one of the programs is not installed.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			cannot(t, p+" is not installed")
		}
	}
}

// eventually waits until is() holds, and fails the test if that takes longer
// than anything here does on a busy machine.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
