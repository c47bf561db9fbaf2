package forward_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/forward"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

// llm are the services of a container that may use the model.
var llm = map[string]string{"llm": "127.0.0.1:4000"}

// isReset reports whether a connection was cut, not closed.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func TestAContainerWithoutANetworkReachesAService(t *testing.T) {
	for name, target := range map[string]func(t *testing.T) forward.Target{
		"at an address": func(t *testing.T) forward.Target { return echo(t, "tcp", "127.0.0.1:0") },
		"at a socket":   func(t *testing.T) forward.Target { return echo(t, "unix", filepath.Join(t.TempDir(), "s")) },
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, map[string]forward.Target{"llm": target(t)}, nil)
			c := h.start(t, h.container(t, nil, llm))
			much := strings.Repeat("0123456789abcdef", 1<<16)
			if answer, err := c.asks("llm", much); err != nil || answer != much {
				t.Errorf("the answer has %d bytes of %d, %v", len(answer), len(much), err)
			}
			line := h.trailed(t, trail.Connection, 1)[0]
			if line.Container != c.Container || line.Project != "demo" || line.Service != "llm" || line.Bytes != int64(2*len(much)) || line.Error != "" ||
				line.Fingerprint != c.Token.Fingerprint() || !strings.HasPrefix(line.From, "listener-"+c.Container+"-") || line.Duration <= 0 {
				t.Errorf("the trail says %+v", line)
			}
		})
	}
}

func TestAContainerReachesOnlyTheGateAndItsServices(t *testing.T) {
	h := open(t, map[string]forward.Target{"llm": echo(t, "tcp", "127.0.0.1:0"), "db": echo(t, "tcp", "127.0.0.1:0")}, nil)
	c := h.start(t, h.container(t, nil, llm))

	var found []int
	must(t, testenv.InNetwork(c.network, func() error {
		for port := 1; port < 1<<16; port++ {
			socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			// The socket gets another address, since a socket that connects to its own address and
			// port reaches itself.
			if err = unix.Bind(socket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 2}}); err == nil {
				err = unix.Connect(socket, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
			}
			unix.Close(socket)
			if err == nil {
				found = append(found, port)
			} else if err != unix.ECONNREFUSED {
				return err
			}
		}
		return nil
	}))
	if !slices.Equal(found, []int{4000, 9418}) {
		t.Errorf("a scan of the container's loopback finds the ports %d", found)
	}
}

func TestAServiceIsReachedOnlyWhileTheTokenIsValid(t *testing.T) {
	cutService := make(chan error, 1)
	target := service(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		_, err := conn.Write([]byte("hello"))
		if err == nil {
			_, err = io.ReadAll(conn)
		}
		cutService <- err
	})
	for name, end := range map[string]struct {
		end    func(h *harness, c *container)
		reason string
	}{
		"revoked": {func(h *harness, c *container) { h.revoke(t, c) }, "the token was revoked"},
		"for another service now": {func(h *harness, c *container) {
			c.Gate.Services = map[string]string{"db": "127.0.0.1:4000"}
			h.commit(t, c)
		}, "the token is not for this service"},
		"taken away": {func(h *harness, c *container) {
			_, err := h.tokens.ChangeRights(c.Container, func(r *store.Rights) error { delete(r.Services, "llm"); return nil })
			must(t, err)
		}, "the token is not for this service"},
		"frozen": {func(h *harness, c *container) {
			must(t, h.tokens.EditFreezes(func(f *store.Freezes) bool { return f.SetProject("demo", true) }))
		}, store.ErrFrozen.Error()},
		"the process ends":    {func(h *harness, c *container) { c.End() }, "the token's process has ended"},
		"the forwarder stops": {func(h *harness, c *container) { h.Stop(ended()) }, "terok-gate forward stops"},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, map[string]forward.Target{"llm": target}, nil)
			c := h.container(t, nil, llm)
			must(t, h.hook.Attach(c.Entry))
			if err := c.ends("llm"); !isReset(err) {
				t.Errorf("before the token counts, the connection ends with %v", err)
			}
			if line := h.trailed(t, trail.Refused, 1)[0]; line.Container != c.Container || line.Service != "llm" || line.Error == "" {
				t.Errorf("the trail says %+v", line)
			}

			h.commit(t, c)
			conn := c.connect(t, "llm")
			hello := make([]byte, 5)
			_, err := io.ReadFull(conn, hello)
			must(t, err)

			end.end(h, c)
			if _, err := conn.Read(hello); !isReset(err) {
				t.Errorf("in the container, the connection ends with %v", err)
			}
			if err := <-cutService; !isReset(err) {
				t.Errorf("at the service, the connection ends with %v", err)
			}
			if line := h.trailed(t, trail.Cut, 1)[0]; line.Error != end.reason || line.Bytes != 5 || line.Container != c.Container {
				t.Errorf("the trail says %+v", line)
			}
			testenv.Eventually(t, "a connection is reset or refused", func() bool {
				err := c.ends("llm")
				return isReset(err) || errors.Is(err, syscall.ECONNREFUSED)
			})
		})
	}
}

