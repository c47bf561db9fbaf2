// Limits how many lines of the trail a client can cause. A flood of them would displace those
// that matter: the lines of refs that move, which are never summed up.

package gate

import (
	"sync"
	"time"

	"terok-gate-hook/internal/trail"
)

// ownLines is how many events of a kind have lines of their own in a second; those beyond
// share one.
const ownLines = 10

// summary sums up events.
type summary struct {
	write func(trail.Event)

	mu      sync.Mutex
	seconds map[kind]*second
}

// kind identifies events that are summed up together: those of one name and one origin, such
// as a token.
type kind struct{ origin, event string }

// second holds the events of a kind within a second that begins with the first of them.
type second struct {
	events int
	more   trail.Event // the last beyond those with lines of their own; Times is their number
	end    *time.Timer
}

func newSummary(write func(trail.Event)) *summary {
	return &summary{write: write, seconds: map[kind]*second{}}
}

// add writes the event, or sums it up with others when the second is over.
func (s *summary) add(origin string, e trail.Event) {
	if s.sumUp(kind{origin, e.Event}, e) {
		return
	}
	s.write(e)
}

func (s *summary) sumUp(k kind, e trail.Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.seconds[k]
	if now == nil {
		now = &second{}
		now.end = time.AfterFunc(time.Second, func() { s.close(k, now) })
		s.seconds[k] = now
	}
	if now.events++; now.events <= ownLines {
		return false
	}

	e.Times = now.more.Times + 1
	e.Bytes += now.more.Bytes
	now.more = e
	return true
}

// close writes what was summed up, once.
func (s *summary) close(k kind, is *second) {
	s.mu.Lock()
	open := s.seconds[k] == is
	if open {
		delete(s.seconds, k)
	}
	s.mu.Unlock()
	if open && is.more.Times > 0 {
		s.write(is.more)
	}
}

// end writes all events that were summed up.
func (s *summary) end() {
	s.mu.Lock()
	left := s.seconds
	s.seconds = map[kind]*second{}
	s.mu.Unlock()
	for _, one := range left {
		one.end.Stop()
		if one.more.Times > 0 {
			s.write(one.more)
		}
	}
}
