package control

import (
	"fmt"
	"os"
	"testing"
)

func TestTheDefaultSocketIsInTheRuntimeDirectory(t *testing.T) {
	for _, row := range []struct{ runtime, users string }{
		{"/run/user/7", "/run/user/7/terok-gate/control"},
		{"", fmt.Sprintf("/run/user/%d/terok-gate/control", os.Getuid())},
		{"relative", fmt.Sprintf("/run/user/%d/terok-gate/control", os.Getuid())},
	} {
		t.Setenv("XDG_RUNTIME_DIR", row.runtime)
		want := row.users
		if os.Geteuid() == 0 { // root does not use a user's directory
			want = "/run/terok-gate/control"
		}
		if got := DefaultSocket(); got != want {
			t.Errorf("with %q: %s, want %s", row.runtime, got, want)
		}
	}
}
