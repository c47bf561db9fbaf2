// Answers at the control socket (package internal/control). There, hooks pass listeners in
// containers' networks, and other programs ask whether the gate serves a container.

package networks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/version"
)

// controlPatience is how long an exchange with a hook may take.
const controlPatience = 5 * time.Second

// ServeControl answers hooks until the context is done. The socket is of type SOCK_SEQPACKET.
// Its mode says who may connect. Requests of users other than root and the gate's own are refused.
func (n *Networks) ServeControl(ctx context.Context, l *net.UnixListener) {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // such as a lack of descriptors
			slog.Error("accept a hook", "error", err)
			time.Sleep(100 * time.Millisecond)
		default:
			go n.answerHook(conn)
		}
	}
}

func (n *Networks) answerHook(conn *net.UnixConn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(controlPatience))

	answer := control.Answer{Version: control.Version}
	request, err := n.carryOut(conn, &answer)
	if errors.Is(err, io.EOF) {
		return // the peer has only checked that a gate listens
	}
	if err != nil {
		if !errors.As(err, &answer.Refused) {
			answer.Refused = control.Failed
		}
		answer.Detail = fmt.Sprintf("%.1000q", err)
		if answer.Gate == nil {
			slog.Warn("a hook is refused", "container", request.Container, "error", err)
		}
	}

	message, err := json.Marshal(answer)
	if err == nil {
		_, err = conn.Write(message)
	}
	if err != nil {
		// The hook has gone away. If its container starts nevertheless, the container is served.
		slog.Warn("answer a hook", "container", request.Container, "error", err)
	}
}

// carryOut reads a request and carries it out. It fills in answer if the request is a question.
func (n *Networks) carryOut(conn *net.UnixConn, answer *control.Answer) (r control.Request, err error) {
	message := make([]byte, control.MessageLimit)
	rights := make([]byte, unix.CmsgSpace(4*4))
	length, rightsLength, flags, _, err := conn.ReadMsgUnix(message, rights)
	if err != nil {
		return r, err
	}

	sockets, err := passed(rights[:rightsLength])
	defer func() {
		for _, s := range sockets {
			s.Close()
		}
	}()

	if err == nil {
		err = checkPeer(conn) // only after reading, so that a peer that is refused gets an answer
	}
	if err == nil && (len(sockets) > 1 || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0) {
		err = fmt.Errorf("%w: %d sockets, flags %#x", control.Malformed, len(sockets), flags)
	}
	if err != nil {
		return r, err
	}

	if len(sockets) == 1 {
		if r, err = control.Parse(message[:length]); err != nil {
			return r, err
		}
		return r, n.join(r, sockets[0])
	}

	if r, err = control.ParseQuestion(message[:length]); err != nil {
		return r, err
	}
	self := control.Gate{}
	if n.Self != nil {
		self = n.Self(r)
	}
	self.Program, self.UID, self.TokenFile = version.String(), os.Geteuid(), n.Tokens.Path()
	answer.Gate = &self
	switch {
	case r.Process != nil:
		return r, n.find(r)
	case r.Service == "":
		return r, nil
	case n.Try == nil:
		return r, control.NoService
	}
	return r, n.Try(r.Service)
}

// checkPeer returns an error unless the peer is root or the gate's own user. For a hook in a user
// namespace, the kernel reports the id that the hook's user has outside the namespace.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}

	var peer *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		peer, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, credErr); err != nil {
		return err
	}

	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d may not use the control socket", peer.Uid)
	}
	return nil
}
