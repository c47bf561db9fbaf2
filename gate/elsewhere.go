// Hands requests on to the gate with the repositories, on another machine. This gate has judged the
// requests, and vouches for them. It does not send their tokens.

package gate

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"terok-gate-hook/internal/batch"
	"terok-gate-hook/internal/mtls"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/internal/voucher"
	"terok-gate-hook/store"
)

// elsewhere is the gate with the repositories.
type elsewhere struct {
	url      mtls.URL
	identity *mtls.Identity

	failures rate.Sometimes // which failures are logged
}

// errUnanswered ends a request if the gate with the repositories gives no answer, or an answer that
// no gate would give. errBrokenOff ends a request if the client has only a part of that gate's
// answer.
var (
	errUnanswered = errors.New("the gate with the repositories does not answer")
	errBrokenOff  = errors.New("the gate with the repositories broke off its answer")
)

var unanswered = &refusal{code: http.StatusBadGateway, text: errUnanswered.Error() + ": try again in a moment"}

// report logs why the other gate does not answer. It does so at most once a minute, since
// containers can send many requests.
func (e *elsewhere) report(err error) {
	e.failures.Do(func() { slog.Error("request failed", "error", err) })
}

// serveElsewhere serves an allowed request, by handing it on to the gate with the repositories.
func (v *visit) serveElsewhere() error {
	if v.asked.advertise {
		_ = http.NewResponseController(v.w).SetReadDeadline(time.Time{}) // see visit.advertise
		return v.withSlot(v.handOn)
	}

	if answered, err := v.awaitBody(receiveAsSent); answered || err != nil {
		return err
	}
	switch {
	case v.asked.service == receivePack:
		v.event = trail.Push
	case !v.asksForRefs():
		v.event = trail.Fetch
	}
	return v.withBody(v.handOn)
}

