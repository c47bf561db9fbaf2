// Waits for a condition.

package testenv

import (
	"testing"
	"time"
)

// AWhile is longer than any step of a test takes on a busy machine.
const AWhile = 2 * time.Minute

// Wait polls until is() holds. It gives up after AWhile, and returns false.
func Wait(is func() bool) bool {
	for end := time.Now().Add(AWhile); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// Eventually waits as Wait does, and ends the test if the condition does not come to hold.
func Eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	if !Wait(is) {
		t.Fatalf("waited in vain until %s", what)
	}
}
