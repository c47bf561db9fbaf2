// Limits how many requests are served at once, of each token and in all. Other requests wait for a
// slot, and are told to try again if they wait too long.
//
// The slots are shared out between projects, so that the containers of one project cannot lock out
// those of another project. A project's share is the number of slots, divided by one more than the
// number of projects that have requests. The last eighth of the slots is reserved for projects that
// hold less than their share. If such a project still has to wait, a request of a project that
// holds more than its share is cut: the slowest.

package gate

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"
)

// errOverShare cuts a request whose slot another project needs.
var errOverShare = errors.New("cut to free its slot for another project")

// preemptInterval is the time between two ticks. At each tick, preempt calls cutSlowest. A request
// waits for one to two intervals before another request is cut for it. The interval is short, since
// a fetch consists of three requests in succession, each of which may have to wait, and it should
// begin within five seconds.
const preemptInterval = 500 * time.Millisecond

// retryAfter is how long a client is asked to wait if its request got no slot, or lost it.
const retryAfter = 5 * time.Second

type slots struct {
	perToken, together int
	patience           time.Duration

	mu         sync.Mutex
	held       []*claim       // the oldest first
	waiting    []*claim       // the oldest first
	requests   map[string]int // by project: held and waiting
	ofProject  map[string]int // slots held
	ofToken    map[string]int // slots held
	preempting bool
}

// claim is the claim of one request to a slot, which it holds or waits for.
type claim struct {
	project, token string
	progress       func() int64 // bytes, in both directions
	cut            context.CancelCauseFunc

	begun  chan struct{} // closed when the request has its slot
	seen   int64         // the progress at the last tick
	ticked bool          // at the last tick, the request already waited, or already held its slot
	isCut  bool
}

func newSlots(perToken, together int, patience time.Duration) *slots {
	return &slots{
		perToken: perToken, together: together, patience: patience,
		requests: map[string]int{}, ofProject: map[string]int{}, ofToken: map[string]int{},
	}
}

// acquire waits for a slot for a request of the project and the token. The request may go on until
// the context valid ends. The cause of that context is errOverShare if another project needs the
// slot. The caller must call done, which releases the slot.
func (t *slots) acquire(ctx context.Context, project, token string, progress func() int64) (valid context.Context, done func(), err error) {
	valid, cut := context.WithCancelCause(ctx)
	one := &claim{project: project, token: token, progress: progress, cut: cut, begun: make(chan struct{})}

	t.mu.Lock()
	t.requests[project]++
	t.waiting = append(t.waiting, one)
	t.assign()
	waits := len(t.waiting) > 0 && t.waiting[len(t.waiting)-1] == one
	if waits && !t.preempting {
		t.preempting = true
		go t.preempt()
	}
	t.mu.Unlock()

	done = func() {
		t.release(one)
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

// release removes the claim of a request, which holds a slot or waits for one, and assigns the slots
// that are free.
func (t *slots) release(one *claim) {
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
	t.assign()
}

// assign gives the free slots to waiting requests: first to projects with the fewest slots,
// then to tokens with the fewest.
func (t *slots) assign() {
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

// mayHave reports whether a request that waits may have one of the free slots.
func (t *slots) mayHave(one *claim) bool {
	few := t.together-len(t.held) <= t.together/8
	return t.ofToken[one.token] < t.perToken && (!few || t.ofProject[one.project] < t.share())
}

func (t *slots) comesBefore(one, other *claim) bool {
	if a, b := t.ofProject[one.project], t.ofProject[other.project]; a != b {
		return a < b
	}
	return t.ofToken[one.token] < t.ofToken[other.token]
}

// share returns how many slots each project would have if there were one more project.
func (t *slots) share() int { return max(1, t.together/(len(t.requests)+1)) }

// preempt calls cutSlowest at every tick, for as long as requests wait.
func (t *slots) preempt() {
	tick := time.NewTicker(preemptInterval)
	defer tick.Stop()
	for range tick.C {
		t.mu.Lock()
		t.cutSlowest()
		t.preempting = len(t.waiting) > 0
		goOn := t.preempting
		t.mu.Unlock()
		if !goOn {
			return
		}
	}
}

// cutSlowest makes room for the requests that already waited at the last tick, and whose projects
// hold less than their share. For each of them, it cuts the request that slowest returns, unless a
// request that was cut before is about to free a slot.
func (t *slots) cutSlowest() {
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

// slowest looks at the requests of projects that have more than their share. It returns the request
// that has moved the fewest bytes since the last tick, or nil if there is none. It leaves out
// requests that got their slot since that tick.
func (t *slots) slowest(has map[string]int, share int) (slowest *claim) {
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

// count adds to the number of a key, and deletes the key if its number becomes zero.
func count(numbers map[string]int, key string, add int) {
	if numbers[key] += add; numbers[key] == 0 {
		delete(numbers, key)
	}
}
