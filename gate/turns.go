// Which requests are served at once: so many of each token, so many in all. The others wait
// for their turn.
//
// Turns are shared out by project, so that no project's containers can lock out another's. A
// project's share is an equal part of all turns, with room for one more project. The last
// eighth of the turns is reserved for projects that hold less than their share. If such a
// project still has to wait, the slowest request of a project that holds more is cut.

package gate

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"
)

// errOverShare cuts a request whose turn another project needs.
var errOverShare = errors.New("cut so that other projects have their turn")

// It takes one or two ticks before a request is cut for one that waits. A fetch takes three
// turns in succession, and all three are to begin within five seconds.
const turnsTick = 500 * time.Millisecond

// retryAfter is how long a client that got no turn is asked to wait.
const retryAfter = 5 * time.Second

type turns struct {
	perToken, together int
	patience           time.Duration

	mu        sync.Mutex
	held      []*turn        // the oldest first
	waiting   []*turn        // the oldest first
	requests  map[string]int // by project: held and waiting
	ofProject map[string]int // turns held
	ofToken   map[string]int // turns held
	relieving bool
}

// turn is that of one request, which holds it or waits for it.
type turn struct {
	project, token string
	progress       func() int64 // bytes, in both directions
	cut            context.CancelCauseFunc

	begun  chan struct{} // closed when the request has its turn
	seen   int64         // the progress at the last tick
	ticked bool          // it already waited, or already held its turn, at the last tick
	isCut  bool
}

func newTurns(perToken, together int, patience time.Duration) *turns {
	return &turns{
		perToken: perToken, together: together, patience: patience,
		requests: map[string]int{}, ofProject: map[string]int{}, ofToken: map[string]int{},
	}
}

// take waits for a turn of the project and the token. The request may go on until its
// context is done, with errOverShare as the cause if others need the turn. done gives the
// turn back.
func (t *turns) take(ctx context.Context, project, token string, progress func() int64) (valid context.Context, done func(), err error) {
	valid, cut := context.WithCancelCause(ctx)
	one := &turn{project: project, token: token, progress: progress, cut: cut, begun: make(chan struct{})}

	t.mu.Lock()
	t.requests[project]++
	t.waiting = append(t.waiting, one)
	t.deal()
	waits := len(t.waiting) > 0 && t.waiting[len(t.waiting)-1] == one
	if waits && !t.relieving {
		t.relieving = true
		go t.relieve()
	}
	t.mu.Unlock()

	done = func() {
		t.giveBack(one)
		cut(nil)
	}
	if !waits {
		return valid, done, nil
	}
	late := time.NewTimer(t.patience)
	defer late.Stop()
	select {
	case <-one.begun:
		return valid, done, nil
	case <-late.C:
		err = busy(retryAfter)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	done()
	return nil, nil, err
}

// giveBack ends a request that holds a turn or waits for one.
func (t *turns) giveBack(one *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.held, one); i >= 0 {
		t.held = slices.Delete(t.held, i, i+1)
		count(t.ofProject, one.project, -1)
		count(t.ofToken, one.token, -1)
	} else {
		i = slices.Index(t.waiting, one)
		t.waiting = slices.Delete(t.waiting, i, i+1)
	}
	count(t.requests, one.project, -1)
	t.deal()
}

// deal gives the turns that are free to those who wait: first to projects with the fewest
// turns, then to tokens with the fewest.
func (t *turns) deal() {
	for len(t.held) < t.together {
		next := -1
		for i, one := range t.waiting {
			if t.mayHave(one) && (next < 0 || t.comesBefore(one, t.waiting[next])) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		one := t.waiting[next]
		t.waiting = slices.Delete(t.waiting, next, next+1)
		t.held = append(t.held, one)
		count(t.ofProject, one.project, 1)
		count(t.ofToken, one.token, 1)
		one.ticked = false
		close(one.begun)
	}
}

// mayHave reports whether a request that waits may have one of the turns that are free.
func (t *turns) mayHave(one *turn) bool {
	few := t.together-len(t.held) <= t.together/8
	return t.ofToken[one.token] < t.perToken && (!few || t.ofProject[one.project] < t.share())
}

func (t *turns) comesBefore(one, other *turn) bool {
	if a, b := t.ofProject[one.project], t.ofProject[other.project]; a != b {
		return a < b
	}
	return t.ofToken[one.token] < t.ofToken[other.token]
}

// share is how many turns each project would have if one more came.
func (t *turns) share() int { return max(1, t.together/(len(t.requests)+1)) }

// relieve calls cutSlowest at every tick, for as long as requests wait.
func (t *turns) relieve() {
	tick := time.NewTicker(turnsTick)
	defer tick.Stop()
	for range tick.C {
		t.mu.Lock()
		t.cutSlowest()
		t.relieving = len(t.waiting) > 0
		goOn := t.relieving
		t.mu.Unlock()
		if !goOn {
			return
		}
	}
}

// cutSlowest cuts a request for each that has waited since the last tick, though its
// project holds less than its share. Those that have moved the least since then go first.
func (t *turns) cutSlowest() {
	willHave, free := maps.Clone(t.ofProject), 0
	for _, one := range t.held {
		if one.isCut {
			willHave[one.project]--
			free++
		}
	}
	share := t.share()
	for _, one := range t.waiting {
		if !one.ticked || t.ofToken[one.token] >= t.perToken || willHave[one.project] >= share {
			continue
		}
		if free > 0 {
			free--
		} else if slowest := t.slowest(willHave, share); slowest != nil {
			slowest.isCut = true
			slowest.cut(errOverShare)
			willHave[slowest.project]--
		} else {
			break
		}
		willHave[one.project]++
	}
	for _, one := range t.held {
		one.seen, one.ticked = one.progress(), true
	}
	for _, one := range t.waiting {
		one.ticked = true
	}
}

// slowest returns the slowest request of the projects that have more than their share, nil
// if there is none. One that has begun since the last tick is not judged yet.
func (t *turns) slowest(has map[string]int, share int) (slowest *turn) {
	var least int64
	for _, one := range t.held {
		if !one.ticked || one.isCut || has[one.project] <= share {
			continue
		}
		if moved := one.progress() - one.seen; slowest == nil || moved < least {
			slowest, least = one, moved
		}
	}
	return slowest
}

// count adds to a number, and forgets one that is zero.
func count(numbers map[string]int, of string, add int) {
	if numbers[of] += add; numbers[of] == 0 {
		delete(numbers, of)
	}
}
