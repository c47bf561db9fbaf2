// Holds a listener to the number of connections that its caller gives, and closes all of them at
// once. The numbers are in networks.go for containers' networks, and in package gate for its own
// address.

package networks

import (
	"net"
	"sync"
)

// Limited returns a listener with at most most connections at once: own of them are its own,
// the others come from those that listeners have in common. More wait in the kernel.
func Limited(l net.Listener, most, own int, common chan struct{}) net.Listener {
	return &limitedListener{
		Listener: l, slots: make(chan struct{}, most), own: make(chan struct{}, own), common: common,
		closed: make(chan struct{}),
	}
}

type limitedListener struct {
	net.Listener
	slots       chan struct{} // of all its connections
	own, common chan struct{} // each connection has one of either, too

	once   sync.Once
	closed chan struct{}
}

func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}

	from := l.own // first: what is common stays for others
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
	return &limitedConn{Conn: conn, done: done}, nil
}

func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	done func()
}

func (c *limitedConn) Close() error {
	defer c.done()
	return c.Conn.Close()
}

// Plain returns the socket of a connection that was accepted from a [Network], and any other
// connection as it is.
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

// CloseWrite lets net/http send its answer to a client that has not finished sending.
func (c *limitedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
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
