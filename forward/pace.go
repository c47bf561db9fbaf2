// Limits how many connections a second a listener accepts. Further connections wait in the kernel,
// so that a container that floods its listener leaves the processor to others.

package forward

import (
	"time"

	"golang.org/x/time/rate"
)

// A listener accepts one connection in each interval on average. After a pause, it accepts up to
// atOnce connections without a wait.
const (
	interval = time.Millisecond
	atOnce   = 256
)

// newPace returns a limiter that decides when a listener may accept its next connection.
func newPace() *rate.Limiter { return rate.NewLimiter(rate.Every(interval), atOnce) }
