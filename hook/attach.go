// Makes a listener in the container's own network and hands it to the gate, which serves
// the container there for as long as the container lives. This needs no network interface
// and nothing from the image. The listener is IPv4 only: settings.go admits no other address.

package hook

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/control"
	"terok-gate-hook/store"
)

// Reasons why the gate cannot serve a container's network. [WayOut] has the remedies.
var (
	ErrNoGate      = control.ErrNoGate
	ErrHostNetwork = errors.New("the container is in the host's network, where every process could reach the gate")
	ErrTaken       = errors.New("another program in the container's network uses the gate's address")
	ErrNotAlone    = errors.New("the container shares its network, and without a token the gate cannot tell who asks")

	ErrNoForward      = errors.New("terok-gate forward does not answer")
	ErrServiceTaken   = errors.New("another program in the container's network uses the service's address")
	ErrUnknownService = errors.New("terok-gate forward does not have the service")
)

// Attach makes the gate serve the network of a living container again. The entry should come
// from [Settings.HandedOver]. If the gate serves the container already, nothing changes. An error
// that has a remedy wraps one of the errors above.
func (s Settings) Attach(entry store.Entry) (err error) {
	defer func() { err = printableError(err) }()
	s.GateListen = entry.Gate.Listen
	s.WithholdToken = entry.Gate.Withheld
	if err := s.Check(); err != nil {
		return err
	}

	process, err := entry.Process.Pin()
	if err != nil {
		return s.notAttached(because("container process", err))
	}
	defer process.Close()
	if _, err = s.attach(entry, process); err != nil {
		return err
	}
	return s.attachServices(entry, process, false)
}

// attachFirst makes the gate serve the network of a container that starts. It writes the
// network to the entry, and records for Attach that the gate serves the container.
func (s Settings) attachFirst(entry store.Entry, process *store.Pinned) (err error) {
	if process == nil {
		return s.notAttached(failure("the container has no process"))
	}
	if entry.Gate.Network, err = s.attach(entry, process); err != nil {
		return err
	}
	if err := s.attachServices(entry, process, true); err != nil {
		return err
	}
	if err := s.remember(entry); err != nil {
		return because("record that the gate serves the container", err)
	}
	return nil
}

func (s Settings) notAttached(err error) error {
	return because("ask the gate at "+text(s.GateSocket)+" to serve the container's network", err)
}

// attach hands the gate a listener in the container's network, and returns the cookie of
// that network namespace.
func (s Settings) attach(entry store.Entry, process *store.Pinned) (network uint64, err error) {
	switch shared, err := sharesWithHost(process, "net"); {
	case err != nil:
		return 0, s.notAttached(because("network namespace of the container", err))
	case shared:
		return 0, s.notAttached(known(ErrHostNetwork))
	}

	network, err = s.hand(s.GateSocket, time.Now().Add(s.gateTimeout()), process, s.handing(entry), true)
	if err != nil {
		return 0, s.notAttached(forHook(err))
	}
	return network, nil
}

