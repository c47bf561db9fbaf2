// Limits how many lines of the trail a client can cause. A flood of lines would displace the lines
// that matter: those of refs that move, which are never summed up.

package trail

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// OwnLines is how many events of a kind have lines of their own in a second. The further ones are
// summed up.
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
	more   map[string]Event // by subject: the last of the events beyond OwnLines, with the Times and Bytes of all of them
	end    *time.Timer
}

// NewSummary returns a summary that calls write for each line. write must be safe for concurrent
// use.
func NewSummary(write func(Event)) *Summary {
	return &Summary{write: write, seconds: map[kind]*second{}}
}

// Add writes the event if it is one of the first OwnLines events of its kind in a second.
// Otherwise, Add sums it up with others, in a line that is written at the end of that second.
// Events about different subjects, which are projects or services, are summed up separately. An
// origin can name only a few subjects.
func (s *Summary) Add(origin, subject string, e Event) {
	if s.sumUp(kind{origin, e.Event}, subject, e) {
		return
	}
	s.write(e)
}

func (s *Summary) sumUp(k kind, subject string, e Event) bool {
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

	e.Times = now.more[subject].Times + 1
	e.Bytes += now.more[subject].Bytes
	now.more[subject] = e
	return true
}

// close writes what was summed up in a second, unless End has done so.
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
	for _, subject := range slices.Sorted(maps.Keys(is.more)) {
		s.write(is.more[subject])
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
