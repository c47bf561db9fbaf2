// Accepts connections from other gates. Connections whose handshake is not done are counted apart,
// by address: peers without a certificate must not keep out gates that have one.

package mtls

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// handshakeTimeout is long, since a busy gate performs many handshakes at once: with 5 s, some
	// of 2,000 clones that began at once failed. mostUnfinished keeps a flood from filling memory.
	handshakeTimeout = 30 * time.Second

	// mostUnfinished is the largest number of connections whose handshake is not done. A further
	// one closes the oldest connection of the address that has the most of them. Addresses that
	// have addressShare or fewer count as equal, so a host that starts a few containers more than
	// others is not at a disadvantage.
	mostUnfinished = 2048
	addressShare   = 32
)

// listener returns connections whose handshake is done.
type listener struct {
	*net.TCPListener
	config *tls.Config
	failed func(error)
	slots  chan struct{} // of connections whose handshake is done
	ready  chan accepted

	once   sync.Once
	closed chan struct{}

	mu         sync.Mutex
	unfinished []*unfinished // the oldest first
	numbers    map[netip.Prefix]int
}

type accepted struct {
	conn net.Conn
	err  error
}

// unfinished is a connection whose handshake is not done.
type unfinished struct {
	conn *net.TCPConn
	from netip.Prefix
}

// errDisplaced is the error of a handshake whose connection was closed for a new one.
var errDisplaced = errors.New("too many connections have not finished their handshake")

// NewListener returns a listener for an [http.Server]. It accepts TLS connections from gates that
// have a certificate of the authority. At most limit accepted connections are open at once; further
// ones wait in the kernel. failed is called with the error of each failed handshake, which may
// quote the peer.
func (i *Identity) NewListener(l *net.TCPListener, limit int, failed func(error)) net.Listener {
	all := &listener{
		TCPListener: l, config: i.Server(), failed: failed, slots: make(chan struct{}, limit), ready: make(chan accepted),
		closed: make(chan struct{}), numbers: map[netip.Prefix]int{},
	}
	go all.run()
	return all
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case a := <-l.ready:
		return a.conn, a.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close closes the listener, and the connections whose handshake is not done.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	err := l.TCPListener.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.unfinished) > 0 {
		l.discard(l.unfinished[0])
	}
	return err
}

// run accepts connections until the listener is closed.
func (l *listener) run() {
	for l.awaitSlot() {
		conn, err := l.AcceptTCP()
		if err == nil {
			go l.shake(l.add(conn))
		} else if !l.offer(nil, err) || errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// awaitSlot waits until a slot is free, and leaves it to a connection whose handshake is done. It
// returns false if the listener is closed.
func (l *listener) awaitSlot() bool {
	if !l.takeSlot() {
		return false
	}
	<-l.slots
	return true
}

func (l *listener) takeSlot() bool {
	select {
	case l.slots <- struct{}{}:
		return true
	case <-l.closed:
		return false
	}
}

// offer makes Accept return a connection or an error. It returns false if the listener is closed.
func (l *listener) offer(conn net.Conn, err error) bool {
	select {
	case l.ready <- accepted{conn, err}:
		return true
	case <-l.closed:
		return false
	}
}

// shake performs the handshake of a connection, and then offers the connection.
func (l *listener) shake(one *unfinished) {
	tcp := newWatched(one.conn)
	conn := tls.Server(tcp, l.config)
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout))
	err := conn.Handshake()
	if there := l.remove(one); !there {
		err = errDisplaced
	}
	if err != nil {
		explain(err)
		_ = tcp.Close()
		l.failed(fmt.Errorf("%s: %w", one.conn.RemoteAddr(), err))
		return
	}
	_ = conn.SetDeadline(time.Time{})

	if !l.takeSlot() {
		_ = tcp.Close()
		return
	}
	go func() {
		tcp.watch()
		<-l.slots
	}()
	if !l.offer(conn, nil) {
		_ = tcp.Close()
	}
}

// explain answers a client that does not speak TLS, as net/http would.
func explain(err error) {
	if not := (tls.RecordHeaderError{}); errors.As(err, &not) && not.Conn != nil {
		_, _ = io.WriteString(not.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nonly TLS is spoken here\n")
	}
}

// add adds a connection to those whose handshake is not done.
func (l *listener) add(conn *net.TCPConn) *unfinished {
	one := &unfinished{conn, origin(conn)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.unfinished) >= mostUnfinished {
		l.discard(slices.MaxFunc(l.unfinished, func(a, b *unfinished) int { // the oldest, if several addresses have the most
			return cmp.Compare(l.weight(a), l.weight(b))
		}))
	}
	l.unfinished = append(l.unfinished, one)
	l.numbers[one.from]++
	return one
}

func (l *listener) weight(one *unfinished) int { return max(l.numbers[one.from], addressShare) }

// remove removes a connection from those whose handshake is not done. It returns false if discard
// has already removed it.
func (l *listener) remove(one *unfinished) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.drop(one)
}

func (l *listener) drop(one *unfinished) bool {
	i := slices.Index(l.unfinished, one)
	if i < 0 {
		return false
	}
	l.unfinished = slices.Delete(l.unfinished, i, i+1)
	if l.numbers[one.from]--; l.numbers[one.from] == 0 {
		delete(l.numbers, one.from)
	}
	return true
}

// discard closes a connection whose handshake is not done.
func (l *listener) discard(one *unfinished) {
	l.drop(one)
	_ = one.conn.SetLinger(0)
	_ = one.conn.Close()
}

// origin returns where a connection comes from: an IPv4 address, or the first 64 bits of an IPv6
// address, since a network usually has all addresses that begin with these bits.
func origin(conn *net.TCPConn) netip.Prefix {
	address := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	from, _ := address.Prefix(bits)
	return from
}
