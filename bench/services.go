// Measures requests to a service of the host, from a container's network and directly.

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/store"
)

// services is how long requests to a service of the host take. The service is nginx. It does one of
// three things: it answers with a few bytes, or it adds a key and passes the request on to another
// server, or it sends a large file.
// A client reaches it directly, through terok-gate forward, or through systemd-socket-proxyd with a
// listener in a network like a container's.
type services struct {
	Small map[string]series // a small request, in milliseconds, by the kind
	Bulk  series            // the large file, in milliseconds
	Own   []float64         // terok-gate forward's processor time for the small requests and the large file, in seconds
	Cuts  series            // until a connection is reset, in milliseconds, by the reason
	Flood flood
}

// flood is how long a container's requests on new connections take while another container floods
// terok-gate forward, and while it does not.
type flood struct {
	Took      series // in milliseconds
	PerSecond []float64
	ForwardMB float64
}

// paths are the ways to the service. They take turns in this order.
var paths = []string{"direct", "forward", "proxyd"}

// smallRequests are kinds of small requests.
var smallRequests = []struct {
	name, file string
	kept       bool
}{
	{"the service answers itself, on a connection that is kept", "/small", true},
	{"the service answers itself, on a new connection", "/small", false},
	{"the service adds a key, on a connection that is kept", "/model", true},
	{"the service adds a key, on a new connection", "/model", false},
}

const (
	bulkMiB = 256
	proxyd  = "/lib/systemd/systemd-socket-proxyd"
)

func (w *world) services(h *house, rounds int) (s services, err error) {
	s = services{Small: map[string]series{}, Bulk: series{}, Cuts: series{}, Flood: flood{Took: series{}}}
	for _, small := range smallRequests {
		s.Small[small.name] = series{}
	}
	clients, err := w.clients(h)
	if err != nil {
		return s, err
	}
	defer func() {
		for _, c := range clients {
			close(c.do)
		}
	}()

	for range rounds {
		for _, path := range paths {
			own, _ := processorTime(h.forward.Process.Pid)
			if err := clients[path].run(func(at unix.Sockaddr) error { return s.measure(path, at) }); err != nil {
				return s, fmt.Errorf("%s: %w", path, err)
			}
			if path == "forward" {
				after, _ := processorTime(h.forward.Process.Pid)
				s.Own = append(s.Own, after-own)
			}
		}
	}

	for range rounds {
		for _, reason := range reasons {
			if err := w.cutService(h, s.Cuts, reason); err != nil {
				return s, fmt.Errorf("cut by %s: %w", reason, err)
			}
		}
	}
	return s, w.flood(h, &s.Flood, clients["forward"], max(1, rounds/4))
}

// measure measures one path once. The client makes blocking system calls, which take the least time.
func (s services) measure(path string, at unix.Sockaddr) error {
	conn, err := connect(at)
	if err != nil {
		return err
	}
	defer unix.Close(conn)

	const asks = 50
	for _, small := range smallRequests {
		start := time.Now()
		for range asks {
			if small.kept {
				_, err = ask(conn, small.file)
			} else {
				err = askAnew(at, small.file)
			}
			if err != nil {
				return err
			}
		}
		s.Small[small.name].add(path, time.Since(start)/asks)
	}

	start := time.Now()
	if _, err := ask(conn, "/large"); err != nil {
		return err
	}
	s.Bulk.add(path, time.Since(start))
	return nil
}

// reasons why a connection is cut.
var reasons = []string{"death", "revocation", "freeze"}

// cutService measures how long a container's connection lasts once there is a reason to cut it.
func (w *world) cutService(h *house, took series, reason string) error {
	c, end, err := w.servedClient(h, "cut")
	if err != nil {
		return err
	}
	defer end()
	defer close(c.do)
	defer func() {
		_, _ = h.tokens.Revoke(func(e store.Entry) bool { return e.Container == "cut" })
		_ = h.tokens.EditFreezes(func(f *store.Freezes) bool { return f.SetContainer("cut", "", false) })
	}()

	return c.run(func(at unix.Sockaddr) error {
		conn, err := connect(at)
		if err != nil {
			return err
		}
		defer unix.Close(conn)
		if _, err := ask(conn, "/small"); err != nil { // it is served
			return err
		}

		switch reason {
		case "death":
			end()
		case "revocation":
			_, err = h.tokens.Revoke(func(e store.Entry) bool { return e.Container == "cut" })
		case "freeze":
			err = h.tokens.EditFreezes(func(f *store.Freezes) bool { return f.SetContainer("cut", "", true) })
		}
		if err != nil {
			return err
		}
		start := time.Now()
		if _, err := unix.Read(conn, make([]byte, 1)); err != unix.ECONNRESET {
			return fmt.Errorf("the connection ends with %w", err)
		}
		took.add(reason, time.Since(start))
		return nil
	})
}

