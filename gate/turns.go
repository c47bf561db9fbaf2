// How many requests at once: so many of each token, so many in all. The others wait for
// their turn.

package gate

import (
	"context"
	"net"
	"sync"
	"time"
)

type turns struct {
	perToken int
	patience time.Duration
	all      chan struct{}

	mu     sync.Mutex
	tokens map[string]*tokenTurns // by fingerprint, of those with a request
}

type tokenTurns struct {
	turns    chan struct{}
	requests int // under way or waiting
}

func newTurns(perToken, together int, patience time.Duration) turns {
	return turns{perToken: perToken, patience: patience, all: make(chan struct{}, together), tokens: map[string]*tokenTurns{}}
}

// take waits for a turn. done gives it back.
func (t *turns) take(ctx context.Context, token string) (done func(), err error) {
	t.mu.Lock()
	own := t.tokens[token]
	if own == nil {
		own = &tokenTurns{turns: make(chan struct{}, t.perToken)}
		t.tokens[token] = own
	}
	own.requests++
	t.mu.Unlock()
	forget := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if own.requests--; own.requests == 0 {
			delete(t.tokens, token)
		}
	}
	late := time.NewTimer(t.patience)
	defer late.Stop()
	// Its own first: a token whose requests wait keeps no turn from others.
	if err := enter(ctx, own.turns, late); err != nil {
		forget()
		return nil, err
	}
	if err := enter(ctx, t.all, late); err != nil {
		<-own.turns
		forget()
		return nil, err
	}
	return func() {
		<-t.all
		<-own.turns
		forget()
	}, nil
}

func enter(ctx context.Context, turns chan struct{}, late *time.Timer) error {
	select {
	case turns <- struct{}{}:
		return nil
	default:
	}
	select {
	case turns <- struct{}{}:
		return nil
	case <-late.C:
		return busy(retryAfter)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// limited lets a listener have so many connections at once: some of its own, and others of
// those that listeners have in common. More wait in the kernel.
func limited(l net.Listener, most, own int, common chan struct{}) net.Listener {
	return &limitedListener{
		Listener: l, turns: make(chan struct{}, most), own: make(chan struct{}, own), common: common,
		closed: make(chan struct{}),
	}
}

type limitedListener struct {
	net.Listener
	turns, own, common chan struct{}

	once   sync.Once
	closed chan struct{}
}

func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.turns <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	from := l.own
	select {
	case l.own <- struct{}{}:
	default:
		select {
		case l.own <- struct{}{}:
		case l.common <- struct{}{}:
			from = l.common
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
	done := sync.OnceFunc(func() {
		<-from
		<-l.turns
	})
	conn, err := l.Listener.Accept()
	if err != nil {
		done()
		return nil, err
	}
	return &limitedConn{Conn: conn, done: done}, nil
}

func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	done func()
}

func (c *limitedConn) Close() error {
	defer c.done()
	return c.Conn.Close()
}

// CloseWrite lets net/http tell a client that still sends what the answer is.
func (c *limitedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
