package gate_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"terok-gate-hook/gate"
	"terok-gate-hook/hook"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
)

// endListener does what a neighbour with CAP_NET_ADMIN can do: it ends the gate's listener
// (SOCK_DESTROY, sock_diag(7)).
func (c *container) endListener(t *testing.T) {
	t.Helper()
	testenv.Need(t, "ss")
	out, err := c.inside("ss", "--no-header", "--numeric", "--kill", "state", "listening", "sport = :9418").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "127.0.0.1:9418") {
		testenv.Cannot(t, "the kernel ends no listener of another process: %v\n%s", err, out)
	}
}

// revoked waits until the container's token is no longer in the token file.
func (h *harness) revoked(t *testing.T, c *container) {
	t.Helper()
	testenv.Eventually(t, "its token is revoked", func() bool {
		_, valid := h.tokens.Reader(func(error) {}).FindKey(c.Token.Key())
		return !valid
	})
}

func TestTokensAreRevokedIfANeighbourEndsTheListener(t *testing.T) {
	h, told := attachable(t, gate.Settings{})
	told.GateTimeout = 300 * time.Millisecond
	first, elsewhere := h.container(t, nil), h.container(t, nil)
	second := h.container(t, first)
	for _, c := range []*container{first, second, elsewhere} {
		h.start(t, told, c)
	}
	committing := h.container(t, first) // the gate has said yes to its hook, but its token is not valid yet
	must(t, told.Attach(committing.Entry))

	first.endListener(t)
	h.revoked(t, first)
	h.revoked(t, second)
	h.commit(t, committing)
	h.revoked(t, committing)
	if err := elsewhere.reaches(elsewhere.Token); err != nil {
		t.Error(err)
	}
	h.trailed(t, trail.Failed, 3)
	for _, event := range h.trailed(t, trail.Revoked, 3) {
		if event.Project != "demo" || !strings.HasPrefix(event.From, "listener-"+first.Container) || !strings.Contains(event.Error, "a process in the container's network has ended the gate's listener") {
			t.Errorf("the trail has %+v", event)
		}
	}

	first.listen(t)
	for name, c := range map[string]*container{"another container": h.container(t, first), "one that was served": second} {
		if err := told.Attach(c.Entry); !errors.Is(err, hook.ErrTaken) {
			t.Errorf("%s: the hook says %v", name, err)
		}
	}
	_, err := control.Ask(told.GateSocket, time.Now().Add(time.Minute), control.Request{
		Container: second.Container, Process: second.Process, Token: second.Token.Key(), Listen: second.Gate.Listen,
	})
	if !errors.Is(err, control.Absent) {
		t.Errorf("asked whether it serves the second container, the gate says %v", err)
	}
}

// While a listener has all the connections that it may have, the gate accepts no more.
func TestTheEndOfAListenerIsNoticedThoughItHasAllConnections(t *testing.T) {
	h, told := attachable(t, gate.Settings{})
	c := h.container(t, nil)
	h.start(t, told, c)
	descriptors := len(glob("/proc/self/fd/*"))
	c.crowd(t, 80)
	testenv.Eventually(t, "the container has its share", func() bool { return len(glob("/proc/self/fd/*")) >= descriptors+64 })
	c.endListener(t)
	h.revoked(t, c)
}

func TestTokensAreRevokedIfTheListenerEndsWhileNoGateRuns(t *testing.T) {
	shelf := &testenv.Shelf{}
	h, told := attachable(t, gate.Settings{Keeper: shelf})
	c, elsewhere := h.container(t, nil), h.container(t, nil)
	h.start(t, told, c)
	h.start(t, told, elsewhere)
	stopNow(h.Gate)
	c.endListener(t)
	h.Gate = h.again(t, gate.Settings{Keeper: shelf})
	h.Restore(shelf.Passed(t))
	h.revoked(t, c)
	h.trailed(t, trail.Revoked, 1)
	if err := elsewhere.reaches(elsewhere.Token); err != nil {
		t.Error(err)
	}
	if n := len(kept(t, shelf)); n != 2 {
		t.Errorf("%d files are kept: %q", n, kept(t, shelf))
	}
}

// A gate that was killed has lost the listener of a pod. The next gate gets a new listener from the
// hook of a container that comes and goes.
func TestAListenerStaysForTheOthersOfAPod(t *testing.T) {
	h, told := attachable(t, gate.Settings{})
	first := h.container(t, nil)
	network := first.watchNetwork(t)
	second, third := h.container(t, first), h.container(t, first)

	h.start(t, told, first)
	h.start(t, told, second)

	h.Gate = h.again(t, gate.Settings{})
	told = h.takeHooks(t)
	h.start(t, told, third)

	third.End()
	testenv.Eventually(t, "the gate does not serve the third any more", func() bool {
		_, err := control.Ask(told.GateSocket, time.Now().Add(time.Minute), control.Request{
			Container: third.Container, Process: third.Process, Token: third.Token.Key(), Listen: third.Gate.Listen,
		})
		return errors.Is(err, control.Absent)
	})

	for _, c := range []*container{first, second} {
		if err := c.reaches(c.Token); err != nil {
			t.Error(err)
		}
		c.End()
	}
	testenv.Eventually(t, "their network is gone", func() bool { return !network() })
}

// A container that withholds its token stays alone in its network, even if the gate has lost the
// listener there.
func TestALostContainerThatWithholdsItsTokenStaysAlone(t *testing.T) {
	h, told := attachable(t, gate.Settings{})
	withholds := h.container(t, nil)
	withholds.Gate.Withheld = true
	h.start(t, told, withholds)
	h.Gate = h.again(t, gate.Settings{})
	told = h.takeHooks(t)
	if err := told.Attach(h.container(t, withholds).Entry); !errors.Is(err, hook.ErrNotAlone) {
		t.Errorf("the hook says %v", err)
	}
}
