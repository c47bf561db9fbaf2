//go:build engines

package node

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

// Container is a container whose network and token are known, also after its death.
type Container struct {
	Token string

	pid     int
	pidfd   int
	network *os.File
}

// Hold returns the container whose process 1 has this pid on this machine.
func Hold(t *testing.T, pid int) *Container {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	testenv.Must(t, err)
	t.Cleanup(func() { unix.Close(pidfd) })
	network, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	testenv.Must(t, err)
	t.Cleanup(func() { network.Close() })

	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/run/terok/gate.env", pid))
	testenv.Must(t, err)
	token := regexp.MustCompile("terok-g-[0-9a-f]+").Find(env)
	if token == nil {
		t.Fatalf("process %d has no token", pid)
	}
	return &Container{string(token), pid, pidfd, network}
}

// Served returns nil if a request that shows the token is served in the container's network. It
// first sets the loopback interface up, which is down once the pod is gone.
func (c *Container) Served(token, repository string) error {
	cmd := exec.Command("nsenter", "--net=/proc/self/fd/3", "sh", "-c", `ip link set lo up && exec git "$@"`, "git", "-c", "credential.helper=!f() { echo username=$TOKEN; echo password=x; }; f", "ls-remote", repository)
	cmd.Env = append(os.Environ(), "TOKEN="+token, "GIT_TERMINAL_PROMPT=0")
	cmd.ExtraFiles = []*os.File{c.network}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// Kill kills the container's process, and returns after its death.
func (c *Container) Kill(t *testing.T) {
	t.Helper()
	testenv.Must(t, syscall.Kill(c.pid, syscall.SIGKILL))
	c.Ended(t)
}

// Ended returns after the death of the container's process.
func (c *Container) Ended(t *testing.T) {
	t.Helper()
	ended := []unix.PollFd{{Fd: int32(c.pidfd), Events: unix.POLLIN}}
	if n, err := unix.Poll(ended, int(testenv.AWhile.Milliseconds())); n != 1 {
		t.Fatalf("it lives: %v", err)
	}
}
