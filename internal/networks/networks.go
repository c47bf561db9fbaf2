// Package networks serves containers in their own networks, at listeners that hooks have passed:
// those of the gate, and those of services of the host. This file sets how many connections each
// listener may have at once.
//
// A network namespace is identified by its cookie, which no other namespace gets until the machine
// boots again. (An inode number is used again at once.) An open listener keeps its namespace alive.
// So the listener is closed when the last container there has ended, as the pidfds of the
// containers' processes show. The containers there are those that hooks have asked this gate to
// serve, and those that only the token file lists for the network: an earlier gate that served them
// may have lost its listener.
//
// A process with CAP_NET_ADMIN in a container's network can end a listener (SOCK_DESTROY) and
// listen in its place. The tokens that were served there are then revoked, since their containers
// may show them to that process.
package networks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

const (
	// Limits on concurrent connections. Each listener in a container's network may have
	// mostConnections. Of these, ownConnections are reserved for the listener; the rest come from a
	// pool of commonConnections for all listeners. An unauthenticated connection costs the gate
	// some 15 KiB.
	mostConnections   = 64
	ownConnections    = 8
	commonConnections = 1024

	closeGrace = time.Second // for requests and connections in progress when the last container ends
)

// Settings say how containers are served.
type Settings struct {
	Tokens *store.Reader
	Keeper Keeper            // nil for none
	Record func(trail.Event) // writes to the trail

	// Self describes the program to a client that asks. It is nil if there is no more to say than
	// the version, the user and the token file.
	Self func(asked control.Request) control.Gate

	// Takes returns nil for a request that the program serves, and otherwise an error that wraps
	// a [control.Refusal].
	Takes func(control.Request) error

	// Try returns nil if the program reaches the service, and otherwise an error that wraps a
	// [control.Refusal]. A program without services has a nil Try.
	Try func(service string) error

	// Serve serves a listener until the listener is closed.
	Serve func(*Network) error
}

// Networks are the networks of containers that are served. Make them with [New].
type Networks struct {
	Settings
	ctx    context.Context // of all requests
	losses losses
	own    uint64 // the cookie of the program's own network

	common chan struct{} // slots for the connections beyond each listener's ownConnections

	mu  sync.Mutex
	all map[place]*Network
}

// place is an address in a network namespace.
type place struct {
	cookie uint64
	listen string
}

// Network is a listener in a network namespace. Containers in one namespace share the listener.
type Network struct {
	net.Listener
	Name    string // for the Keeper and the trail
	Service string // the service that is served there, empty for the gate
	place
	socket  *os.File           // a second descriptor of the listener, to notice that another process has ended it
	members map[string]*member // by the keys of their tokens
	conns   *connSet
}

// Close closes the listener.
func (there *Network) Close() error {
	there.socket.Close()
	return there.Listener.Close()
}

// isEnded reports whether another process has ended the listener. It is false once the gate has
// closed its own descriptors: the socket may still be kept for the next gate.
func (there *Network) isEnded() bool {
	s, err := examine(there.socket)
	return err == nil && !s.listens
}

// member is a container in the network, from one start of the container to its end.
type member struct {
	control.Request
	name   string
	forget func()
}

// New returns networks without a listener. All requests are cut when ctx is done.
func New(ctx context.Context, s Settings) (*Networks, error) {
	if s.Keeper == nil {
		s.Keeper = noKeeper{}
	}
	n := &Networks{
		Settings: s, ctx: ctx,
		losses: losses{ctx: ctx, tokens: s.Tokens, record: s.Record},
		common: make(chan struct{}, commonConnections), all: map[place]*Network{},
	}
	// A socket of any family has the namespace's cookie. A sandboxed gate may be allowed to
	// create unix sockets only.
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	// The error is ignored: on a kernel without SO_NETNS_COOKIE the hooks fail as well.
	n.own, _ = unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	unix.Close(socket)
	return n, nil
}

