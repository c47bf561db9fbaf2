package hook

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A user cannot start a gate at a socket where root's gate serves.
func TestTheWayOutIsInstallIfTheGateIsAnotherUsers(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{
		unix.EACCES: "terok-gate install",
		unix.ENOENT: "terok-gate serve",
	} {
		if got := WayOut(fmt.Errorf("%w: %w", ErrNoGate, errno)); !strings.Contains(got, want) {
			t.Errorf("%v: the way out is %q, without %q", errno, got, want)
		}
	}
}
