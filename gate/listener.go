// Listeners that are made elsewhere: what they are, and what becomes of their connections
// when they end.

package gate

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/control"
)

// socketState is what the kernel says of a socket.
type socketState struct {
	cookie  uint64 // of its network namespace
	listens bool
	address string // where, if it does
}

// examine finds out what kind of socket somebody has passed. Not by its Fd, which would
// have it block, for everybody who holds it.
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
			return s, fmt.Errorf("%w: %w", control.NotWell, err)
		case got != want:
			return s, fmt.Errorf("%w: not a TCP socket", control.NotWell)
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

// listener is one in a container's network.
type listener struct {
	*net.TCPListener
	conns *connSet
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	c := &tracked{conn, l.conns}
	l.conns.mu.Lock()
	defer l.conns.mu.Unlock()
	l.conns.open[c] = struct{}{}
	return c, nil
}

// connSet are the connections of one listener that are open.
type connSet struct {
	mu   sync.Mutex
	open map[*tracked]struct{}
}

type tracked struct {
	*net.TCPConn
	among *connSet
}

func (c *tracked) Close() error {
	c.among.mu.Lock()
	delete(c.among.open, c)
	c.among.mu.Unlock()
	return c.TCPConn.Close()
}

// closeAll ends connections at once: one that waits for the other side would keep the
// network namespace.
func (c *connSet) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		_ = conn.SetLinger(0)
		_ = conn.TCPConn.Close()
	}
}