// join makes the gate serve a container at the socket. If the socket does not listen, an existing
// listener in its namespace serves the container. The caller closes the socket.
func (n *Networks) join(r control.Request, socket *os.File) error {
	if err := n.Takes(r); err != nil {
		return err
	}
	s, err := examine(socket)
	switch {
	case err != nil:
		return err
	case s.cookie == n.own:
		return control.HostNetwork
	case s.listens && s.address != r.Listen:
		return fmt.Errorf("%w: the socket listens at %s, not at %s", control.Malformed, s.address, r.Listen)
	}

	n.mu.Lock()
	defer n.mu.Unlock()

	at := place{s.cookie, r.Listen}
	there := n.at(at)
	switch {
	case there != nil && there.members[r.Token] != nil:
		return nil
	case there == nil && !s.listens, there != nil && there.Service != r.Service:
		return control.Taken
	case there != nil && s.listens:
		return fmt.Errorf("a second listener at %s", at.listen) // the kernel allows none
	}

	if err := n.checkShared(r, at.cookie); err != nil {
		return err
	}

	if there == nil {
		name := nameFor(keptListener, r)
		if err := n.Keeper.Keep(name, socket); err != nil {
			return fmt.Errorf("keep the listener: %w", err)
		}
		if there, err = n.open(at, socket, name, r.Service); err != nil {
			n.drop(name)
			return err
		}
		n.adopt(there)
	}

	if err = n.admit(there, r); err != nil && len(there.members) == 0 {
		n.close(there)
	}
	return err
}

// at returns the listener at a place. It returns nil if there is none, or if another process has
// ended it.
func (n *Networks) at(at place) *Network {
	there := n.all[at]
	if there != nil && there.isEnded() {
		n.lose(there)
		return nil
	}
	return there
}

// admit makes a listener serve a container, and keeps a record of that for the next gate.
func (n *Networks) admit(there *Network, r control.Request) error {
	name := nameFor(keptContainer, r)
	err := keepMember(n.Keeper, name, there.cookie, r)
	if err == nil {
		err = n.add(there, name, r)
	}
	if err != nil {
		n.drop(name)
	}
	return err
}

// adopt makes a listener serve the living containers that the token file lists for it.
func (n *Networks) adopt(there *Network) {
	for _, e := range n.Tokens.InNetwork(there.cookie) {
		r := control.Request{
			Version: control.Version, Container: e.Container, Process: e.Process, Token: e.Token.Key(),
			Service: there.Service, Listen: e.Gate.ListenFor(there.Service), Withheld: e.Gate.Withheld,
		}
		if r.Listen != there.listen || there.members[r.Token] != nil || e.Process.Life() != store.Alive {
			continue
		}
		if err := n.admit(there, r); err != nil {
			slog.Error("serve a container again", "container", e.Container, "error", err)
		}
	}
}

// find returns nil if the container is served, and [control.Absent] if not.
func (n *Networks) find(r control.Request) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for at, there := range n.all {
		if m := there.members[r.Token]; at.listen == r.Listen && m != nil && *m.Process == *r.Process && n.at(at) != nil {
			return nil
		}
	}
	return control.Absent
}

// checkShared returns an error if the network has another container, and the token of either
// is withheld.
func (n *Networks) checkShared(r control.Request, cookie uint64) error {
	for at, there := range n.all {
		if at.cookie != cookie {
			continue
		}
		for _, m := range there.members {
			if (r.Withheld || m.Withheld) && m.Token != r.Token && m.Process.Life() != store.Dead {
				return fmt.Errorf("%w: container %s is there", control.Shared, m.Container)
			}
		}
	}

	for _, e := range n.Tokens.InNetwork(cookie) {
		if (r.Withheld || e.Gate.Withheld) && e.Token.Key() != r.Token && e.Process.Life() == store.Alive {
			return fmt.Errorf("%w: container %s is there", control.Shared, e.Container)
		}
	}
	return nil
}

// add makes a container a member of a network, whose listener then stays open at least until the
// container has ended.
func (n *Networks) add(there *Network, name string, r control.Request) error {
	m := &member{Request: r, name: name}
	// leave runs in a goroutine, since the caller holds n.mu: if the process is already dead,
	// OnDeath calls back before it returns.
	forget, err := r.Process.OnDeath(func() { go n.leave(there, m) })
	if err != nil {
		return fmt.Errorf("watch the container's process: %w: the gate must run in the host's pid namespace", err)
	}
	m.forget = forget
	there.members[r.Token] = m
	return nil
}

