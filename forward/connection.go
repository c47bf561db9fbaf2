// Serves one connection: authorizes it, connects it to the service, copies in both directions, and
// records it in the trail. Cuts it when the right to use the service ends.

package forward

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"terok-gate-hook/internal/networks"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

// dialPatience is how long a service may take to accept a connection.
const dialPatience = 10 * time.Second

var errNotAllowed = errors.New("no container in this network may use the service")

// connect connects the client of a listener to the service of that listener, and records the
// result. If it cannot connect the client, it resets the connection, so that the client does not
// take the failure for an empty answer.
func (f *Forwarder) connect(network *networks.Network, client net.Conn) {
	began := time.Now()
	f.counts.underWay.Inc()
	defer f.counts.underWay.Dec()

	e := trail.Event{Event: trail.Connection, Service: network.Service, From: network.Name}
	defer func() {
		e.Duration = time.Since(began).Seconds()
		f.counts.count(e)
		f.record(e)
	}()

	ctx, pass, release, err := f.judge(network)
	defer release()
	e.Project, e.Task, e.Container, e.Fingerprint = pass.Project, pass.Task, pass.Container, pass.Fingerprint
	if err != nil {
		reset(client)
		e.Event, e.Error = trail.Refused, err.Error()
		e.Container = f.networks.Container(network)
		return
	}

	target := f.Services[network.Service]
	service, err := (&net.Dialer{Timeout: dialPatience}).DialContext(ctx, target.Network, target.Address)
	if err != nil {
		reset(client)
		if e.Event, e.Error = trail.Failed, "connect to the service: "+reason(err); ctx.Err() != nil {
			e.Event, e.Error = trail.Cut, context.Cause(ctx).Error()
		}
		return
	}

	p := pair{client: client, service: service}
	defer context.AfterFunc(ctx, p.reset)()
	err = p.copy()
	p.close()

	e.Bytes = p.sent.Load() + p.received.Load()
	f.counts.transferred(e.Service, p.sent.Load(), p.received.Load())
	switch {
	case ctx.Err() != nil && err != nil:
		e.Event, e.Error = trail.Cut, context.Cause(ctx).Error()
	case err != nil:
		e.Error = reason(err)
	}
}

// record writes an event to the trail, or summarizes it with others.
func (f *Forwarder) record(e trail.Event) {
	origin := "token " + e.Fingerprint
	if e.Fingerprint == "" {
		origin = "network " + e.From
	}
	f.summary.Add(origin, e.Service, e)
}

// judge returns the pass of a container in the listener's network that may use the listener's
// service, and a context that lasts as long as any container there may use the service. If none
// may, it returns an error.
//
// Containers that share a network cannot be told apart. If one of them loses the right to use the
// service, judge relies on the right of another.
func (f *Forwarder) judge(network *networks.Network) (ctx context.Context, pass store.Pass, release func(), err error) {
	ctx, cancel := context.WithCancelCause(f.ctx)
	pass, err = f.rely(ctx, cancel, network)
	if err != nil {
		cancel(nil)
	}
	return ctx, pass, func() { cancel(nil) }, err
}

// rely returns the pass of a container in the listener's network that may use the service, or an
// error if there is no such container. When the container loses that right, rely looks for another
// one. If it finds none, it cancels the context.
func (f *Forwarder) rely(ctx context.Context, cancel context.CancelCauseFunc, network *networks.Network) (_ store.Pass, why error) {
	why = errNotAllowed
	for _, member := range f.networks.Members(network) {
		use := store.Use{Service: network.Service, Listen: member.Listen}
		pass, ok := f.Tokens.FindKey(member.Token)
		if !ok {
			continue
		}
		if _, err := pass.For(use); err != nil {
			why = err
			continue
		}
		valid, release := f.Tokens.While(ctx, pass, use)
		if valid.Err() != nil {
			release()
			continue
		}

		context.AfterFunc(valid, func() {
			release()
			if ctx.Err() != nil {
				return
			}
			if _, err := f.rely(ctx, cancel, network); err != nil {
				cancel(context.Cause(valid))
			}
		})
		return pass, nil
	}
	return store.Pass{}, why
}

// pair holds the two ends of a connection.
type pair struct {
	client, service net.Conn
	sent, received  atomic.Int64 // bytes to and from the service
}

// copy copies in both directions until both ends are closed. If an end fails, copy resets both ends
// and returns the error.
func (p *pair) copy() error {
	sent := make(chan error, 1)
	go func() { sent <- p.copyHalf(p.service, p.client, &p.sent) }()
	received := p.copyHalf(p.client, p.service, &p.received)

	// A client that has sent everything may close both directions without reading the rest of
	// the answer. That resets the connection, and is not an error.
	if err := <-sent; err != nil || received == nil || !isLeaving(received) {
		return errors.Join(err, received)
	}
	return nil
}

// copyHalf copies in one direction until the source has closed its end. Then it closes the
// destination for writing.
func (p *pair) copyHalf(to, from net.Conn, bytes *atomic.Int64) error {
	n, err := splice(networks.Plain(to), networks.Plain(from))
	bytes.Add(n)
	if err != nil {
		p.reset()
		return err
	}
	if half, ok := networks.Plain(to).(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // if that end is gone, the copy in the other direction returns the error
	}
	return nil
}

// reset cuts both ends at once.
func (p *pair) reset() {
	reset(p.client)
	reset(p.service)
}

func (p *pair) close() {
	p.client.Close()
	p.service.Close()
}

// reset closes a connection at once, by a TCP reset, so that the peer can tell that the connection
// was cut.
func reset(conn net.Conn) {
	if tcp, ok := networks.Plain(conn).(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}

// isLeaving reports whether an error means that the peer has closed the connection.
func isLeaving(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// reason returns the kernel's reason for an error. The whole error would repeat addresses.
func reason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return "timed out"
	}
	return err.Error()
}
