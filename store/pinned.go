// Pins a process: opens descriptors that stay with the process even if its pid is reused.

package store

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Pinned is a process that is held open by its pidfd and by its directory in /proc. Once the
// process has ended, its pid can be reused, but a read through these descriptors never yields
// another process's data.
type Pinned struct {
	Process Process
	pidfd   int
	proc    int
}

// ErrEnded reports that a process has provably ended.
var ErrEnded = errors.New("the process has ended")

// Pin opens and describes the running process that has this pid in our pid namespace. It returns an
// error if it cannot read a part of the description that is needed to prove the process dead.
func Pin(pid int) (*Pinned, error) {
	p, err := here().pin(pid)
	if err != nil {
		return nil, fmt.Errorf("describe process %d: %w", pid, err)
	}
	return p, nil
}

// ProcessOf describes a running process as [Pin] does.
func ProcessOf(pid int) (*Process, error) {
	p, err := Pin(pid)
	if err != nil {
		return nil, err
	}
	p.Close()
	return &p.Process, nil
}

// Pin opens a process that was described before. It returns [ErrEnded] if the process is dead, and
// [ErrUnseen] if the process cannot be judged from here.
func (p *Process) Pin() (*Pinned, error) {
	pidfd, life, err := p.open()
	switch {
	case err != nil:
		return nil, err
	case life == Dead:
		return nil, ErrEnded
	case life == Unknown:
		return nil, ErrUnseen
	}

	pinned := &Pinned{Process: *p, pidfd: pidfd, proc: -1}
	if err := pinned.openProc(); err != nil {
		pinned.Close()
		return nil, err
	}
	return pinned, nil
}

func (j judge) pin(pid int) (p *Pinned, err error) {
	if err := j.canDescribe(); err != nil {
		return nil, err
	}
	pidfd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	p = &Pinned{
		Process: Process{Machine: j.machine, Boot: j.boot, PIDNS: j.pidNS, TimeNS: j.timeNS, PID: pid},
		pidfd:   pidfd, proc: -1,
	}

	p.Process.Inode, err = pidfdInode(pidfd)
	if err == nil {
		err = p.openProc()
	}
	if err == nil {
		p.Process.Start, err = startTime(p.proc, "stat")
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// openProc opens the process's directory in /proc, and then polls the pidfd. If the process has not
// ended by then, the directory belongs to this process and not to a later one with the same pid.
func (p *Pinned) openProc() (err error) {
	p.proc, err = openAt(unix.AT_FDCWD, fmt.Sprintf("/proc/%d", p.Process.PID), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	over, err := p.Ended()
	if err == nil && over {
		err = ErrEnded
	}
	return err
}

// Close releases the process's descriptors.
func (p *Pinned) Close() {
	unix.Close(p.pidfd)
	if p.proc >= 0 {
		unix.Close(p.proc)
	}
}

// Pidfd returns the pidfd, for setns(2). Close closes it.
func (p *Pinned) Pidfd() int { return p.pidfd }

// Ended reports whether every thread of the process has ended.
func (p *Pinned) Ended() (bool, error) { return readable(p.pidfd) }

// Read returns the content of a small file in the process's directory in /proc, such as
// "uid_map".
func (p *Pinned) Read(name string) ([]byte, error) { return readSmall(p.proc, name) }

// Link returns the target of a symbolic link in the process's directory in /proc, such as "ns/mnt".
func (p *Pinned) Link(name string) (string, error) {
	var target [128]byte // a namespace's name has fewer than 40 bytes
	n, err := unix.Readlinkat(p.proc, name, target[:])
	if err == nil && n == len(target) {
		err = unix.ENAMETOOLONG
	}
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: fmt.Sprintf("/proc/%d/%s", p.Process.PID, name), Err: err}
	}
	return string(target[:n]), nil
}
