// Reads the body of a request and writes the answer, and ends either if the client stalls.

package gate

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"terok-gate-hook/internal/batch"
)

// errClientGone ends a request whose client went away or stalls.
var errClientGone = errors.New("the client went away")

// gone returns an error wrapping errClientGone and err, or nil if err is nil.
func gone(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errClientGone, err)
}

// incoming is the body of a request, as the gate reads it.
type incoming struct {
	*bufio.Reader
	wire *wire
}

// receive begins to read the request's body, and unpacks it. If the body is malformed, receive
// returns the body with the error, so that the caller can ask whether the body was read to its end.
func receive(r *http.Request, w *outgoing, s service) (*incoming, error) {
	wire, err := newWire(r, w)
	if err != nil {
		return nil, err
	}
	body := &incoming{wire: wire}
	unpacked := io.Reader(wire)
	if encoding := r.Header.Get("Content-Encoding"); encoding == "gzip" || encoding == "x-gzip" {
		zipped, err := gzip.NewReader(wire)
		if err != nil {
			return body, malformed
		}
		unpacked = zipped
	}

	buffer := 64 << 10
	if s == uploadPack {
		unpacked = newFiltered(&atMost{unpacked, maxFetch})
		buffer = 4 << 10 // most bodies for upload-pack fit into this
	}
	body.Reader = bufio.NewReaderSize(unpacked, buffer)
	return body, nil
}

// receiveAsSent begins to read the request's body, and does not unpack it.
func receiveAsSent(r *http.Request, w *outgoing, _ service) (*incoming, error) {
	wire, err := newWire(r, w)
	if err != nil {
		return nil, err
	}
	return &incoming{bufio.NewReaderSize(wire, 64<<10), wire}, nil
}

// to copies the body to git. If git stops reading, the rest of the body is discarded: the client
// reads no answer before it has sent everything.
func (b *incoming) to(git io.Writer, mostDiscarded int64) error {
	_, err := b.WriteTo(git)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, os.ErrClosed) {
		return b.discard(mostDiscarded)
	}
	return err
}

// discard reads the body to its end. most is a limit in bytes. If the body is not shorter than this
// limit, discard returns errTooLarge.
func (b *incoming) discard(most int64) error {
	_, err := io.CopyN(io.Discard, b, most)
	switch err {
	case nil:
		return errTooLarge
	case io.EOF:
		return nil
	}
	return gone(err)
}

func (b *incoming) interrupt() { b.wire.interrupt() }

// received returns how many bytes the client has sent.
func (b *incoming) received() int64 {
	bytes, _ := b.wire.sofar()
	return bytes
}

// ended reports whether the body was read to its end.
func (b *incoming) ended() bool {
	_, ended := b.wire.sofar()
	return ended
}

// wire is a body as it arrives, before it is unpacked.
type wire struct {
	body        io.Reader
	stall       time.Duration
	setDeadline func(time.Time) error

	mu          sync.Mutex
	bytes       int64
	ended       bool
	interrupted bool
}

func newWire(r *http.Request, w *outgoing) (*wire, error) {
	control := http.NewResponseController(w)
	// git may write before it has read everything. Without full duplex, Go discards the rest of the
	// body at the first write.
	if err := control.EnableFullDuplex(); err != nil {
		return nil, err
	}
	return &wire{body: r.Body, stall: w.stall, setDeadline: control.SetReadDeadline}, nil
}

func (w *wire) Read(p []byte) (int, error) {
	w.deadline(time.Now().Add(w.stall))
	n, err := w.body.Read(p)
	if err != nil {
		// From here on, the server reads in the background, to notice that the client goes away,
		// and must not meet a deadline.
		w.deadline(time.Time{})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes += int64(n)
	w.ended = w.ended || err == io.EOF
	return n, err
}

func (w *wire) deadline(t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.interrupted {
		_ = w.setDeadline(t)
	}
}

// interrupt ends the reading of a body that has not ended. After the end, the server reads in the
// background: if that failed, each later request on this connection would be cancelled.
func (w *wire) interrupt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.interrupted = true
	if !w.ended {
		_ = w.setDeadline(time.Unix(1, 0))
	}
}