// leave removes a container that has ended. It closes the listener if no living container is left
// there.
func (n *Networks) leave(there *Network, m *member) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m.forget()
	if n.all[there.place] != there {
		return // the listener is closed or lost
	}

	n.drop(m.name)
	delete(there.members, m.Token)
	if len(there.members) == 0 {
		n.adopt(there)
	}
	if len(there.members) == 0 {
		n.close(there)
	}
}

// open begins to serve at a listening socket.
func (n *Networks) open(at place, socket *os.File, name, service string) (*Network, error) {
	l, err := net.FileListener(socket)
	if err != nil {
		return nil, err
	}

	there := &Network{place: at, Name: name, Service: service, members: map[string]*member{}, conns: &connSet{open: map[*tracked]struct{}{}}}
	if there.socket, err = l.(*net.TCPListener).File(); err != nil {
		l.Close()
		return nil, err
	}

	there.Listener = Limited(&listener{l.(*net.TCPListener), there.conns}, mostConnections, ownConnections, n.common)
	n.all[at] = there

	go func() {
		if err := n.Serve(there); err != nil && !errors.Is(err, net.ErrClosed) {
			slog.Error("serve a container's network", "listener", there.Name, "error", err)
		}
	}()
	go n.watch(there)
	return there, nil
}

// close closes a listener that has no container left, or that another process has ended.
func (n *Networks) close(there *Network) {
	delete(n.all, there.place)
	n.drop(there.Name)
	there.Close()
	// During closeGrace, the requests in progress are cut because their tokens have ended, and the
	// trail gives that reason. closeAll resets the connections that are left.
	time.AfterFunc(closeGrace, there.conns.closeAll)
}

// watch waits until another process ends a listener, and revokes the tokens that were served there.
// It polls a second descriptor, since the server does not accept from a listener that is at its
// connection limit.
func (n *Networks) watch(there *Network) {
	conn, err := there.socket.SyscallConn()
	if err == nil {
		err = conn.Read(func(fd uintptr) (ended bool) {
			s, err := examineFd(int(fd))
			return err != nil || !s.listens
		})
	}
	if err != nil {
		return // the gate has closed the listener
	}

	n.mu.Lock()
	defer n.mu.Unlock()
	if n.all[there.place] == there {
		n.lose(there)
	}
}

// lose closes a listener that another process has ended, and revokes the tokens of its containers.
func (n *Networks) lose(there *Network) {
	n.close(there)
	for _, m := range there.members {
		m.forget()
		n.drop(m.name)
		n.losses.report(there.Name, m.Request)
	}
}

// Stop stops watching all processes. The server closes the listeners.
func (n *Networks) Stop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, there := range n.all {
		for _, m := range there.members {
			m.forget()
		}
	}
}

func (n *Networks) drop(name string) {
	if err := n.Keeper.Drop(name); err != nil {
		slog.Error("drop a file kept for the next gate", "name", name, "error", err)
	}
}

type networkKey struct{}

// ContextOf returns the context of all requests that come from a listener. [Of] finds the
// network in it.
func (n *Networks) ContextOf(l net.Listener) context.Context {
	if there, ok := l.(*Network); ok {
		return context.WithValue(n.ctx, networkKey{}, there)
	}
	return n.ctx
}

// Of returns the container's network that a request with this context comes from. It returns nil
// for a request from elsewhere.
func Of(ctx context.Context) *Network {
	there, _ := ctx.Value(networkKey{}).(*Network)
	return there
}

// Only returns the key of the withheld token in a network, if there is one. There is at most one,
// since a container whose token is withheld does not share its network.
func (n *Networks) Only(there *Network) (key string, withheld bool) {
	if there == nil {
		return "", false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range there.members {
		if m.Withheld {
			return m.Token, true
		}
	}
	return "", false
}

// Members returns the requests of the containers in a network, in the order of their ids.
func (n *Networks) Members(there *Network) (members []control.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range there.members {
		members = append(members, m.Request)
	}
	slices.SortFunc(members, func(a, b control.Request) int {
		return cmp.Or(strings.Compare(a.Container, b.Container), strings.Compare(a.Token, b.Token))
	})
	return members
}

// Container returns the id of the container in a network. It returns an empty id unless there is
// exactly one container.
func (n *Networks) Container(there *Network) (id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range there.members {
		if id != "" && id != m.Container {
			return ""
		}
		id = m.Container
	}
	return id
}
