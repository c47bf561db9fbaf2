package forward

import (
	"testing"
	"time"
)

func TestAListenerAcceptsManyAtOnceAndThenOneInEachInterval(t *testing.T) {
	var p pace
	now := time.Now()
	for i := range atOnce {
		if wait := p.next(now); wait != 0 {
			t.Fatalf("connection %d waits %v", i, wait)
		}
	}
	for i := range 3 {
		if wait := p.next(now); wait != time.Duration(i+1)*interval {
			t.Errorf("connection %d beyond waits %v", i, wait)
		}
	}

	now = now.Add(time.Hour) // makes up for no more than there may be at once
	for range atOnce {
		p.next(now)
	}
	if wait := p.next(now); wait != interval {
		t.Errorf("after an hour, the first connection beyond waits %v", wait)
	}
}
