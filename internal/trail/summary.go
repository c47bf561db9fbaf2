// Limits how many lines of the trail a client can cause. A flood of them would displace those
// that matter: the lines of refs that move, which are never summed up.

package gate

import (
	"maps"
	"slices"
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
	more   map[string]trail.Event // by project, the last beyond those with lines of their own; Times is their number
	end    *time.Timer
}

func newSummary(write func(trail.Event)) *summary {
	return &summary{write: write, seconds: map[kind]*second{}}
}

// add writes the event, or sums it up with others when the second is over. Events about
// different projects are summed up apart; of those, an origin can only name a few.
func (s *summary) add(origin, project string, e trail.Event) {
	if s.sumUp(kind{origin, e.Event}, project, e) {
		return
	}
	s.write(e)
}

func (s *summary) sumUp(k kind, project string, e trail.Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.seconds[k]
	if now == nil {
		now = &second{more: map[string]trail.Event{}}
		now.end = time.AfterFunc(time.Second, func() { s.close(k, now) })
		s.seconds[k] = now
	}
	if now.events++; now.events <= ownLines {
		return false
	}

	e.Times = now.more[project].Times + 1
	e.Bytes += now.more[project].Bytes
	now.more[project] = e
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
	if open {
		s.writeMore(is)
	}
}

func (s *summary) writeMore(is *second) {
	for _, project := range slices.Sorted(maps.Keys(is.more)) {
		s.write(is.more[project])
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
		s.writeMore(one)
	}
}