// flood measures the requests of a client, other, first while nothing happens, and then while a
// hostile container begins up to ten connections every millisecond. The hostile container also
// keeps 20 connections on which it does not read the answer, and 20 on which it asks for nothing.
func (w *world) flood(h *house, f *flood, other client, rounds int) (err error) {
	hostile, end, err := w.servedClient(h, "hostile")
	if err != nil {
		return err
	}
	defer end()
	defer close(hostile.do)

	const asks = 200
	measure := func(name string) error {
		return other.run(func(at unix.Sockaddr) error {
			for range asks {
				start := time.Now()
				if err := askAnew(at, "/small"); err != nil {
					return err
				}
				f.Took.add(name, time.Since(start))
			}
			return nil
		})
	}

	for range rounds {
		if err := measure(quiet); err != nil {
			return err
		}
		stop, number := make(chan struct{}), 0
		start := time.Now()
		hostile.do <- func(at unix.Sockaddr) error {
			for i := range 40 {
				conn, err := connect(at)
				if err != nil {
					return err
				}
				defer unix.Close(conn)
				if i%2 == 0 {
					_, _ = unix.Write(conn, []byte("GET /large HTTP/1.1\r\nHost: bench\r\n\r\n"))
				}
			}
			for tick := time.NewTicker(time.Millisecond); ; number += 10 {
				select {
				case <-stop:
					tick.Stop()
					return nil
				case <-tick.C:
				}
				for range 10 {
					if err := knock(at); err != nil {
						return err
					}
				}
			}
		}
		err := measure(flooded)
		close(stop)
		if err := errors.Join(err, <-hostile.done); err != nil {
			return err
		}
		f.PerSecond = append(f.PerSecond, float64(number)/time.Since(start).Seconds())
	}
	f.ForwardMB, err = peakMB(h.forward.Process.Pid)
	return err
}

// knock begins to connect, and closes the socket at once.
func knock(at unix.Sockaddr) error {
	conn, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(conn)
	// EADDRNOTAVAIL: the container has used up the ports of its own network.
	if err := unix.Connect(conn, at); err != unix.EINPROGRESS && err != unix.EADDRNOTAVAIL {
		return err
	}
	return nil
}

const flooded = "another container floods"

// askAnew asks for a file on a new connection.
func askAnew(at unix.Sockaddr, file string) error {
	conn, err := connect(at)
	if err != nil {
		return err
	}
	defer unix.Close(conn)
	_, err = ask(conn, file)
	return err
}

func connect(at unix.Sockaddr) (conn int, err error) {
	conn, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Connect(conn, at); err != nil {
		unix.Close(conn)
		return 0, err
	}
	return conn, nil
}

// ask asks for a file, and returns how many bytes the answer had.
func ask(conn int, file string) (n int, err error) {
	if _, err := unix.Write(conn, []byte("GET "+file+" HTTP/1.1\r\nHost: bench\r\n\r\n")); err != nil {
		return 0, err
	}
	buffer, most := make([]byte, 1<<16), 1<<40
	for n < most {
		m, err := unix.Read(conn, buffer)
		if err != nil {
			return n, err
		}
		if m == 0 {
			return n, fmt.Errorf("the service has closed the connection")
		}
		if n == 0 { // the headers are in the first piece
			headers, _, _ := strings.Cut(string(buffer[:min(m, 1024)]), "\r\n\r\n")
			_, length, _ := strings.Cut(headers, "Content-Length: ")
			if _, err := fmt.Sscan(length, &most); err != nil || !strings.HasPrefix(headers, "HTTP/1.1 200 ") {
				return n, fmt.Errorf("the service answers %q", headers)
			}
			most += len(headers) + 4
		}
		n += m
	}
	return n, nil
}

// client is a thread in a network. It runs functions there, with the service's address in that
// network.
type client struct {
	do   chan func(at unix.Sockaddr) error
	done chan error
}

func (c client) run(do func(at unix.Sockaddr) error) error {
	c.do <- do
	return <-c.done
}

// startClient starts a client in a process's network.
func startClient(pid, port int) (client, error) {
	c := client{make(chan func(at unix.Sockaddr) error), make(chan error)}
	go c.serve(pid, port)
	return c, <-c.done
}

func (c client) serve(pid, port int) {
	runtime.LockOSThread() // the thread ends with this goroutine, so nothing else runs in that network
	if unix.Gettid() == unix.Getpid() {
		go c.serve(pid, port)
		select {} // the main thread must stay in its network, which counts as the network of the process
	}

	network, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err == nil {
		err = unix.Setns(int(network.Fd()), unix.CLONE_NEWNET)
		network.Close()
	}
	if err == nil {
		err = bringLoopbackUp()
	}
	c.done <- err
	for do := range c.do {
		c.done <- do(&unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
	}
}

func bringLoopbackUp() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	loopback, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	loopback.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, loopback)
}

