package forward

import (
	"testing"
	"time"
)

func TestAListenerAcceptsManyAtOnceAndThenOneInEachInterval(t *testing.T) {
	p := newPace()
	now := time.Now()
	next := func(now time.Time) time.Duration { return p.ReserveN(now, 1).DelayFrom(now) }
	for i := range atOnce {
		if wait := next(now); wait != 0 {
			t.Fatalf("connection %d waits %v", i, wait)
		}
	}
	for i := range 3 {
		if wait := next(now); wait != time.Duration(i+1)*interval {
			t.Errorf("connection %d beyond atOnce waits %v", i, wait)
		}
	}

	now = now.Add(time.Hour) // even then, no more than atOnce are accepted at once
	for range atOnce {
		next(now)
	}
	if wait := next(now); wait != interval {
		t.Errorf("after an hour, the first connection beyond atOnce waits %v", wait)
	}
}