func (w *wire) sofar() (bytes int64, ended bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes, w.ended
}

// atMost is a reader that fails with errTooLarge after a number of bytes.
type atMost struct {
	io.Reader
	left int64
}

func (r *atMost) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p[:min(int64(len(p)), r.left+1)])
	if r.left -= int64(n); r.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

// outgoing is the answer to a request.
//
// Many clients close the connection when they have the last byte that they need. So it is no error
// if a packet that only ends an answer, or is only for a person to read, cannot be sent.
type outgoing struct {
	http.ResponseWriter
	conn  holding
	stall time.Duration
	begun bool // begin was called

	mu          sync.Mutex
	bytes       int64
	began       bool // a write has begun, now or earlier
	writing     bool // a write has begun and not ended
	left        bool // the client has gone away
	interrupted bool

	buffered bool // something may still be in a buffer
	unsent   bool // something that the client needs may still be in a buffer
}

func newOutgoing(w http.ResponseWriter, r *http.Request, stall time.Duration) *outgoing {
	conn, ok := r.Context().Value(connectionKey{}).(holding)
	if !ok { // another server than the gate's own calls the gate
		conn = batch.NewWriter(io.Discard)
	}
	return &outgoing{ResponseWriter: w, conn: conn, stall: stall}
}

// holding is a connection that collects what is written between Hold and Release (package batch).
type holding interface {
	Hold() bool
	Release() error
}

type connectionKey struct{}

// withConnection is for [http.Server.ConnContext].
func withConnection(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, conn)
}

// Unwrap is for http.ResponseController.
func (w *outgoing) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// begin begins an answer of git's.
func (w *outgoing) begin(a route) {
	if w.begun {
		return
	}
	w.begun = true
	w.Header().Set("Content-Type", a.contentType())
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusOK)
}

// Write writes a packet of git's or, if the answer has no packets, some bytes.
func (w *outgoing) Write(p []byte) (int, error) {
	needed := !mayBeMissed(p)
	switch left := w.start(len(p)); {
	case left && needed:
		return 0, errClientGone
	case left:
		return len(p), nil
	}

	w.buffered, w.unsent = true, w.unsent || needed
	w.conn.Hold()
	n, err := w.ResponseWriter.Write(p)
	w.stop()
	if err != nil && !w.unsent {
		return len(p), nil
	}
	return n, err
}

// FlushError sends what was written. It is also for http.ResponseController.
func (w *outgoing) FlushError() error {
	if !w.buffered || w.start(0) && !w.unsent {
		return nil
	}
	err := cmp.Or(http.NewResponseController(w.ResponseWriter).Flush(), w.conn.Release())
	w.stop()
	if err != nil && w.unsent {
		return err
	}
	w.buffered, w.unsent = false, false
	return nil
}

// finish sends what was written and not flushed.
func (w *outgoing) finish() {
	w.start(0)
	_ = w.conn.Release()
	w.stop()
}

// start records that a write of n bytes begins, and sets its deadline. left reports whether the
// client has gone away.
func (w *outgoing) start(n int) (left bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes += int64(n)
	w.began, w.writing = true, true
	patience := w.stall
	if w.left {
		patience = goneGrace
	}
	if !w.interrupted {
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(patience))
	}
	return w.left
}

func (w *outgoing) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writing = false
}

// leave records that the client has gone away, and ends a write that waits for the client.
func (w *outgoing) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left = true
	if w.writing {
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Unix(1, 0))
	}
}

// sent returns how many bytes were passed to Write so far, even if the client did not get them.
func (w *outgoing) sent() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes
}

// interrupt ends an answer that has begun, even if the client does not read it.
func (w *outgoing) interrupt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.began {
		w.interrupted = true
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Unix(1, 0))
	}
}

// mayBeMissed reports whether a client has all that it needs without this packet.
func mayBeMissed(p []byte) bool {
	length, isPacket := packetLength(p[:min(4, len(p))])
	return isPacket && len(p) == max(4, length) && (length <= 4 || p[4] == 2)
}
