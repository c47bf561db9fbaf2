// Connections between gates: how soon the end of the other machine is noticed.

package mtls

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A machine that vanishes answers no keepalive, which the kernel sends while nothing is under
// way, and acknowledges nothing of what is. Both end the connection after these times.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}

const unacknowledged = 5 * time.Second

// setTimeout sets TCP_USER_TIMEOUT (tcp(7)). Connections inherit it from their listener.
func setTimeout(_, _ string, c syscall.RawConn) error {
	var err error
	controlErr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged.Milliseconds()))
	})
	if controlErr != nil {
		return controlErr
	}
	return err
}

// Listen listens for other gates at an address. The caller limits the listener before it adds
// TLS.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	config := net.ListenConfig{KeepAliveConfig: keepAlive, Control: setTimeout}
	config.SetMultipathTCP(false)
	return config.Listen(ctx, "tcp", address)
}

// Conn is a connection to another gate.
type Conn struct {
	*tls.Conn
	tcp *net.TCPConn
}

// Dial connects to another gate. The handshake does not show whether the other gate accepts our
// certificate: with TLS 1.3 the first read does.
func (i *Identity) Dial(ctx context.Context, address string) (*Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{KeepAliveConfig: keepAlive, Control: setTimeout}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}

	c := &Conn{tls.Client(conn, i.Client(host)), conn.(*net.TCPConn)}
	if err := c.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS with %s: %w", address, err)
	}
	return c, nil
}

// Cut ends the connection at once. The other gate is told, and gets nothing of what is still on
// its way.
func (c *Conn) Cut() {
	_ = c.tcp.SetLinger(0) // sends RST
	_ = c.tcp.Close()
}
