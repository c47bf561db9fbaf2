package mtls

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"terok-gate-hook/internal/testenv"
)

// identityOf returns an identity whose certificate has this name.
func identityOf(t *testing.T, authority *testenv.Authority, name string) *Identity {
	t.Helper()
	cert, key := authority.Issue(t, name, nil, name)
	identity, err := New(cert, key, authority.CA)
	testenv.Must(t, err)
	return identity
}

// serveAtMost listens with a certificate of an authority, for at most limit connections. It writes a
// byte to each connection that it accepts, and counts failed handshakes.
func serveAtMost(t *testing.T, authority *testenv.Authority, limit int) (address string, failed *atomic.Int32) {
	t.Helper()
	tcp, err := Listen(t.Context(), "127.0.0.1:0")
	testenv.Must(t, err)

	failed = new(atomic.Int32)
	l := identityOf(t, authority, "repos").NewListener(tcp, limit, func(error) { failed.Add(1) })
	t.Cleanup(func() { _ = l.Close() })
	go testenv.Accept(l, func(conn net.Conn) {
		_, _ = conn.Write([]byte{1})
		_, _ = io.Copy(io.Discard, conn)
	})
	return tcp.Addr().String(), failed
}

// connector returns a function that connects as a host. When the listener accepts the connection,
// the function's channel gets nil.
func connector(t *testing.T, authority *testenv.Authority, address, host string) func() (net.Conn, <-chan error) {
	t.Helper()
	identity := identityOf(t, authority, host)
	return func() (net.Conn, <-chan error) {
		conn, err := identity.Dial(t.Context(), address)
		testenv.Must(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		accepted := make(chan error, 1)
		go func() {
			_, err := io.ReadFull(conn, make([]byte, 1))
			accepted <- err
		}()
		return conn, accepted
	}
}

func TestOneHostHasAtMostAQuarterOfAllConnections(t *testing.T) {
	authority := testenv.NewAuthority(t, t.TempDir())
	address, _ := serveAtMost(t, authority, 8)
	connectAs := map[string]func() (net.Conn, <-chan error){}
	for _, host := range []string{"host-a", "host-b"} {
		connectAs[host] = connector(t, authority, address, host)
	}

	first, accepted := connectAs["host-a"]()
	testenv.Must(t, <-accepted)
	_, accepted = connectAs["host-a"]()
	testenv.Must(t, <-accepted)
	var more []<-chan error
	for range 20 {
		_, accepted := connectAs["host-a"]()
		more = append(more, accepted)
	}
	for range 2 {
		_, accepted := connectAs["host-b"]()
		testenv.Must(t, <-accepted)
	}
	for _, accepted := range more {
		select {
		case err := <-accepted:
			t.Errorf("a third connection of host-a did not wait: %v", err)
		default:
		}
	}

	testenv.Must(t, first.Close())
	testenv.Eventually(t, "one that waited is accepted when another ends", func() bool {
		for _, accepted := range more {
			select {
			case err := <-accepted:
				return err == nil
			default:
			}
		}
		return false
	})
}

// deaf is a client's connection that never gives the server's answers to the client's TLS.
type deaf struct {
	net.Conn
	until <-chan struct{}
}

func (d deaf) Read([]byte) (int, error) {
	<-d.until
	return 0, net.ErrClosed
}

func TestPeersThatStallInTheHandshakeDelayNoOthers(t *testing.T) {
	authority := testenv.NewAuthority(t, t.TempDir())
	address, _ := serveAtMost(t, authority, 8)
	for range 4 * runtime.GOMAXPROCS(0) {
		conn, err := net.Dial("tcp", address)
		testenv.Must(t, err)
		defer conn.Close()
		go func() {
			_ = tls.Client(deaf{conn, t.Context().Done()}, &tls.Config{InsecureSkipVerify: true}).Handshake()
		}()
		testenv.Must(t, conn.SetReadDeadline(time.Now().Add(testenv.AWhile)))
		_, err = conn.Read(make([]byte, 1)) // the listener has answered the first message
		testenv.Must(t, err)
	}

	_, accepted := connector(t, authority, address, "host-a")()
	testenv.Must(t, <-accepted)
}

func TestNoHandshakeBeginsWhileAllSlotsAreTaken(t *testing.T) {
	l := &listener{slots: make(chan struct{}, 1), turns: make(chan struct{}, 1)}
	l.slots <- struct{}{}
	ctx, stop := context.WithCancelCause(t.Context())
	stop(errDisplaced)
	// There is a free turn, and the context has ended. A begin that did not wait for a slot first
	// would succeed in about half of the tries.
	for range 20 {
		waits := &shaking{listener: l, waiting: &waiting{ctx: ctx}}
		if err := waits.begin(); err != errDisplaced {
			t.Fatalf("the handshake begins: %v", err)
		}
	}
}

func TestAProbeOfThePortIsNoFailedHandshake(t *testing.T) {
	authority := testenv.NewAuthority(t, t.TempDir())
	address, failed := serveAtMost(t, authority, 8)
	for range 3 {
		conn, err := net.Dial("tcp", address)
		testenv.Must(t, err)
		testenv.Must(t, conn.(*net.TCPConn).CloseWrite())
		_, _ = io.Copy(io.Discard, conn) // until the listener closes its side
		testenv.Must(t, conn.Close())
	}
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
	testenv.Must(t, err)
	_, _ = io.Copy(io.Discard, conn)
	testenv.Must(t, conn.Close())
	testenv.Eventually(t, "the one without a certificate has failed", func() bool { return failed.Load() > 0 })
	if got := failed.Load(); got != 1 {
		t.Errorf("%d handshakes failed", got)
	}
}

func TestAConnectionAcceptedWhileTheListenerClosesIsClosed(t *testing.T) {
	authority := testenv.NewAuthority(t, t.TempDir())
	closing, err := Listen(t.Context(), "127.0.0.1:0")
	testenv.Must(t, err)
	l := identityOf(t, authority, "repos").NewListener(closing, 8, func(error) {}).(*listener)
	testenv.Must(t, l.Close())

	tcp, err := Listen(t.Context(), "127.0.0.1:0")
	testenv.Must(t, err)
	defer tcp.Close()
	client, err := net.Dial("tcp", tcp.Addr().String())
	testenv.Must(t, err)
	defer client.Close()
	conn, err := tcp.AcceptTCP()
	testenv.Must(t, err)
	defer conn.Close()

	l.add(conn)
	testenv.Must(t, client.SetReadDeadline(time.Now().Add(testenv.AWhile)))
	if _, err := client.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is still open: %v", err)
	}
}