// clients starts the forwarders, and a client for each path.
func (w *world) clients(h *house) (clients map[string]client, err error) {
	if err := os.Truncate(filepath.Join(h.dir, "service", "large"), bulkMiB<<20); err != nil {
		return nil, err
	}
	h.forward = exec.Command(w.programs["gate"], "--token-file", h.tokens.Path, "--log-file", filepath.Join(h.dir, "trail.log"),
		"forward", "--control", control.ForwardSocket(h.control), "--service", "service="+h.addresses["service"])
	if err := h.start(h.forward); err != nil {
		return nil, err
	}

	clients = map[string]client{}
	if clients["direct"], err = startClient(os.Getpid(), h.servicePort()); err != nil {
		return nil, err
	}
	if clients["forward"], _, err = w.servedClient(h, "forward"); err != nil {
		return nil, err
	}
	_, pid, end, err := w.container("proxyd", syscall.CLONE_NEWNET)
	if err != nil {
		return nil, err
	}
	h.ends = append(h.ends, end)
	if clients["proxyd"], err = startClient(pid, h.servicePort()); err != nil {
		return nil, err
	}
	return clients, clients["proxyd"].run(h.startProxyd)
}

// servedClient starts a container that terok-gate forward serves, and a client in its network.
func (w *world) servedClient(h *house, id string) (c client, end func(), err error) {
	_, pid, end, err := w.container(id, syscall.CLONE_NEWNET)
	if err != nil {
		return c, nil, err
	}
	h.ends = append(h.ends, end)
	if c, err = startClient(pid, h.servicePort()); err != nil {
		return c, end, err
	}
	return c, end, h.attachService(id, pid)
}

// servicePort returns the service's port, which is the same in containers and on the host.
func (h *house) servicePort() (port int) {
	_, text, _ := net.SplitHostPort(h.addresses["service"])
	port, _ = strconv.Atoi(text)
	return port
}

// attachService makes terok-gate forward serve a container, as a container's hook does.
func (h *house) attachService(id string, pid int) (err error) {
	entry := store.Entry{
		Grant: store.Grant{Project: small, Task: id}, Container: id,
		Gate: &store.Attached{Listen: hook.GateListen, Services: map[string]string{"service": fmt.Sprintf("127.0.0.1:%d", h.servicePort())}},
	}
	if entry.Process, err = store.ProcessOf(pid); err != nil {
		return err
	}
	if entry.Token, err = store.NewToken(); err != nil {
		return err
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err = (hook.Settings{Tokens: h.tokens, GateSocket: h.control}).Attach(entry); err == nil {
			break
		}
		if time.Now().After(end) {
			return err
		}
	}
	_, err = h.tokens.Issue(entry)
	return err
}

// startProxyd starts systemd-socket-proxyd with a listener in the network of the calling thread. The
// program itself runs in the bench's network.
func (h *house) startProxyd(at unix.Sockaddr) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	listener := os.NewFile(uintptr(socket), "listener")
	defer listener.Close()
	if err := unix.Bind(socket, at); err != nil {
		return err
	}
	if err := unix.Listen(socket, 4096); err != nil {
		return err
	}
	cmd := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", os.Getpid()), "sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh", proxyd, "--connections-max=4096", h.addresses["service"])
	cmd.ExtraFiles = []*os.File{listener}
	return h.start(cmd)
}

func (s services) String() (text string) {
	for _, small := range smallRequests {
		text += small.name + ":"
		for _, path := range paths {
			took := s.Small[small.name]
			text += fmt.Sprintf(" %s %.3f ms (%.2f);", path, took.median(path), took.median(path)/took.median("direct"))
		}
		text += "\n"
	}
	text += fmt.Sprintf("%d MiB:", bulkMiB)
	for _, path := range paths {
		text += fmt.Sprintf(" %s %.0f MiB/s (%.2f);", path, mibPerSecond(s.Bulk.median(path)), s.Bulk.median("direct")/s.Bulk.median(path))
	}
	text += fmt.Sprintf(" terok-gate forward's own processor time for the large file and the small requests together: %.2f s", median(s.Own))
	for _, reason := range reasons {
		text += fmt.Sprintf("\ncut by %s after %.1f ms (median of %d), %.1f ms at most", reason, s.Cuts.median(reason), len(s.Cuts[reason]), largest(s.Cuts[reason]))
	}
	return text + fmt.Sprintf("\na request on a new connection takes %.2f ms, and %.2f ms (%.1f times as long) while another container begins %.0f connections a second and keeps 40 slow or idle ones open; terok-gate forward's memory: %.0f MB at the peak",
		s.Flood.Took.median(quiet), s.Flood.Took.median(flooded), s.Flood.Took.median(flooded)/s.Flood.Took.median(quiet), median(s.Flood.PerSecond), s.Flood.ForwardMB)
}

func mibPerSecond(ms float64) float64 { return bulkMiB / ms * 1000 }