// hand hands over the listener that the request asks for. With retry, it tries again if the address
// is taken or there is no gate. The listener of another container in the same network may take the
// address for a moment, while that listener is handed over or closed. The gate may be restarting.
// hand begins no new try in the second half of [Settings.GateTimeout]: the answer to the last try
// needs that time.
func (s Settings) hand(socket string, deadline time.Time, process *store.Pinned, request control.Request, retry bool) (network uint64, err error) {
	lastTry := deadline.Add(-s.gateTimeout() / 2)
	for {
		network, err = handListener(socket, deadline, process, request)
		temporary := errors.Is(err, control.Taken) || errors.Is(err, ErrNoGate)
		if !temporary || !retry || time.Now().After(lastTry) {
			return network, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// handing returns the request that goes with a container's listener.
func (s Settings) handing(entry store.Entry) control.Request {
	return control.Request{
		Container: entry.Container, Process: entry.Process, Token: entry.Token.Key(),
		Listen: s.gateListen(), Withheld: s.WithholdToken,
	}
}

// handListener makes the socket that the request asks for, and hands it to the gate.
func handListener(gate string, deadline time.Time, process *store.Pinned, request control.Request) (network uint64, err error) {
	at, err := netip.ParseAddrPort(request.Listen)
	if err == nil && !(at.Addr().Is4() && at.Addr().IsLoopback()) {
		err = errors.New("not an IPv4 loopback address")
	}
	if err != nil {
		return 0, err
	}
	socket, err := listenIn(process, at)
	if err != nil {
		return 0, err
	}
	defer unix.Close(socket)

	// Without cookies in the kernel, the network stays 0 and the gate refuses the socket.
	network, _ = unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return network, control.Hand(gate, deadline, socket, request)
}

// forHook turns an error of the gate into one that may be printed. The gate's own words go only to
// the log.
func forHook(err error) error {
	var refusal control.Refusal
	switch {
	case errors.Is(err, control.Taken):
		return known(fmt.Errorf("%w: %w", ErrTaken, err))
	case errors.Is(err, control.HostNetwork):
		return known(fmt.Errorf("%w: %w", ErrHostNetwork, err))
	case errors.Is(err, control.Shared):
		return known(fmt.Errorf("%w: %w", ErrNotAlone, err))
	case errors.As(err, &refusal):
		return instead("the gate refused; see its log for the reason", err)
	case errors.Is(err, ErrNoGate):
		return instead(text(ErrNoGate.Error())+": "+reason(err), err)
	}
	return err
}

// known turns an error wrapping one of the reasons above into a refusal that prints the reason.
func known(err error) error {
	for _, ours := range []error{ErrHostNetwork, ErrTaken, ErrNotAlone, ErrServiceTaken, ErrUnknownService} {
		if errors.Is(err, ours) {
			return refused(instead(text(ours.Error()), err))
		}
	}
	return err
}

// listenIn returns a socket that listens in a process's network namespace. If the address
// is taken, the socket does not listen: it only shows the gate which namespace is meant.
//
// The attacker is root of the container, who cannot take the address while the socket
// listens: that would need SO_REUSEPORT on both sockets. SO_REUSEADDR lets a new socket bind to the
// address while connections that the gate closed first still linger (ip(7)).
func listenIn(process *store.Pinned, at netip.AddrPort) (socket int, err error) {
	err = onThreadOfItsOwn(func() error {
		if err := unix.Setns(process.Pidfd(), unix.CLONE_NEWNET); err != nil {
			return because("enter the container's network namespace", err)
		}
		if socket, err = newSocket(); err != nil {
			return because("make a socket", err)
		}

		err := unix.Bind(socket, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())})
		if err == nil {
			if err = unix.Listen(socket, backlog); err == nil {
				return nil
			}
		}

		unix.Close(socket)
		if !errors.Is(err, unix.EADDRINUSE) {
			return because("listen at "+text(at.String()), err)
		}
		if socket, err = newSocket(); err != nil {
			return because("make a socket", err)
		}
		return nil
	})
	return socket, err
}

// backlog is how many connections may wait while the gate is busy or being replaced.
const backlog = 256

// newSocket returns a TCP socket that does not block and may reuse an address.
func newSocket() (int, error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		if err = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			unix.Close(socket)
		}
	}
	return socket, err
}

// checkAlone refuses a container whose configuration puts it into another container's network.
// For a network of the container's own, podman makes a file netns-<uuid> in a directory
// netns (containers/common, pkg/netns). The path of another container's network names the process
// of that container.
func (c configuration) checkAlone() error {
	if c.Linux == nil {
		return nil
	}
	for _, n := range c.Linux.Namespaces {
		directory, name := path.Split(n.Path)
		if n.Type == specs.NetworkNamespace && n.Path != "" && !(path.Base(directory) == "netns" && strings.HasPrefix(name, "netns-")) {
			return known(fmt.Errorf("%w: it is at %q", ErrNotAlone, n.Path))
		}
	}
	return nil
}
