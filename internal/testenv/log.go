// A system log that tests can read.

package testenv

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Log is the system log of tests that run in namespaces of their own (Main): all that is sent to
// /dev/log. A zero Log cannot be read.
type Log struct {
	listening bool
	mu        sync.Mutex
	messages  []string
	marks     int
}

const logSocket = "/dev/log"

// Listen mounts a new /dev, with a socket for the log, and a new /var/log, where root's hooks write
// their trail.
func (l *Log) Listen() error {
	if err := newDev(); err != nil {
		return err
	}
	if err := unix.Mount("terok-log", "/var/log", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount /var/log: %w", err)
	}

	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: logSocket, Net: "unixgram"})
	if err != nil {
		return err
	}
	if err := os.Chmod(logSocket, 0o666); err != nil { // other users' processes write to it too
		return err
	}

	l.listening = true
	go func() {
		message := make([]byte, 64<<10)
		for {
			n, err := conn.Read(message)
			if err != nil {
				return
			}
			l.mu.Lock()
			l.messages = append(l.messages, string(message[:n]))
			l.mu.Unlock()
		}
	}()

	return nil
}

// newDev mounts a new /dev. It has those of the machine's devices that podman and the tests use,
// and terminals of its own.
func newDev() error {
	old, err := os.MkdirTemp("", "terok-dev-")
	if err != nil {
		return err
	}
	defer os.Remove(old)
	if err := unix.Mount("/dev", old, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind /dev: %w", err)
	}

	// Otherwise unmounting old would propagate, and unmount the new /dev too.
	if err := unix.Mount("", old, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep /dev apart: %w", err)
	}
	defer unix.Unmount(old, unix.MNT_DETACH)
	if err := unix.Mount("terok-dev", "/dev", "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}

	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty", "kmsg", "fuse", "net", "shm", "mqueue"} {
		from, to := filepath.Join(old, name), filepath.Join("/dev", name)
		info, err := os.Stat(from)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}

		if info.IsDir() {
			err = os.Mkdir(to, 0o755)
		} else {
			err = os.WriteFile(to, nil, 0o666)
		}
		if err != nil {
			return err
		}
		if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s: %w", to, err)
		}
	}

	if err := os.Mkdir("/dev/pts", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0600"); err != nil {
		return fmt.Errorf("mount /dev/pts: %w", err)
	}

	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, filepath.Join("/dev", name)); err != nil {
			return err
		}
	}
	return nil
}

// Listening reports whether the log can be read.
func (l *Log) Listening() bool { return l.listening }

// Need ends the test, as Cannot does, if the log cannot be read.
func (l *Log) Need(t testing.TB) {
	t.Helper()
	if !l.listening {
		Cannot(t, "there is no system log of our own: that needs a mount namespace")
	}
}

// Matching returns the messages so far for which matches returns true.
func (l *Log) Matching(matches func(message string) bool) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.messages), func(m string) bool { return !matches(m) })
}

// Wait waits for a message for which matches returns true, and returns the first one. It
// gives up as the function Wait does.
func (l *Log) Wait(matches func(message string) bool) (message string, ok bool) {
	ok = Wait(func() bool {
		for _, message = range l.Matching(matches) {
			return true
		}
		return false
	})
	return message, ok
}

// SoFar returns the matching messages that were sent until now.
func (l *Log) SoFar(t testing.TB, matches func(message string) bool) []string {
	t.Helper()
	l.Need(t)
	conn, err := net.Dial("unixgram", logSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	l.mu.Lock()
	l.marks++
	last := fmt.Sprintf("testenv: message %d of the tests", l.marks)
	l.mu.Unlock()
	if _, err := conn.Write([]byte(last)); err != nil {
		t.Fatal(err)
	}

	// Messages come in order: when this one is here, so are those before it.
	if _, ok := l.Wait(func(message string) bool { return message == last }); !ok {
		t.Fatal("the system log does not get what we send it")
	}
	return l.Matching(matches)
}
