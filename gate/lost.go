// What becomes of a listener in a container's network that somebody else has ended.

package gate

import (
	"errors"
	"log/slog"
	"time"

	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

var errListenerEnded = errors.New("the gate's listener was ended by a process in the container's network, which may listen in its place: the tokens that were served there are revoked")

// watch notices the end of a listener that the gate has not closed. It has a descriptor of
// its own for that: the listener itself is not looked at while it has all the connections
// that it may have.
func (n *networks) watch(there *network) {
	conn, err := there.socket.SyscallConn()
	if err == nil {
		err = conn.Read(func(fd uintptr) (ended bool) {
			s, err := examineFd(int(fd))
			return err != nil || !s.listens
		})
	}
	if err != nil {
		return // the gate has closed it
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.all[there.place] == there {
		n.lose(there)
	}
}

// lose ends what there is for the containers at a listener that somebody else has ended.
func (n *networks) lose(there *network) {
	n.close(there)
	for _, m := range there.members {
		m.forget()
		n.drop(m.name)
		n.report(there.name, m.Request)
	}
}

// report says that a container has lost its listener, and revokes its token.
func (n *networks) report(listener string, r control.Request) {
	e := trail.Event{
		Event: trail.Failed, Container: r.Container, Fingerprint: store.Token(r.Token).Fingerprint(),
		From: listener, Error: errListenerEnded.Error(),
	}
	slog.Error("a listener was ended", "container", r.Container, "listener", listener, "error", errListenerEnded)
	n.record(e)
	go n.revoke(e, r)
}

// revoke revokes the token of a container that has lost its listener. A hook may be about
// to commit it: it is waited for until the container has ended.
func (n *networks) revoke(e trail.Event, r control.Request) {
	file := store.File{Path: n.gate.tokens.Path()}
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for r.Process.Life() != store.Dead {
		if _, valid := n.gate.tokens.FindKey(r.Token); valid {
			revoked, err := file.Revoke(func(e store.Entry) bool { return e.Token.Key() == r.Token })
			if err != nil {
				slog.Error("revoke the token of a container that lost its listener", "container", r.Container, "error", err)
			}
			for _, one := range revoked {
				e.Event, e.Project, e.Task = trail.Revoked, one.Project, one.Task
				n.record(e)
			}
			if err == nil {
				return
			}
		}
		select {
		case <-again.C:
		case <-n.gate.ctx.Done():
			return
		}
	}
}

func (n *networks) record(e trail.Event) {
	n.gate.writeTrail(e)
}
