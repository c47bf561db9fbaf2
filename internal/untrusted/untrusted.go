// Package untrusted runs what may be hostile: a program as another user, who can trace it
// and has a say in what it reads, or one that passes on what such a one says.
package untrusted

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// As has root run a command as another user: in a session of its own, since whoever has
// root's terminal can type there (TIOCSTI, ioctl_tty(2)); with nothing of root's
// environment; and not for longer than we live, since it does not hear the terminal's ^C.
func As(cmd *exec.Cmd, uid, gid uint32, groups ...uint32) {
	cmd.Dir = "/" // our own may be closed to it
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups},
		Setsid:     true, Pdeathsig: syscall.SIGTERM,
	}
	cmd.WaitDelay = time.Second // should something else hold its output open
}

// Output takes so much of what a command writes, and no more.
type Output struct{ held bytes.Buffer }

func (o *Output) Write(p []byte) (int, error) {
	const limit = 16 << 20
	if o.held.Len()+len(p) > limit {
		return 0, fmt.Errorf("more than %d bytes of output", limit)
	}
	return o.held.Write(p)
}

// Bytes are what has been written.
func (o *Output) Bytes() []byte { return o.held.Bytes() }

func (o *Output) String() string { return o.held.String() }
