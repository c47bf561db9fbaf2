package mtls

import (
	"testing"
	"time"
)

func TestAMachineHasVanishedIfItAcknowledgesNothingForLong(t *testing.T) {
	type look struct {
		waits bool
		last  time.Duration // in seconds
	}
	for name, row := range map[string]struct {
		looks    []look
		vanished bool
	}{
		"it vanishes in a transfer":                     {[]look{{true, 0}, {true, 1}, {true, 2}, {true, 3}, {true, 4}, {true, 5}}, true},
		"it is slow, and answers in time":               {[]look{{true, 0}, {true, 1}, {true, 2}, {true, 3}, {true, 4}, {true, 0}}, false},
		"nothing waits":                                 {[]look{{false, 3}, {false, 4}, {false, 5}, {false, 60}}, false},
		"one packet after a long rest":                  {[]look{{false, 59}, {true, 60}, {false, 0}}, false},
		"one packet after each long rest":               {[]look{{true, 60}, {false, 0}, {true, 60}, {false, 0}, {true, 60}}, false},
		"its window is full, and it answers each probe": {[]look{{false, 6}, {true, 7}, {false, 0}, {false, 12}, {true, 13}}, false},
		"it vanishes after a long rest":                 {[]look{{false, 59}, {true, 60}, {true, 61}, {true, 62}}, true},
	} {
		seen, vanished := silence{}, false
		for _, now := range row.looks {
			vanished = seen.isTooLong(now.waits, now.last*time.Second)
		}
		if vanished != row.vanished {
			t.Errorf("%s: %v", name, vanished)
		}
	}
}
