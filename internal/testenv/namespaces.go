// Runs the tests of a package in namespaces of their own, so that they do not change the
// machine.

package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A run goes through three processes, all of this test binary:
//
//	outside   what `go test` started; waits, then removes Dir
//	init      the first one in the namespaces; collects orphans
//	tests     runs the tests
const (
	stageVar = "TEROK_TEST_STAGE" // "" (outside), "init" or "tests"
	aloneVar = "TEROK_TEST_ALONE" // "yes" in new namespaces
	dirVar   = "TEROK_TEST_DIR"
)

// Alone reports whether the tests run in the namespaces that Main was asked to make. It is false if
// the machine does not permit these, or if Main was asked for none.
var Alone = os.Getenv(aloneVar) == "yes"

// Main runs the tests of a package in new namespaces (flags of clone(2), or 0 for none), and exits.
// In a mount namespace, the tests do not change the machine's mounts. In a pid namespace, the
// kernel ends all processes that the tests have started, however the tests end. Without a pid
// namespace, Main ends these processes, unless Main itself is killed. In a user namespace, the
// tests have the caller's user id, and may mount.
func Main(namespaces uintptr, tests func() (status int, err error)) {
	var status int
	var err error
	switch os.Getenv(stageVar) {
	case "":
		status, err = outside(namespaces)
	case "init":
		if Alone && settle(namespaces) != nil {
			os.Exit(notAlone)
		}
		status, err = initProcess()
	case "tests":
		status, err = tests()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, filepath.Base(os.Args[0])+":", err)
		status = 1
	}
	os.Exit(status)
}

// notAlone is the exit status of an init that may not set up its namespaces.
const notAlone = 77

func outside(namespaces uintptr) (status int, err error) {
	Dir, err = os.MkdirTemp("", "terok-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(Dir)
	if err := os.Chmod(Dir, 0o755); err != nil {
		return 0, err
	}

	if namespaces != 0 {
		cmd := stage("init", aloneVar+"=yes", dirVar+"="+Dir)
		cmd.SysProcAttr.Cloneflags = namespaces
		if uid, gid := os.Geteuid(), os.Getegid(); namespaces&unix.CLONE_NEWUSER != 0 {
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
			cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
		}

		if err := cmd.Start(); err == nil {
			if status, err := wait(cmd); status != notAlone {
				return status, err
			}
		}
	}

	cmd := stage("init", dirVar+"="+Dir)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	return wait(cmd)
}

// wait waits until the run is over, and ends it if a signal asks this process to end.
func wait(cmd *exec.Cmd) (status int, err error) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	go func() {
		<-signals
		cmd.Process.Kill()
	}()
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// stage returns a command that runs the run's next process. The kernel kills that process when the
// thread that starts it ends.
func stage(name string, env ...string) *exec.Cmd {
	runtime.LockOSThread()
	cmd := Again(os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(append(cmd.Env, stageVar+"="+name), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd
}

// initProcess runs the tests. It waits for them, and for every process that has lost its parent:
// otherwise a conmon that has ended would count as running. When the tests are over, it ends the
// processes that are left.
func initProcess() (status int, err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("collect orphans: %w", err)
	}

	tests := stage("tests")
	if err := tests.Start(); err != nil {
		return 0, err
	}

	over := false
	for {
		if over {
			killChildren()
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

func killChildren() {
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

// settle separates our mounts from the machine's. If there is a new pid namespace, it mounts the
// /proc of that namespace.
func settle(namespaces uintptr) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if namespaces&unix.CLONE_NEWPID == 0 {
		return nil
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}
