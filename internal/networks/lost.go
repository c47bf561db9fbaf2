// Revokes the tokens that were served at a listener that another process has ended.

package networks

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

var errListenerEnded = errors.New("a process in the container's network has ended the gate's listener, and may listen in its place: the tokens that were served there are revoked")

// losses handles listeners that another process has ended.
type losses struct {
	ctx    context.Context // ends the revoking
	tokens *store.Reader
	record func(trail.Event)
}

// report records that a container has lost its listener, and revokes the container's token.
func (l losses) report(listener string, r control.Request) {
	e := trail.Event{
		Event: trail.Failed, Container: r.Container, Fingerprint: store.Token(r.Token).Fingerprint(),
		From: listener, Error: errListenerEnded.Error(),
	}
	slog.Error("a listener was ended", "container", r.Container, "listener", listener, "error", errListenerEnded)
	l.record(e)
	go l.revoke(e, r)
}

// revoke revokes the token of a container that has lost its listener. The hook may not have written
// the token to the token file yet, so revoke waits until it has, or until the container has ended.
func (l losses) revoke(e trail.Event, r control.Request) {
	file := store.File{Path: l.tokens.Path()}
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()

	for r.Process.Life() != store.Dead {
		if _, valid := l.tokens.FindKey(r.Token); valid {
			revoked, err := file.Revoke(func(e store.Entry) bool { return e.Token.Key() == r.Token })
			if err != nil {
				slog.Error("revoke the token of a container that lost its listener", "container", r.Container, "error", err)
			}
			for _, one := range revoked {
				e.Event, e.Project, e.Task = trail.Revoked, one.Project, one.Task
				l.record(e)
			}
			if err == nil {
				return
			}
		}

		select {
		case <-again.C:
		case <-l.ctx.Done():
			return
		}
	}
}
