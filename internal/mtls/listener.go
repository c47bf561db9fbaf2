// Accepts connections from other gates. Connections that wait, for the rest of their handshake or
// for a slot, are counted by address: peers without a certificate must not keep out gates that have
// one. Connections that have a slot are counted by host: no host may keep out another.

package mtls

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// handshakeTimeout is long, since a busy gate has many handshakes in progress: with 5 s, some of
	// 2,000 clones that began at once failed. mostWaiting keeps a flood from filling memory.
	handshakeTimeout = 30 * time.Second

	// mostWaiting is the largest number of connections that wait: for the rest of their handshake,
	// or for a slot. A further one closes the oldest connection of the address that has the most of
	// them. If no address has more than addressShare, it closes the oldest connection of all. So a
	// host that starts a few containers more than others is not at a disadvantage.
	mostWaiting  = 2048
	addressShare = 32

	// One host has at most the hostShare-th part of all slots, so an attacker who controls a host
	// keeps out no other host. A further connection waits at most shareTimeout.
	hostShare    = 4
	shareTimeout = 30 * time.Second
)

// listener returns connections whose handshake is done.
type listener struct {
	*net.TCPListener
	config *tls.Config
	failed func(error)
	ready  chan accepted

	ctx   context.Context // until the listener is closed
	close context.CancelFunc

	slots chan struct{} // of open connections whose handshake is done
	turns chan struct{} // of handshakes that the processors work on

	mu      sync.Mutex
	hosts   map[host]*share
	waiting []*waiting           // the oldest first
	numbers map[netip.Prefix]int // of waiting connections, by origin
}

type accepted struct {
	conn net.Conn
	err  error
}

// host is a gate that has connected: the names in its certificate, and where it connects from. All
// nodes of a Kubernetes cluster may have one certificate.
type host struct {
	names string
	from  netip.Prefix
}

// share counts the connections of a host.
type share struct {
	slots chan struct{} // of open connections
	users int           // connections that are open or wait
}

// waiting is a connection that waits, for the rest of its handshake or for a slot.
type waiting struct {
	conn *net.TCPConn
	from netip.Prefix

	ctx  context.Context // until the connection is closed to make room, or the listener is closed
	stop context.CancelCauseFunc
}

var (
	// errDisplaced is the error of a connection that was closed for a new one.
	errDisplaced = errors.New("too many connections wait for their handshake or for a slot")

	errShare = errors.New("this host has a quarter of all connections, which is the most for one host")
)

// NewListener returns a listener for an [http.Server]. It accepts TLS connections from gates that
// have a certificate of the authority. At most limit accepted connections are open at once, and a
// quarter of these from one host. Further ones wait. If a connection fails before it is accepted, and
// is no probe of the port, failed is called with the error, which may quote the peer.
func (i *Identity) NewListener(l *net.TCPListener, limit int, failed func(error)) net.Listener {
	all := &listener{
		TCPListener: l, config: i.Server(), failed: failed, ready: make(chan accepted),
		slots: make(chan struct{}, limit), turns: make(chan struct{}, runtime.GOMAXPROCS(0)),
		hosts: map[host]*share{}, numbers: map[netip.Prefix]int{},
	}
	choose := all.config.GetConfigForClient
	all.config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if err := hello.Conn.(*shaking).begin(); err != nil {
			return nil, err
		}
		return choose(hello)
	}
	all.ctx, all.close = context.WithCancel(context.Background())
	go all.run()
	return all
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case a := <-l.ready:
		return a.conn, a.err
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close closes the listener, and the connections that wait.
func (l *listener) Close() error {
	l.close()
	err := l.TCPListener.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.waiting) > 0 {
		l.discard(l.waiting[0], net.ErrClosed)
	}
	return err
}

