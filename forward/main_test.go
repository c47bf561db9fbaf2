package forward_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/forward"
	"terok-gate-hook/gate"
	"terok-gate-hook/hook"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

// must is for errors of steps that are not themselves tested.
func must(t testing.TB, err error) {
	t.Helper()
	testenv.Must(t, err)
}

// harness is a forwarder with a gate beside it, and hooks that ask both.
type harness struct {
	*forward.Forwarder
	settings forward.Settings
	hook     hook.Settings
	tokens   store.File

	mu     sync.Mutex
	events []trail.Event
}

// open starts a forwarder for these services.
func open(t *testing.T, services map[string]forward.Target, keeper *testenv.Shelf) *harness {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.Need(t, "git", "ip", "nsenter")
	dir := t.TempDir()
	h := &harness{tokens: store.File{Path: filepath.Join(dir, "tokens.json")}}
	h.hook = hook.Settings{Tokens: h.tokens, GateSocket: filepath.Join(dir, "gate/control"), GateTimeout: 10 * time.Second}
	h.settings = forward.Settings{Services: services, Tokens: h.tokens.Reader(func(error) {}), Trail: h.record}
	if keeper != nil {
		h.settings.Keeper = keeper
	}

	repos := filepath.Join(dir, "repos")
	must(t, os.Mkdir(repos, 0o755))
	g, err := gate.New(gate.Settings{Repos: repos, Tokens: h.settings.Tokens})
	must(t, err)
	go g.ServeControl(listen(t, h.hook.GateSocket))
	t.Cleanup(func() { g.Stop(ended()) })

	h.begin(t)
	t.Cleanup(func() { h.Stop(ended()) })
	return h
}

// begin starts a forwarder in the place of the last one.
func (h *harness) begin(t *testing.T) {
	t.Helper()
	f, err := forward.New(h.settings)
	must(t, err)
	h.Forwarder = f
	go f.ServeControl(listen(t, control.ForwardSocket(h.hook.GateSocket)))
}

// ended returns a context that is done.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func listen(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	l, err := testenv.ListenForHooks(path)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func (h *harness) record(events ...trail.Event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, events...)
	return nil
}

// trailed waits for a number of events of a kind.
func (h *harness) trailed(t *testing.T, event string, number int) (found []trail.Event) {
	t.Helper()
	testenv.Eventually(t, fmt.Sprintf("the trail has %d events %q", number, event), func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		found = slices.DeleteFunc(slices.Clone(h.events), func(e trail.Event) bool { return e.Event != event })
		return len(found) >= number
	})
	return found
}

// container is a process in a network namespace, with a token.
type container struct {
	store.Entry
	*testenv.NetworkProcess
	network  *os.File
	services map[string]string // that it started with
}

// container starts a container that may use services, in the neighbour's network if there is one.
func (h *harness) container(t *testing.T, neighbour *container, services map[string]string) *container {
	t.Helper()
	pid := 0
	if neighbour != nil {
		pid = neighbour.PID
	}
	c := &container{NetworkProcess: testenv.StartInNetwork(t, pid), services: services}
	token, err := store.NewToken()
	must(t, err)
	c.Entry = store.Entry{
		Token: token, Grant: store.Grant{Project: "demo", Task: fmt.Sprintf("task-%d", c.PID)}, Container: fmt.Sprintf("c%d", c.PID),
		Gate: &store.Attached{Listen: "127.0.0.1:9418", Services: services},
	}
	c.Process, err = store.ProcessOf(c.PID)
	must(t, err)
	c.network, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", c.PID))
	must(t, err)
	t.Cleanup(func() { c.network.Close() })
	must(t, testenv.InNetwork(c.network, func() error {
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(socket)
			c.Gate.Network, err = unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		}
		return err
	}))
	return c
}

// end ends the container, and lets go of its network.
func (c *container) end() {
	c.network.Close()
	c.End()
}

// start does all that a hook does.
func (h *harness) start(t *testing.T, c *container) *container {
	t.Helper()
	must(t, h.hook.Attach(c.Entry))
	h.commit(t, c)
	return c
}

func (h *harness) commit(t *testing.T, c *container) {
	t.Helper()
	_, err := h.tokens.Issue(c.Entry)
	must(t, err)
}

func (h *harness) revoke(t *testing.T, c *container) {
	t.Helper()
	_, err := h.tokens.Revoke(func(e store.Entry) bool { return e.Container == c.Container })
	must(t, err)
}

// dial connects to a service from within the container.
func (c *container) dial(service string) (conn net.Conn, err error) {
	err = testenv.InNetwork(c.network, func() (err error) {
		conn, err = net.DialTimeout("tcp", c.services[service], testenv.AWhile)
		return err
	})
	return conn, err
}

// connect is dial, which must succeed.
func (c *container) connect(t *testing.T, service string) net.Conn {
	t.Helper()
	conn, err := c.dial(service)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// client is an HTTP client in the container.
func (c *container) client(t *testing.T, service string) *http.Client {
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return c.dial(service) }}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// ends makes a connection, and returns how it ends. It is an error if anything is heard before
// that. If the connection is reset at once, dial may already fail.
func (c *container) ends(service string) error {
	conn, err := c.dial(service)
	if err != nil {
		return err
	}
	defer conn.Close()
	heard, err := io.ReadAll(conn)
	if len(heard) > 0 {
		return fmt.Errorf("it says %q", heard)
	}
	return err
}

// asks reports what an echo service answers in the container, and how the connection ends.
func (c *container) asks(service, what string) (string, error) {
	conn, err := c.dial(service)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, what); err != nil {
		return "", err
	}
	_ = conn.(*net.TCPConn).CloseWrite() // if the connection was reset meanwhile, ReadAll returns the reason
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// echo is a service that answers with what it hears, once it has heard all of it. So the client must
// close only its writing side.
func echo(t *testing.T, network, address string) forward.Target {
	return service(t, network, address, func(conn net.Conn) {
		heard, err := io.ReadAll(conn)
		if err == nil {
			_, _ = conn.Write(heard)
		}
	})
}

// service listens on the host, and serves each connection.
func service(t *testing.T, network, address string, serve func(net.Conn)) forward.Target {
	t.Helper()
	l, err := net.Listen(network, address)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go testenv.Accept(l, serve)
	return forward.Target{Network: network, Address: l.Addr().String()}
}