func TestContainersThatShareANetworkShareItsServices(t *testing.T) {
	h := open(t, map[string]forward.Target{"llm": echo(t, "tcp", "127.0.0.1:0"), "db": echo(t, "tcp", "127.0.0.1:0")}, nil)
	first := h.start(t, h.container(t, nil, llm))
	second := h.start(t, h.container(t, first, map[string]string{"llm": "127.0.0.1:4000", "db": "127.0.0.1:5432"}))
	for range 2 { // and twice is as good as once
		must(t, h.hook.Attach(second.Entry))
	}
	open := first.connect(t, "llm")
	_, err := io.WriteString(open, "still ")
	must(t, err)

	h.revoke(t, first)
	_, err = io.WriteString(open, "here")
	must(t, err)
	must(t, open.(*net.TCPConn).CloseWrite())
	if answer, err := io.ReadAll(open); err != nil || string(answer) != "still here" {
		t.Errorf("the connection, which the second container may still use, says %q, %v", answer, err)
	}
	for _, service := range []string{"llm", "db"} {
		if answer, err := second.asks(service, "x"); err != nil || answer != "x" {
			t.Errorf("%s answers the neighbour %q, %v", service, answer, err)
		}
	}
	h.revoke(t, second)
	if answer, err := second.asks("llm", "x"); !isReset(err) {
		t.Errorf("when neither container may use the service, the answer is %q, %v", answer, err)
	}
}

func TestIfAServiceIsDownTheConnectionIsResetAndTheTrailSaysSo(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	h := open(t, map[string]forward.Target{"llm": {"unix", socket}}, nil)
	c := h.start(t, h.container(t, nil, llm))
	if answer, err := c.asks("llm", "x"); !isReset(err) {
		t.Errorf("the answer is %q, %v", answer, err)
	}
	if line := h.trailed(t, trail.Failed, 1)[0]; line.Error != "connect to the service: no such file or directory" || line.Service != "llm" || line.Container != c.Container {
		t.Errorf("the trail says %+v", line)
	}
	echo(t, "unix", socket)
	if answer, err := c.asks("llm", "x"); err != nil || answer != "x" {
		t.Errorf("when the service is up, it answers %q, %v", answer, err)
	}
}

func TestAForwarderSaysWhetherItReachesAService(t *testing.T) {
	h := open(t, map[string]forward.Target{"llm": echo(t, "tcp", "127.0.0.1:0"), "db": {"unix", filepath.Join(t.TempDir(), "s")}}, nil)
	socket := control.ForwardSocket(h.hook.GateSocket)
	for service, want := range map[string]error{"": nil, "llm": nil, "db": control.Down, "other": control.NoService} {
		_, err := control.Ask(socket, time.Now().Add(testenv.AWhile), control.Request{Service: service})
		if !errors.Is(err, want) || want == control.Down && !strings.Contains(err.Error(), "no such file or directory") {
			t.Errorf("asked about %q, it says %v", service, err)
		}
	}
	if _, err := control.Ask(h.hook.GateSocket, time.Now().Add(testenv.AWhile), control.Request{Service: "llm"}); !errors.Is(err, control.NoService) {
		t.Errorf("asked about a service, the gate says %v", err)
	}
}

