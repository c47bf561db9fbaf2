// Makes, runs and stops the forwarder, which accepts connections in containers' networks. Package
// networks limits how many connections a network may have at once.

package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/networks"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

// Target is the address of a service, as [net.Dial] takes it.
type Target struct{ Network, Address string }

// Settings configure a forwarder.
type Settings struct {
	Services map[string]Target
	Tokens   *store.Reader // the valid tokens

	// Trail is called with every event, and by many goroutines at once. It may be nil.
	Trail func(...trail.Event) error

	// Keeper keeps what the next forwarder needs to serve the same containers. It may be nil.
	Keeper networks.Keeper
}

// Forwarder connects containers to services. Make one with [New].
type Forwarder struct {
	Settings
	networks *networks.Networks
	summary  *trail.Summary
	counts   counts

	ctx     context.Context // of all connections
	cut     context.CancelCauseFunc
	hearing context.Context // ends when hooks are no longer answered
	deafen  context.CancelFunc

	accepting   context.Context
	stop        context.CancelFunc
	mu          sync.Mutex     // held to add an acceptor, and to stop accepting
	acceptors   sync.WaitGroup // one for each listener
	connections sync.WaitGroup
}

// errStopping is the reason for which connections are cut when the forwarder stops.
var errStopping = errors.New("terok-gate forward stops")

// New returns a forwarder that serves no container yet.
func New(s Settings) (f *Forwarder, err error) {
	f = &Forwarder{Settings: s, counts: newCounts(s.Services)}
	f.summary = trail.NewSummary(f.writeTrail)
	f.ctx, f.cut = context.WithCancelCause(context.Background())
	f.accepting, f.stop = context.WithCancel(context.Background())
	f.hearing, f.deafen = context.WithCancel(context.Background())
	f.networks, err = networks.New(f.ctx, networks.Settings{
		Tokens: s.Tokens, Keeper: s.Keeper, Record: f.writeTrail, Takes: f.takes, Try: f.try, Serve: f.serve,
	})
	return f, err
}

// takes returns an error if the request is for a service that the forwarder does not have.
func (f *Forwarder) takes(r control.Request) error {
	if _, has := f.Services[r.Service]; !has {
		return fmt.Errorf("%w: %.64q", control.NoService, r.Service)
	}
	return nil
}

// try connects to a service, and sends nothing.
func (f *Forwarder) try(service string) error {
	target, has := f.Services[service]
	if !has {
		return fmt.Errorf("%w: %.64q", control.NoService, service)
	}
	ctx, cancel := context.WithTimeout(f.ctx, tryPatience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, target.Network, target.Address)
	if err != nil {
		return fmt.Errorf("%w: %s", control.Down, reason(err))
	}
	return conn.Close()
}

// tryPatience is how long a service may take to accept the connection of try. Clients of the
// control socket wait only a little longer.
const tryPatience = 3 * time.Second

// ServeControl answers hooks, and programs that ask about containers, until the forwarder stops.
// The socket is of type SOCK_SEQPACKET. Only processes of the forwarder's own user and of root
// are answered.
func (f *Forwarder) ServeControl(l *net.UnixListener) { f.networks.ServeControl(f.hearing, l) }

// Restore continues the work of the last forwarder. The files are those that the Keeper of that
// forwarder kept, with the same names. Restore closes them.
func (f *Forwarder) Restore(files []*os.File) { f.networks.Restore(files) }

// Stop stops accepting connections, waits for the open ones until ctx is done, and then cuts them.
// If there is a Keeper, hooks are still answered during the wait, and new connections wait in the
// kernel for the next forwarder.
func (f *Forwarder) Stop(ctx context.Context) {
	f.mu.Lock()
	f.stop()
	f.mu.Unlock()
	if f.Keeper == nil {
		f.deafen()
	}

	f.acceptors.Wait()
	ended := context.AfterFunc(ctx, func() { f.cut(errStopping) })
	f.connections.Wait()
	ended()

	f.cut(errStopping)
	f.deafen()
	f.networks.Stop()
	f.summary.End()
}

// Metrics serves the forwarder's metrics for Prometheus. They contain no secret, but containers
// must not reach them: serve them on a listener of their own.
func (f *Forwarder) Metrics() http.Handler {
	return promhttp.HandlerFor(f.counts.registry, promhttp.HandlerOpts{})
}

// serve accepts and connects a listener's clients, until the listener is closed or the forwarder
// stops.
func (f *Forwarder) serve(network *networks.Network) error {
	if !f.accept() {
		return network.Close()
	}
	defer f.acceptors.Done()
	f.counts.listeners.Inc()
	defer f.counts.listeners.Dec()
	defer context.AfterFunc(f.accepting, func() { network.Close() })()

	pace := newPace()
	for {
		time.Sleep(pace.Reserve().Delay())
		client, err := network.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil: // such as a lack of descriptors
			slog.Error("accept a connection", "listener", network.Name, "error", err)
			time.Sleep(100 * time.Millisecond)
		default:
			f.connections.Go(func() { f.connect(network, client) })
		}
	}
}

// accept adds an acceptor. It returns false if the forwarder stops.
func (f *Forwarder) accept() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.accepting.Err() != nil {
		return false
	}
	f.acceptors.Add(1)
	return true
}

// writeTrail writes a line to the trail. If that fails, it logs the error, and the forwarder goes
// on.
func (f *Forwarder) writeTrail(e trail.Event) {
	if f.Trail == nil {
		return
	}
	if err := f.Trail(e); err != nil {
		slog.Error("write the trail", "error", err)
	}
}
