// Keeps the forwarder out of its user's other processes.

package forward

import (
	"fmt"

	"github.com/landlock-lsm/go-landlock/landlock"
	"github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// Isolate ends this process's access through /proc to the memory, files and root directories of its
// user's other processes, for good. The root directory of the gate's process would lead to the
// repositories, which the forwarder's unit hides. Isolate returns an error if the kernel has no
// Landlock, which came with Linux 5.13.
//
// A process in a Landlock domain may not trace a process outside that domain (landlock(7)), and the
// kernel requires the right to trace for these parts of /proc. A domain must restrict something:
// this one forbids only making block devices.
func Isolate() error {
	some := landlock.Config{HandledAccessFS: syscall.AccessFSMakeBlock}
	if err := some.RestrictPaths(); err != nil {
		return fmt.Errorf("the forwarder can reach other processes of its user: %w", err)
	}
	return nil
}