func TestOnlyServicesThatExistAreServed(t *testing.T) {
	h := open(t, map[string]forward.Target{"llm": echo(t, "tcp", "127.0.0.1:0")}, nil)
	c := h.container(t, nil, map[string]string{"db": "127.0.0.1:5432"})
	if err := h.hook.Attach(c.Entry); err == nil || !strings.Contains(err.Error(), "terok-gate forward does not have the service") {
		t.Errorf("a hook that asks for another service is told %v", err)
	}
	if _, err := c.dial("db"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a connection to it: %v", err)
	}
}

// If another program has the service's port in the container's network, the start is refused.
func TestAPortThatAnotherProgramHasIsRefused(t *testing.T) {
	h := open(t, map[string]forward.Target{"llm": echo(t, "tcp", "127.0.0.1:0")}, nil)
	h.hook.GateTimeout = time.Second
	c := h.container(t, nil, llm)
	must(t, testenv.InNetwork(c.network, func() error {
		l, err := net.Listen("tcp", "127.0.0.1:4000")
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}))
	if err := h.hook.Attach(c.Entry); err == nil || !strings.Contains(err.Error(), "another program in the container's network uses the service's address") {
		t.Errorf("the hook is told %v", err)
	}
}

// A container opens connections as fast as it can, and neither reads nor sends. Another container can
// still use the service.
func TestAContainerThatFloodsLeavesTheServiceToOthers(t *testing.T) {
	endless := service(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		for block := make([]byte, 1<<16); ; {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	})
	h := open(t, map[string]forward.Target{"llm": echo(t, "tcp", "127.0.0.1:0"), "endless": endless}, nil)
	both := map[string]string{"llm": "127.0.0.1:4000", "endless": "127.0.0.1:4001"}
	hostile, other := h.start(t, h.container(t, nil, both)), h.start(t, h.container(t, nil, llm))

	for range 100 { // more than a listener serves
		hostile.connect(t, "endless")
	}
	began, stop := time.Now(), make(chan struct{})
	var flood sync.WaitGroup
	for range 4 {
		flood.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if conn, err := hostile.dial("llm"); err == nil {
					conn.Close()
				}
			}
		})
	}
	for range 50 {
		if answer, err := other.asks("llm", "x"); err != nil || answer != "x" {
			t.Errorf("the other container is answered %q, %v", answer, err)
		}
	}
	close(stop)
	flood.Wait()

	// The trail has the flood in a few lines.
	h.Stop(ended())
	seconds := int(time.Since(began) / time.Second)
	h.mu.Lock()
	defer h.mu.Unlock()
	lines, connections := 0, 0
	for _, e := range h.events {
		if e.Container == hostile.Container && e.Service == "llm" {
			lines++
			connections += max(1, e.Times)
		}
	}
	if most := 1000*(seconds+2) + 256; connections > most {
		t.Errorf("%d connections in %d seconds", connections, seconds)
	}
	if most := 2 * (trail.OwnLines + 1) * (seconds + 2); lines == 0 || lines > most || connections < lines {
		t.Errorf("%d lines about %d connections", lines, connections)
	}
}

func TestContainersWithServicesLeaveNothingBehind(t *testing.T) {
	h := open(t, map[string]forward.Target{"llm": echo(t, "tcp", "127.0.0.1:0")}, nil)
	lives := func(n int) (descriptors, goroutines int) {
		for range n {
			c := h.start(t, h.container(t, nil, llm))
			if answer, err := c.asks("llm", "x"); err != nil || answer != "x" {
				t.Fatalf("the answer is %q, %v", answer, err)
			}
			idle := c.connect(t, "llm")
			c.end()
			if _, err := idle.Read(make([]byte, 1)); !isReset(err) {
				t.Fatalf("a connection outlives its container: %v", err)
			}
			idle.Close()
		}
		runtime.GC() // pipes are in a pool
		runtime.GC()
		open, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(open), runtime.NumGoroutine()
	}

	lives(3)
	var descriptors, goroutines int
	testenv.Eventually(t, "three lives leave nothing", func() bool {
		d, g := lives(3)
		same := d == descriptors && g == goroutines
		descriptors, goroutines = d, g
		return same
	})
	lives(500)
	testenv.Eventually(t, "no descriptor and no goroutine is left of 500 lives", func() bool {
		d, g := lives(1)
		return d <= descriptors && g <= goroutines
	})
}

