// Starts processes in network namespaces, which stand for containers.

package testenv

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// NetworkProcess is a process in a network namespace whose only interface is the loopback.
type NetworkProcess struct {
	PID int
	End func() // ends the process, and returns when it has ended
}

// StartInNetwork starts a process in a new network namespace or, if neighbour is not 0, in that of
// the process with this pid. The process ends with the test.
func StartInNetwork(t testing.TB, neighbour int) *NetworkProcess {
	t.Helper()
	NeedRoot(t)
	Need(t, "ip", "nsenter")

	const script = `ip link set lo up && echo ready && exec cat`
	cmd := exec.Command("sh", "-c", script)
	if neighbour == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	} else {
		cmd = inNetworkOf(neighbour, "sh", "-c", script)
	}
	stdin, err := cmd.StdinPipe()
	Must(t, err)
	stdout, err := cmd.StdoutPipe()
	Must(t, err)

	Must(t, cmd.Start())
	p := &NetworkProcess{PID: cmd.Process.Pid, End: sync.OnceFunc(func() {
		stdin.Close()
		_ = cmd.Wait()
	})}
	t.Cleanup(p.End)

	ready := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(stdout, ready); err != nil || string(ready) != "ready\n" {
		t.Fatalf("the process in the network says %q: %v", ready, err)
	}
	return p
}

// Command returns a command that runs in the process's network.
func (p *NetworkProcess) Command(name string, args ...string) *exec.Cmd {
	return inNetworkOf(p.PID, append([]string{name}, args...)...)
}

func inNetworkOf(pid int, command ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", pid)}, command...)...)
}

// Enter calls a function on a thread in the process's network.
func (p *NetworkProcess) Enter(do func() error) error {
	network, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.PID))
	if err != nil {
		return err
	}
	defer network.Close()
	return InNetwork(network, do)
}

// InNetwork calls a function on a thread in a network namespace.
func InNetwork(network *os.File, do func() error) error {
	done := make(chan error)
	go func() { done <- inNetwork(network, do) }()
	return <-done
}

func inNetwork(network *os.File, do func() error) error {
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer own.Close()
	if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = do()

	// The thread returns to its own network. A thread that stays locked ends with its goroutine,
	// except for the first thread of a process, which would stay in the other network.
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}
