// Limits how many lines of the trail a client can cause. A flood of them would displace those
// that matter: the lines of refs that move, which are never summed up.

package trail

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// OwnLines is how many events of a kind have lines of their own in a second; those beyond
// share one.
const OwnLines = 10

// Summary limits how many lines of the trail a client can cause.
type Summary struct {
	write func(Event)

	mu      sync.Mutex
	seconds map[kind]*second
}

// kind identifies events that are summed up together: those of one name and one origin, such
// as a token.
type kind struct{ origin, event string }

// second holds the events of a kind within a second that begins with the first of them.
type second struct {
	events int
	more   map[string]Event // by project, the last beyond those with lines of their own; Times is their number
	end    *time.Timer
}

// NewSummary returns a summary that writes lines by write, which may be called by many
// goroutines at once.
func NewSummary(write func(Event)) *Summary {
	return &Summary{write: write, seconds: map[kind]*second{}}
}

// Add writes the event, or sums it up with others when the second is over. Events about
// different projects are summed up apart; of those, an origin can only name a few.
func (s *Summary) Add(origin, project string, e Event) {
	if s.sumUp(kind{origin, e.Event}, project, e) {
		return
	}
	s.write(e)
}

func (s *Summary) sumUp(k kind, project string, e Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.seconds[k]
	if now == nil {
		now = &second{more: map[string]Event{}}
		now.end = time.AfterFunc(time.Second, func() { s.close(k, now) })
		s.seconds[k] = now
	}
	if now.events++; now.events <= OwnLines {
		return false
	}

	e.Times = now.more[project].Times + 1
	e.Bytes += now.more[project].Bytes
	now.more[project] = e
	return true
}

// close writes what was summed up, once.
func (s *Summary) close(k kind, is *second) {
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

func (s *Summary) writeMore(is *second) {
	for _, project := range slices.Sorted(maps.Keys(is.more)) {
		s.write(is.more[project])
	}
}

// End writes all events that were summed up.
func (s *Summary) End() {
	s.mu.Lock()
	left := s.seconds
	s.seconds = map[kind]*second{}
	s.mu.Unlock()
	for _, one := range left {
		one.end.Stop()
		s.writeMore(one)
	}
}
