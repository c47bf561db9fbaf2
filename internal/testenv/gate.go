// Makes sockets for a real gate, which is either package gate in the test's process or the program
// terok-gate.

package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
)

// ListenForHooks listens at a control socket, for the gate's ServeControl. It replaces the socket
// of an earlier listener. Closing the listener leaves the socket behind, as a gate that is killed
// does.
func ListenForHooks(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err == nil {
		l.SetUnlinkOnClose(false)
	}
	return l, err
}

// ListenForClients opens a TCP socket on the loopback, for ServiceCommand.
func ListenForClients() (socket *os.File, address string, err error) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, "", err
	}
	defer l.Close()
	socket, err = l.File()
	return socket, l.Addr().String(), err
}

// ServiceCommand returns a command that runs a program as a service manager does, and passes
// it the files (sd_listen_fds(3)). The program runs in the process that the command starts.
func ServiceCommand(passed []*os.File, program string, args ...string) *exec.Cmd {
	// LISTEN_PID is the pid of the receiver, which only the process itself knows.
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh", program}, args...)...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("LISTEN_FDS=%d", len(passed)))
	cmd.ExtraFiles = passed
	return cmd
}
