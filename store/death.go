// Waits for a process's death.

package store

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// ErrUnseen reports that a process cannot be judged from here, for example because it belongs to
// another machine or to another pid or time namespace, or because /proc hides it.
var ErrUnseen = errors.New("the process cannot be seen from here")

// OnDeath calls died once, when the process has died. If the process is already dead, OnDeath
// itself makes the call; otherwise, a new goroutine does. The wait takes a descriptor, and ends
// when the process dies or the caller calls forget.
//
// If OnDeath returns an error, died is never called. The error wraps [ErrUnseen], or has a cause
// that may pass, such as a lack of descriptors.
func (p *Process) OnDeath(died func()) (forget func(), err error) {
	nothing := func() {}

	pidfd, life, err := p.open()
	switch {
	case err != nil:
		return nothing, err
	case life == Dead:
		died()
		return nothing, nil
	case life == Unknown:
		return nothing, ErrUnseen
	}

	// The Go runtime waits with epoll(7) for non-blocking descriptors, so a waiting goroutine
	// takes no thread.
	file := os.NewFile(uintptr(pidfd), "pidfd")
	if err := file.SetReadDeadline(time.Time{}); err != nil {
		file.Close()
		return nothing, fmt.Errorf("wait for the end of process %d: %w", p.PID, err)
	}
	go func() {
		err := waitReadable(file)
		file.Close()
		if err == nil {
			died()
		}
	}()

	return func() { file.Close() }, nil
}

// waitReadable waits until the file polls readable. It returns an error if the file is closed
// first.
func waitReadable(file *os.File) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}

	var failed error
	err = conn.Read(func(fd uintptr) (done bool) {
		done, failed = readable(int(fd))
		return done || failed != nil
	})
	return errors.Join(err, failed)
}
