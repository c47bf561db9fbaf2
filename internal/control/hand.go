// The client's side, for hooks and for programs that ask about a container. It makes system calls
// itself, since package net would delay the start of every container.

package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoGate reports that no gate answers at the socket.
var ErrNoGate = errors.New("the gate does not answer")

// PathLimit is the largest length of a socket's path (unix(7)).
const PathLimit = 107

// Hand hands a socket to the gate and waits until the deadline for the gate to accept. If the
// gate refuses, the error wraps a [Refusal].
func Hand(path string, deadline time.Time, socket int, r Request) error {
	_, err := ask(path, deadline, unix.UnixRights(socket), r)
	return err
}

// Ask asks the gate for its description and, if the request names a container, whether the gate
// serves that container. It waits until the deadline. If the gate refuses, the error wraps a
// [Refusal], which is [Absent] if the gate does not serve the container.
func Ask(path string, deadline time.Time, r Request) (Gate, error) {
	a, err := ask(path, deadline, nil, r)
	if a.Gate == nil {
		if err == nil {
			err = fmt.Errorf("%w: the answer does not describe the gate", Malformed)
		}
		return Gate{}, err
	}
	return *a.Gate, err
}

// ask sends a request and reads the answer. Unless the request itself is at fault, an error wraps a
// Refusal or ErrNoGate.
func ask(path string, deadline time.Time, rights []byte, r Request) (a Answer, err error) {
	r.Version = Version
	message, err := json.Marshal(r)
	if err != nil {
		return a, err
	}
	if len(message) > MessageLimit {
		return a, fmt.Errorf("a message of %d bytes is too long for the gate", len(message))
	}

	answer, gate, err := exchange(path, deadline, message, rights)
	if err != nil {
		return a, fmt.Errorf("%w: %w", ErrNoGate, err)
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return a, fmt.Errorf("%w: its answer is malformed: %w", ErrNoGate, err)
	}

	if a.Gate != nil && gate != 0 { // 0 may be the service manager, which made the socket
		a.Gate.UID = gate
	}
	if a.Refused != "" {
		return a, fmt.Errorf("%w: %.200q", a.Refused, a.Detail)
	}
	if a.Version != Version { // the answer of another program
		return a, fmt.Errorf("%w: its answer has version %d", Malformed, a.Version)
	}
	return a, nil
}

// exchange sends the message. It returns the answer, and the uid of the process that called
// listen(2) on the gate's socket.
func exchange(path string, deadline time.Time, message, rights []byte) (answer []byte, uid int, err error) {
	conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	defer unix.Close(conn)

	// The timeout of sending also applies to connect(2), which waits while the socket's queue is
	// full, as when a gate is being replaced.
	if err := until(deadline, conn, unix.SO_SNDTIMEO); err != nil {
		return nil, 0, err
	}
	if err := again(func() error { return unix.Connect(conn, &unix.SockaddrUnix{Name: path}) }); err != nil {
		return nil, 0, err
	}
	peer, err := unix.GetsockoptUcred(conn, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, 0, err
	}

	err = again(func() error { return unix.Sendmsg(conn, message, rights, nil, unix.MSG_NOSIGNAL) })
	if err != nil {
		return nil, 0, err
	}
	if err := until(deadline, conn, unix.SO_RCVTIMEO); err != nil {
		return nil, 0, err
	}

	answer = make([]byte, MessageLimit)
	var n int
	err = again(func() error {
		n, _, err = unix.Recvfrom(conn, answer, 0)
		return err
	})
	if err == nil && n == 0 {
		err = unix.ECONNRESET // the gate has closed the connection
	}
	return answer[:max(0, n)], int(peer.Uid), err
}

// until sets one of a socket's timeouts to the time that is left.
func until(deadline time.Time, socket, option int) error {
	left := time.Until(deadline)
	if left < time.Microsecond { // 0 would mean no timeout
		return unix.ETIMEDOUT
	}
	timeout := unix.NsecToTimeval(left.Nanoseconds())
	return unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, option, &timeout)
}

// again repeats a call that a signal interrupted, since the Go runtime sends itself signals. For a
// call that timed out, it returns ETIMEDOUT instead of EAGAIN.
func again(call func() error) error {
	for {
		switch err := call(); {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return unix.ETIMEDOUT
		default:
			return err
		}
	}
}
