// Package untrusted runs programs that may be hostile: programs that run as another user, who can
// trace them and influence their input, and programs that pass on the output of such a program.
package untrusted

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// As makes root run the command as another user. The command gets a new session, since a process
// with root's terminal can type there (TIOCSTI, ioctl_tty(2)). It gets nothing of root's
// environment except PATH, and no file that was open when root started this program. The
// terminal's ^C does not reach it, so it gets SIGTERM when its caller ends.
func As(cmd *exec.Cmd, uid, gid uint32, groups ...uint32) {
	// Files that Go opens are closed anyway. (CLOSE_RANGE_CLOEXEC needs Linux 5.11.)
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)

	cmd.Dir = "/" // the user may not be able to enter ours
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups},
		Setsid:     true, Pdeathsig: syscall.SIGTERM,
	}
	cmd.WaitDelay = time.Second // in case another process holds its output open
}

// Output keeps what a command writes. It is an error to write more than Limit in total.
type Output struct {
	Limit int // in bytes; 0 for 16 MiB
	held  bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	limit := cmp.Or(o.Limit, 16<<20)
	if o.held.Len()+len(p) > limit {
		return 0, fmt.Errorf("more than %d bytes of output", limit)
	}
	return o.held.Write(p)
}

// Bytes returns what has been written.
func (o *Output) Bytes() []byte { return o.held.Bytes() }

func (o *Output) String() string { return o.held.String() }
