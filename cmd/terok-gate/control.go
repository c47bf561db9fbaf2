// Opens the control socket, which only hooks of the gate's user and of root can reach.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// listenForHooks opens the control socket. It refuses a path that other users can reach: a process
// that connects hands over a listener and names its container, and the gate believes the process.
func listenForHooks(path string) (*net.UnixListener, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}

	directory := filepath.Dir(path)
	if err := os.MkdirAll(directory, 0o700); errors.Is(err, fs.ErrPermission) { // without a login session, /run/user/UID does not exist
		return nil, fmt.Errorf("--control: %w: set XDG_RUNTIME_DIR to a directory of your own, and run terok-gate install with it too", err)
	} else if err != nil {
		return nil, fmt.Errorf("--control: %w", err)
	}

	info, err := os.Stat(directory)
	if err != nil {
		return nil, fmt.Errorf("--control: %w", err)
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if info.Mode()&0o077 != 0 || owner != os.Geteuid() && owner != 0 {
		return nil, fmt.Errorf("--control %s: users other than the gate's can reach it: choose a path in a directory that belongs to the gate's user and has mode 0700", path)
	}

	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
		if conn, err := net.Dial("unixpacket", path); err == nil {
			conn.Close()
			return nil, fmt.Errorf("--control %s: another program listens there", path)
		}
		_ = os.Remove(path) // the socket of a program that was killed
	}

	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("--control: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("--control: %w", err)
	}
	return l, nil
}
