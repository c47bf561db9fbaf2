// Limits how many connections a second a listener accepts. More wait in the kernel, so that a
// container that floods its listener leaves the processor to others.

package forward

import "time"

// A listener accepts one connection in each interval on average. After a pause, it accepts up to
// atOnce connections without a wait.
const (
	interval = time.Millisecond
	atOnce   = 256
)

// pace says when a listener may accept its next connection.
type pace struct{ due time.Time }

// next returns how long to wait before the next connection is accepted, and counts that connection.
func (p *pace) next(now time.Time) (wait time.Duration) {
	if earliest := now.Add(-atOnce * interval); p.due.Before(earliest) {
		p.due = earliest
	}
	p.due = p.due.Add(interval)
	return max(0, p.due.Sub(now))
}
