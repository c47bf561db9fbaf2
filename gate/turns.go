// How many requests at once: so many of each token, so many in all. The others wait for
// their turn.

package gate

import (
	"context"
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
