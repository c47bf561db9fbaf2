package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

const logPath = "/dev/log"

// systemLog is what the tests see of the system log: everything that a process
// in our namespaces, the hook above all, sends to /dev/log.
var systemLog logSocket

type logSocket struct {
	listening bool
	mu        sync.Mutex
	messages  []string
}

// claimLogMountPoint makes sure that there is something to mount our socket on,
// and returns how to take it away again. Several test runs can share it: each
// holds a lock, and the last one removes the file.
func claimLogMountPoint() (release func(), err error) {
	if info, err := os.Stat(logPath); err == nil && !info.Mode().IsRegular() {
		return func() {}, nil // a real one
	}
	f, err := os.OpenFile(logPath, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		return nil, fmt.Errorf("lock %s: %w", logPath, err)
	}
	if mine, err := f.Stat(); err != nil {
		return nil, err
	} else if there, err := os.Stat(logPath); err != nil || !os.SameFile(mine, there) {
		f.Close() // another run removed it before we had the lock
		return claimLogMountPoint()
	}
	return func() {
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			os.Remove(logPath)
		}
		f.Close()
	}, nil
}

// listen collects what arrives on a socket at path, which it mounts over
// /dev/log.
func (l *logSocket) listen(path string) error {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o666); err != nil { // the rootless engine's user writes to it
		return err
	}
	target, err := filepath.EvalSymlinks(logPath) // systemd's is a link
	if err != nil {
		return err
	}
	if err := unix.Mount(path, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount over %s: %w", target, err)
	}
	l.listening = true
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := conn.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			l.mu.Lock()
			l.messages = append(l.messages, string(buf[:n]))
			l.mu.Unlock()
		}
	}()
	return nil
}

// matching returns the messages so far that contain all of parts.
func (l *logSocket) matching(parts ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
next:
	for _, m := range l.messages {
		for _, p := range parts {
			if !strings.Contains(m, p) {
				continue next
			}
		}
		found = append(found, m)
	}
	return found
}

// wait returns the first message that contains all of parts, as soon as there
// is one.
func (l *logSocket) wait(t *testing.T, parts ...string) string {
	t.Helper()
	if !l.listening {
		cannot(t, "only root can listen to the system log")
	}
	var found []string
	eventually(t, fmt.Sprintf("the system log has a message with %q", parts), func() bool {
		found = l.matching(parts...)
		return len(found) > 0
	})
	return found[0]
}
