// Makes connections between gates, and closes them soon after the other machine has vanished.

package mtls

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// keepAlive detects a vanished machine while no data is on its way. While sent data waits for an
// acknowledgement, the kernel sends no keepalives; [silence] covers that case.
//
// TCP_USER_TIMEOUT (tcp(7)) would cover that case, too. But it also ends a connection if the other
// side is alive and reads nothing until the timeout, as when a client is stopped (seen with Linux
// 6.18).
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}

const unacknowledged = 5 * time.Second

// connectTimeout is how long the other machine's kernel may take to accept a connection.
const connectTimeout = 5 * time.Second

// watched is a connection that is closed when the other machine has vanished.
type watched struct {
	batching
	seen    silence
	closed  atomic.Bool
	onClose func() // called once, unless it is nil
}

// watch looks at the connection at once, and then at the start of each second until the connection
// is closed. A gate may have a thousand connections, so none of them has a goroutine that waits for
// the next second, and the process wakes up once for all of them.
func (w *watched) watch() {
	switch {
	case w.closed.Load():
	case w.seen.isTooLong(silenceOf(w.TCPConn)):
		_ = w.Cut()
	default:
		next := time.Now().Truncate(time.Second).Add(time.Second)
		time.AfterFunc(time.Until(next), w.watch)
	}
}

// silence counts the seconds for which sent data has waited for an acknowledgement. The time since
// the last acknowledgement does not show how long the data has waited: if the connection was idle,
// or the other side took nothing, that time is long already when the next packet is sent.
type silence struct{ seconds int }

// isTooLong reports whether the other machine has vanished. It is called each second. waits says
// whether sent data waits for an acknowledgement. last is the time since the last acknowledgement.
func (s *silence) isTooLong(waits bool, last time.Duration) bool {
	if !waits || last < time.Second {
		s.seconds = 0
		return false
	}
	s.seconds++
	return s.seconds >= 3 && last >= unacknowledged
}

func silenceOf(conn *net.TCPConn) (waits bool, last time.Duration) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false, 0
	}
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			waits, last = info.Unacked > 0 || info.Probes > 0, time.Duration(info.Last_ack_recv)*time.Millisecond
		}
	})
	return waits, last
}

func (w *watched) Close() error {
	err := w.TCPConn.Close()
	if !w.closed.Swap(true) && w.onClose != nil {
		w.onClose()
	}
	return err
}

// Cut closes the connection at once, with a reset: the other side learns of it, but does not get
// data that is still on its way.
func (w *watched) Cut() error {
	_ = w.SetLinger(0) // sends RST
	return w.Close()
}

// Listen listens for other gates at an address. [Identity.NewListener] accepts their connections.
func Listen(ctx context.Context, address string) (*net.TCPListener, error) {
	config := net.ListenConfig{KeepAliveConfig: keepAlive}
	config.SetMultipathTCP(false)
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// Conn is a connection between two gates. Only one goroutine at a time may write to it.
type Conn struct {
	*tls.Conn
	tcp *watched
}

// Hold and Release are those of a [batch.Writer].
func (c *Conn) Hold() bool     { return c.tcp.out.Hold() }
func (c *Conn) Release() error { return c.tcp.out.Release() }

// Write writes all records of p with one system call, or few.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) <= recordSize {
		return c.Conn.Write(p)
	}
	return c.WriteThrough(c.Conn, p)
}

// WriteThrough writes p to w, which writes to c. All that w makes of p is sent with one system call,
// or few.
func (c *Conn) WriteThrough(w io.Writer, p []byte) (int, error) {
	if !c.Hold() {
		return w.Write(p)
	}
	n, err := w.Write(p)
	if failed := c.Release(); failed != nil {
		return 0, failed
	}
	return n, err
}

// BeforeRead makes Read call f each time before it waits for the other gate. If f returns an error,
// so does Read.
func (c *Conn) BeforeRead(f func() error) { c.tcp.beforeRead = f }

// Dial connects to another gate. A gate that has many connections may begin the handshake late; ctx
// limits how long Dial waits for it. With TLS 1.3, the handshake does not show whether the other
// gate accepts our certificate; the first read does.
func (i *Identity) Dial(ctx context.Context, address string) (*Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: connectTimeout, KeepAliveConfig: keepAlive}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}

	tcp := &watched{batching: newBatching(conn.(*net.TCPConn))}
	c := &Conn{tls.Client(tcp, i.Client(host)), tcp}
	if err := c.HandshakeContext(ctx); err != nil {
		_ = tcp.Close()
		return nil, fmt.Errorf("TLS with %s: %w", address, err)
	}
	tcp.established = true
	tcp.watch()
	return c, nil
}

// Cut closes the connection at once, with a reset: the other gate learns of it, but does not get
// data that is still on its way.
func (c *Conn) Cut() { _ = c.tcp.Cut() }