// handOn sends the request to the other gate, and that gate's answer to the client.
func (v *visit) handOn(ctx context.Context) error {
	address := v.gate.elsewhere.url.Address(v.asked.project)
	request, err := v.vouchedRequest(address)
	if err != nil {
		return err
	}

	// If the gates of many hosts connect at once, connecting takes long. So it is given as much
	// time as the wait for a slot.
	connecting, done := context.WithTimeout(ctx, v.gate.slots.patience)
	defer done()
	conn, err := v.gate.elsewhere.identity.Dial(connecting, address)
	switch {
	case ctx.Err() != nil:
		if err == nil {
			conn.Cut()
		}
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("%w: %w", errUnanswered, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { v.cut(ctx, conn) })
	defer stop()

	// If the client's body breaks off, the connection is cut. Otherwise the other gate could take
	// half a request for a whole one.
	body := &passing{noting{Reader: v.body}, conn}
	var brokeOff atomic.Bool
	sent := make(chan struct{})
	if v.body != nil {
		request.Body = io.NopCloser(body)
	}
	go func() {
		defer close(sent)
		if request.Write(conn) != nil && body.err != nil {
			brokeOff.Store(true)
			conn.Cut()
		}
	}()

	answerErr := v.passAnswer(conn, request)
	// Interrupting the body makes it break off and ends ctx. So before that, the causes are read, and
	// stop is called: then the end of ctx cuts nothing.
	cause, clientGone := context.Cause(ctx), brokeOff.Load()
	if answerErr != nil {
		stop()
		conn.Cut()
		if v.body != nil {
			v.body.interrupt()
		}
	}
	<-sent
	if v.asked.service == receivePack && v.body != nil {
		v.bytes = v.body.received()
	}

	switch {
	case answerErr == nil:
		return nil
	case cause != nil:
		return cause
	case clientGone && (errors.Is(answerErr, errUnanswered) || errors.Is(answerErr, errBrokenOff)):
		return gone(body.err)
	}
	return answerErr
}

// vouchedRequest returns the request for the other gate. Of the client's headers, it contains only
// the version of the protocol, as this gate has parsed it, and the encoding and length of the body.
func (v *visit) vouchedRequest(address string) (*http.Request, error) {
	header := http.Header{"User-Agent": {"terok-gate"}}
	if v.asked.protocol != "" {
		header.Set("Git-Protocol", v.asked.protocol)
	}
	if err := v.voucher().Set(header); err != nil {
		return nil, fmt.Errorf("vouch for the request: %w", err)
	}

	path := url.URL{Path: "/" + v.asked.project + ".git/" + string(v.asked.service)}
	if v.asked.advertise {
		path.Path = "/" + v.asked.project + ".git/info/refs"
		path.RawQuery = "service=" + string(v.asked.service)
	} else {
		header.Set("Content-Type", "application/x-"+string(v.asked.service)+"-request")
		if encoding := v.r.Header.Get("Content-Encoding"); encoding != "" {
			header.Set("Content-Encoding", encoding)
		}
	}

	request := &http.Request{Method: v.r.Method, URL: &path, Host: address, Header: header, Close: true}
	if !v.asked.advertise { // the body of a request for an advertisement is ignored
		request.ContentLength = v.r.ContentLength
	}
	return request, nil
}

// voucher returns what the other gate is told about the request.
func (v *visit) voucher() voucher.Voucher {
	task, container := v.who.Task, v.who.Container
	if store.CheckName(task) != nil { // the token's entry is from another program
		task = "unknown"
	}
	if store.CheckName(container) != nil {
		container = ""
	}
	return voucher.Voucher{
		Project: v.asked.project, Task: task, Container: container, Fingerprint: v.who.Fingerprint,
		Access: v.may.Access(), Push: v.may.Push,
	}
}

// passAnswer reads the other gate's answer from conn and sends it to the client.
func (v *visit) passAnswer(conn *mtls.Conn, request *http.Request) error {
	var unsent error
	conn.BeforeRead(func() error {
		unsent = v.w.FlushError()
		return unsent
	})
	begins := &io.LimitedReader{R: conn, N: headerLimit} // http.ReadResponse does not limit headers
	answer, err := readAnswer(bufio.NewReader(begins), request)
	begins.N = math.MaxInt64
	if err != nil {
		return fmt.Errorf("%w: %w", errUnanswered, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return refusalFrom(answer)
	}
	if got := answer.Header.Get("Content-Type"); got != v.asked.contentType() {
		return fmt.Errorf("%w as a gate: it sends %q", errUnanswered, got)
	}

	from := &noting{Reader: answer.Body}
	out := answerBuffers.Get().(*bufio.Reader)
	defer answerBuffers.Put(out)
	out.Reset(from)

	v.w.begin(v.asked)
	v.bytes, err = copyAnswer(v.w, out, "", nil)
	switch {
	case unsent != nil:
		return gone(unsent)
	case from.err != nil:
		return fmt.Errorf("%w: %w", errBrokenOff, from.err)
	case err != nil:
		return gone(err)
	}
	return nil
}

// readAnswer reads an answer up to its body. An answer must say where its body ends: otherwise an
// answer that was cut short would look complete.
func readAnswer(r *bufio.Reader, request *http.Request) (*http.Response, error) {
	answer, err := http.ReadResponse(r, request)
	if err == nil && answer.StatusCode == http.StatusContinue {
		answer, err = http.ReadResponse(r, request)
	}
	if err != nil {
		return nil, err
	}
	if answer.ContentLength < 0 && len(answer.TransferEncoding) == 0 {
		return nil, errors.New("the answer does not say where it ends")
	}
	return answer, nil
}

// refusalFrom returns the refusal that the other gate's answer contains, or an error wrapping
// errUnanswered if no gate would answer so.
func refusalFrom(answer *http.Response) error {
	const longest = 4 << 10
	text, err := io.ReadAll(io.LimitReader(answer.Body, longest))
	if err != nil || answer.StatusCode < 400 || !strings.HasPrefix(answer.Header.Get("Content-Type"), "text/plain") {
		return fmt.Errorf("%w as a gate: it answers with %s", errUnanswered, answer.Status)
	}
	// git prints the text as it is, on a terminal.
	refused := &refusal{code: answer.StatusCode, text: printable.Line(strings.TrimSuffix(string(text), "\n"))}
	if after := answer.Header.Get("Retry-After"); after != "" {
		refused.header = [2]string{"Retry-After", after}
	}
	return refused
}

// cut ends the request here and at the other gate. If the client has gone away, the other gate has
// goneGrace to finish. cut is called when ctx is done.
func (v *visit) cut(ctx context.Context, conn *mtls.Conn) {
	if context.Cause(ctx) == context.Canceled { // the client has gone away, perhaps because it has all that it needs
		v.w.leave()
		time.AfterFunc(goneGrace, conn.Cut)
		return
	}
	conn.Cut()
	v.w.interrupt()
}

// noting is a reader that keeps the last error of Read, except io.EOF.
type noting struct {
	io.Reader
	err error
}

func (n *noting) Read(p []byte) (int, error) {
	read, err := n.Reader.Read(p)
	if err != nil && err != io.EOF {
		n.err = err
	}
	return read, err
}

// passing is a request's body that is sent over a connection.
type passing struct {
	noting
	conn *mtls.Conn
}

// WriteTo is for [http.Request.Write], which would pass the body on in pieces of 32 KiB, with three
// system calls for each.
func (p *passing) WriteTo(w io.Writer) (int64, error) {
	buffer := batch.Buffers.Get().(*bytes.Buffer)
	defer batch.Buffers.Put(buffer)
	return io.CopyBuffer(atOnce{w, p.conn}, struct{ io.Reader }{p}, buffer.AvailableBuffer()[:64<<10])
}

// atOnce writes to a connection by way of another writer. With one system call, it sends all that
// the other writer makes of a piece.
type atOnce struct {
	io.Writer
	conn *mtls.Conn
}

func (a atOnce) Write(p []byte) (int, error) { return a.conn.WriteThrough(a.Writer, p) }
