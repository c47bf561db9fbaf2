// Waiting for a condition.

package testenv

import (
	"testing"
	"time"
)

// AWhile is longer than anything here takes on a busy machine.
const AWhile = 2 * time.Minute

// Wait waits, for what no event tells of, until is() holds. It gives up, and returns
// false, after AWhile.
func Wait(is func() bool) bool {
	for end := time.Now().Add(AWhile); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// Eventually is Wait, and fails the test if that was in vain.
func Eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	if !Wait(is) {
		t.Fatalf("waited in vain until %s", what)
	}
}