// The kernel limits the pipes of all programs of a user together, and git needs pipes, too.
func TestConnectionsThatWaitHoldNoPipes(t *testing.T) {
	target := service(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		_, _ = conn.Write([]byte("hello"))
		_, _ = io.Copy(io.Discard, conn)
	})
	h := open(t, map[string]forward.Target{"llm": target}, nil)
	c := h.start(t, h.container(t, nil, llm))
	pipes := func() (number int) {
		open, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		for _, fd := range open {
			if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, "pipe:") {
				number++
			}
		}
		return number
	}

	before := pipes()
	for range 20 {
		conn := c.connect(t, "llm")
		_, err := io.ReadFull(conn, make([]byte, 5))
		must(t, err)
		_, err = conn.Write([]byte("hello"))
		must(t, err)
	}
	testenv.Eventually(t, "20 open connections hold no pipe", func() bool {
		runtime.GC() // pipes are in a pool
		return pipes() <= before
	})
}

func TestServicesStayWhenTheForwarderIsReplaced(t *testing.T) {
	shelf := &testenv.Shelf{}
	h := open(t, map[string]forward.Target{"llm": echo(t, "tcp", "127.0.0.1:0"), "db": echo(t, "tcp", "127.0.0.1:0")}, shelf)
	both := map[string]string{"llm": "127.0.0.1:4000", "db": "127.0.0.1:5432"}
	c := h.start(t, h.container(t, nil, both))
	dead := h.start(t, h.container(t, nil, llm))

	h.Stop(ended())
	waiting := c.connect(t, "db") // while there is no forwarder
	_, err := io.WriteString(waiting, "x")
	must(t, err)
	must(t, waiting.(*net.TCPConn).CloseWrite())
	dead.end()
	h.begin(t)
	h.Restore(shelf.Passed(t))

	if answer, err := io.ReadAll(waiting); err != nil || string(answer) != "x" {
		t.Errorf("a connection that waited is answered %q, %v", answer, err)
	}
	for service := range both {
		if answer, err := c.asks(service, service); err != nil || answer != service {
			t.Errorf("%s answers %q, %v", service, answer, err)
		}
	}
	c.end()
	testenv.Eventually(t, "nothing is kept any more", func() bool { return len(shelf.Names()) == 0 })
}

func TestAForwarderThatLostItsListenersGetsThemAgain(t *testing.T) {
	h := open(t, map[string]forward.Target{"llm": echo(t, "tcp", "127.0.0.1:0")}, nil)
	c := h.start(t, h.container(t, nil, llm))
	h.Stop(ended())
	h.begin(t)
	if _, err := c.dial("llm"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("without a listener: %v", err)
	}
	must(t, h.hook.Attach(c.Entry))
	if answer, err := c.asks("llm", "x"); err != nil || answer != "x" {
		t.Errorf("the answer is %q, %v", answer, err)
	}
}

func TestConnectionsAreCounted(t *testing.T) {
	h := open(t, map[string]forward.Target{"llm": echo(t, "tcp", "127.0.0.1:0")}, nil)
	c := h.start(t, h.container(t, nil, llm))
	_, err := c.asks("llm", "four")
	must(t, err)
	h.trailed(t, trail.Connection, 1)
	c.connect(t, "llm")
	for _, want := range []string{
		`terok_forward_connections_total{result="connection",service="llm"} 1`,
		`terok_forward_bytes_total{direction="sent",service="llm"} 4`,
		`terok_forward_bytes_total{direction="received",service="llm"} 4`,
		"terok_forward_connections_open 1",
		"terok_forward_listeners 1",
	} {
		testenv.Eventually(t, "the metrics say "+want, func() bool {
			answer := httptest.NewRecorder()
			h.Metrics().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
			return bytes.Contains(answer.Body.Bytes(), []byte(want+"\n"))
		})
	}
}

func TestAProcessThatReachesOtherAddressesIsNotConfined(t *testing.T) {
	services := map[string]forward.Target{"llm": {"tcp", "127.255.255.254:1"}, "db": {"tcp", "127.255.255.253:1"}}
	err := forward.CheckConfined(services)
	if !errors.Is(err, forward.ErrNotConfined) || !strings.HasSuffix(err.Error(), "it reached 127.255.255.252") {
		t.Errorf("the check says %v", err)
	}
}