// run accepts connections until the listener is closed. While all slots are taken, it accepts none:
// connections whose handshake is done come first.
func (l *listener) run() {
	for awaitFree(l.ctx, l.slots) == nil {
		conn, err := l.AcceptTCP()
		if err == nil {
			go l.shake(l.add(conn))
		} else if !l.offer(nil, err) || errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// take takes a slot when one is free. It fails, with the cause, if the context ends before.
func take(ctx context.Context, slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// awaitFree waits until a slot is free, and does not take it.
func awaitFree(ctx context.Context, slots chan struct{}) error {
	err := take(ctx, slots)
	if err == nil {
		<-slots
	}
	return err
}

// offer makes Accept return a connection or an error. It returns false if the listener is closed.
func (l *listener) offer(conn net.Conn, err error) bool {
	select {
	case l.ready <- accepted{conn, err}:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// shaking is a connection whose handshake is in progress. When the peer's first message has
// arrived, the handshake waits for its turn, and for a free slot. Otherwise, thousands of
// handshakes that begin at once would fill the memory, and all of them would end late.
//
// The turn lasts until the peer has to answer, so a slow peer does not delay others.
type shaking struct {
	*watched
	listener *listener
	waiting  *waiting
	hasTurn  bool
}

// begin waits for the turn.
func (s *shaking) begin() error {
	if err := awaitFree(s.waiting.ctx, s.listener.slots); err != nil {
		return err
	}
	if err := take(s.waiting.ctx, s.listener.turns); err != nil {
		return err
	}
	s.hasTurn = true
	return s.SetDeadline(time.Now().Add(handshakeTimeout))
}

// end ends the turn, if it has begun.
func (s *shaking) end() {
	if s.hasTurn {
		s.hasTurn = false
		<-s.listener.turns
	}
}

// Read is called for the peer's first message, and when the answer to that message has been sent.
func (s *shaking) Read(p []byte) (int, error) {
	s.end()
	return s.watched.Read(p)
}

// shake performs the handshake of a connection, and then offers the connection.
func (l *listener) shake(one *waiting) {
	tcp := &shaking{watched: &watched{batching: newBatching(one.conn)}, listener: l, waiting: one}
	conn := tls.Server(tcp, l.config)
	release, err := l.admit(one, conn)
	tcp.end()
	l.remove(one)
	if err != nil {
		explain(err)
		_ = tcp.Close()
		if !isProbe(conn, err) {
			l.failed(fmt.Errorf("%s: %w", one.conn.RemoteAddr(), err))
		}
		return
	}

	tcp.onClose, tcp.established = release, true
	tcp.watch()
	if !l.offer(&Conn{conn, tcp.watched}, nil) {
		_ = tcp.Close()
	}
}

// admit performs a handshake, and takes a slot of the host and one of the listener.
func (l *listener) admit(one *waiting, conn *tls.Conn) (release func(), err error) {
	_ = one.conn.SetDeadline(time.Now().Add(handshakeTimeout))
	if err := conn.Handshake(); err != nil {
		return nil, cmp.Or(context.Cause(one.ctx), err)
	}
	_ = one.conn.SetDeadline(time.Time{})

	ofHost, leave := l.share(one, conn.ConnectionState().PeerCertificates[0])
	ctx, done := context.WithTimeoutCause(one.ctx, shareTimeout, errShare)
	defer done()
	if err := take(ctx, ofHost); err != nil {
		leave()
		return nil, err
	}
	if err := take(one.ctx, l.slots); err != nil {
		<-ofHost
		leave()
		return nil, err
	}
	return func() {
		<-l.slots
		<-ofHost
		leave()
	}, nil
}

// share returns the slots of the host whose certificate a connection has shown. They are the same
// for all of the host's connections, until the last of them has called leave.
func (l *listener) share(one *waiting, shown *x509.Certificate) (slots chan struct{}, leave func()) {
	of := host{strings.Join(shown.DNSNames, " "), one.from}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hosts[of] == nil {
		l.hosts[of] = &share{slots: make(chan struct{}, max(1, cap(l.slots)/hostShare))}
	}
	mine := l.hosts[of]
	mine.users++
	return mine.slots, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if mine.users--; mine.users == 0 {
			delete(l.hosts, of)
		}
	}
}

// isProbe reports whether a peer has connected, sent nothing, and closed the connection, as
// Kubernetes does to see whether the port is open.
func isProbe(conn *tls.Conn, err error) bool {
	return errors.Is(err, io.EOF) && conn.ConnectionState().Version == 0
}

// explain answers a client that does not speak TLS, as net/http would.
func explain(err error) {
	if not := (tls.RecordHeaderError{}); errors.As(err, &not) && not.Conn != nil {
		_, _ = io.WriteString(not.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nonly TLS is spoken here\n")
	}
}

// add adds a connection to those that wait.
func (l *listener) add(conn *net.TCPConn) *waiting {
	one := &waiting{conn: conn, from: origin(conn)}
	one.ctx, one.stop = context.WithCancelCause(l.ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) >= mostWaiting {
		l.discard(slices.MaxFunc(l.waiting, func(a, b *waiting) int { // of equal ones the first, which is the oldest
			return cmp.Compare(l.weight(a), l.weight(b))
		}), errDisplaced)
	}
	l.waiting = append(l.waiting, one)
	l.numbers[one.from]++
	if l.ctx.Err() != nil { // Close may be done already
		l.discard(one, net.ErrClosed)
	}
	return one
}

func (l *listener) weight(one *waiting) int { return max(l.numbers[one.from], addressShare) }

// remove removes a connection from those that wait, if it is one of them.
func (l *listener) remove(one *waiting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(one, nil)
}

func (l *listener) drop(one *waiting, cause error) {
	one.stop(cause)
	i := slices.Index(l.waiting, one)
	if i < 0 {
		return
	}
	l.waiting = slices.Delete(l.waiting, i, i+1)
	if l.numbers[one.from]--; l.numbers[one.from] == 0 {
		delete(l.numbers, one.from)
	}
}

// discard closes a connection that waits.
func (l *listener) discard(one *waiting, cause error) {
	l.drop(one, cause)
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
