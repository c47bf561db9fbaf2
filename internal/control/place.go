// Where gate and hooks meet, unless told otherwise.

package control

import (
	"fmt"
	"os"
	"path/filepath"
)

// DefaultSocket is the path of the control socket of root's gate, or of the user's own.
func DefaultSocket() string {
	if os.Geteuid() == 0 {
		return "/run/terok-gate/control"
	}
	runtime := os.Getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(runtime) { // after su and sudo it is not set
		runtime = fmt.Sprintf("/run/user/%d", os.Getuid())
	}
	return filepath.Join(runtime, "terok-gate/control")
}
