// Limits how many connections a listener has at once, and closes all connections of a network. The
// limits for containers' networks are in networks.go, and those for the gate's own addresses in
// package gate.

package networks

import (
	"net"
	"sync"

	"terok-gate-hook/internal/batch"
)

// Limited returns a listener with at most limit connections at once. The listener has slots of its
// own; reserved is their number. While all of these are taken, further connections take slots of
// common, which several listeners share. When there is no free slot, new connections wait in the
// kernel.
func Limited(l net.Listener, limit, reserved int, common chan struct{}) net.Listener {
	return &limitedListener{
		Listener: l, slots: make(chan struct{}, limit), own: make(chan struct{}, reserved), common: common,
		closed: make(chan struct{}),
	}
}

type limitedListener struct {
	net.Listener
	slots       chan struct{} // one for each connection
	own, common chan struct{} // each connection also has a slot in one of these

	once   sync.Once
	closed chan struct{}
}

func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}

	from := l.own // first, so that common slots stay free for others
	select {
	case l.own <- struct{}{}:
	default:
		select {
		case l.own <- struct{}{}:
		case l.common <- struct{}{}:
			from = l.common
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}

	done := sync.OnceFunc(func() {
		<-from
		<-l.slots
	})

	conn, err := l.Listener.Accept()
	if err != nil {
		done()
		return nil, err
	}
	return &limitedConn{Conn: conn, Writer: batch.NewWriter(conn), done: done}, nil
}

func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	*batch.Writer
	done func()
}

func (c *limitedConn) Write(p []byte) (int, error) { return c.Writer.Write(p) }

func (c *limitedConn) Close() error {
	defer c.done()
	return c.Conn.Close()
}

// Plain returns the TCP connection inside a connection that was accepted from a [Network]. It
// returns any other connection as it is.
func Plain(conn net.Conn) net.Conn {
	for {
		switch c := conn.(type) {
		case *limitedConn:
			conn = c.Conn
		case *tracked:
			conn = c.TCPConn
		default:
			return conn
		}
	}
}

// CloseWrite is for net/http: without it, a client that has not finished sending may not get the
// answer.
func (c *limitedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// listener is a listener in a container's network, which records its open connections.
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

// connSet are the open connections of one listener.
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

// closeAll resets the connections. Otherwise a connection that waits for its peer would keep the
// network namespace alive.
func (c *connSet) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		_ = conn.SetLinger(0)
		_ = conn.TCPConn.Close()
	}
}
