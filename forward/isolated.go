// Keeps the forwarder from the other processes of its user.

package forward

import (
	"fmt"

	"github.com/landlock-lsm/go-landlock/landlock"
	"github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// Isolate keeps this process, for good, from the memory, files and root directories that other
// processes of its user have in /proc: those of the gate would lead to the repositories, which the
// forwarder's unit hides. It returns an error if the kernel has no Landlock (Linux 5.13).
//
// A process in a Landlock domain may not trace one outside of it (landlock(7)), and the kernel asks
// the same for these files. The domain needs to restrict something else: that no block devices are
// made.
func Isolate() error {
	some := landlock.Config{HandledAccessFS: syscall.AccessFSMakeBlock}
	if err := some.RestrictPaths(); err != nil {
		return fmt.Errorf("nothing keeps terok-gate forward from other processes of its user: %w", err)
	}
	return nil
}
