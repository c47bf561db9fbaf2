// Extracts the sockets that other processes pass in their messages, and examines them.

package networks

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/control"
)

// socketState is the state of a socket, as the kernel reports it.
type socketState struct {
	cookie  uint64 // of its network namespace
	listens bool
	address string // where it listens; empty if it does not
}

// examine returns the state of a socket that was passed to the gate. It does not call the file's Fd
// method, which would make the socket block for every process that holds it.
func examine(file *os.File) (s socketState, err error) {
	conn, err := file.SyscallConn()
	if err != nil {
		return s, err
	}
	controlErr := conn.Control(func(fd uintptr) { s, err = examineFd(int(fd)) })
	return s, errors.Join(controlErr, err)
}

func examineFd(fd int) (s socketState, err error) {
	for option, want := range map[int]int{unix.SO_DOMAIN: unix.AF_INET, unix.SO_TYPE: unix.SOCK_STREAM, unix.SO_PROTOCOL: unix.IPPROTO_TCP} {
		switch got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option); {
		case err != nil:
			return s, fmt.Errorf("%w: %w", control.Malformed, err)
		case got != want:
			return s, fmt.Errorf("%w: not a TCP socket", control.Malformed)
		}
	}

	if s.cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err != nil {
		return s, fmt.Errorf("tell network namespaces apart: %w: Linux 5.14 or later is needed", err)
	}

	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if s.listens = listens != 0; err != nil || !s.listens {
		return s, err
	}

	name, err := unix.Getsockname(fd)
	if at, ok := name.(*unix.SockaddrInet4); ok {
		s.address = netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port)).String()
	}
	return s, err
}

// passed returns the files that came with a message (unix(7), SCM_RIGHTS).
func passed(rights []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}

	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // other ancillary data
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return files, nil
}
