// Hands listeners to systemd, which keeps them for the next gate (sd_notify(3), FDSTORE).

package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/networks"
)

// keeper returns the service manager that started this process, or nil if none did.
// FileDescriptorStoreMax= in the program's unit limits how many files the manager keeps. The gate
// needs at most two for each container, and terok-gate forward two for each service of a container.
func keeper() networks.Keeper {
	if path := os.Getenv("NOTIFY_SOCKET"); path != "" {
		return manager{path}
	}
	return nil
}

// manager is a service manager, reached at the path of its notification socket.
type manager struct{ path string }

func (m manager) Keep(name string, file *os.File) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = conn.Control(func(fd uintptr) {
		// Without FDPOLL=0, systemd would drop a listener that another process destroys
		// (SOCK_DESTROY, sock_diag(7)), and the next gate could not notice that.
		sendErr = m.send("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, unix.UnixRights(int(fd)))
	})
	return errors.Join(err, sendErr)
}

func (m manager) Drop(name string) error { return m.send("FDSTOREREMOVE=1\nFDNAME="+name, nil) }

func (m manager) send(state string, rights []byte) error {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(socket)
		err = unix.Sendmsg(socket, []byte(state), rights, &unix.SockaddrUnix{Name: m.path}, unix.MSG_NOSIGNAL)
	}
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
}
