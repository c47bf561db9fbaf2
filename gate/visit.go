// Serves one request: authorizes it, waits for a slot, runs git to answer it, and records it in
// the trail.

package gate

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"terok-gate-hook/internal/networks"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

// visit is a request in progress.
type visit struct {
	gate    *Gate
	w       *outgoing
	r       *http.Request
	started time.Time

	asked route
	permit
	repo repository
	body *incoming // the body of a POST

	event string // the trail's event if the request succeeds; empty if a success is not recorded
	bytes int64  // fetched or pushed
	ref   string // the first ref for which a push is refused
	refs  int    // number of refs that the push has moved
	ended error  // how git ended, if the client has an answer already
}

// longestRecorded is how many characters of a refused ref's name go into the trail. Refused pushes
// cost a client little, and the size of the trail's files is limited: with long names, a client could
// soon fill them.
const longestRecorded = 256

// ServeHTTP answers a request and records it.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := &visit{gate: g, r: r, w: newOutgoing(w, r, g.stall), started: time.Now()}
	defer v.w.finish()
	g.counts.underWay.Inc()
	defer g.counts.underWay.Dec()
	v.end(v.serve())
}

// serve answers a request that is allowed. For any other request, it returns the refusal before a
// program is started.
func (v *visit) serve() error {
	var refused *refusal
	if v.asked, refused = routeOf(v.r, v.gate.hosts); refused != nil {
		return refused
	}
	if v.permit, refused = v.gate.judge(v.r, v.asked); refused != nil {
		return refused
	}
	if v.gate.elsewhere != nil {
		return v.serveElsewhere()
	}
	return v.serveHere()
}

// serveHere serves an allowed request, from the repositories of this machine.
func (v *visit) serveHere() error {
	var err error
	if v.repo, err = findRepository(v.gate.repos, v.asked.project); errors.Is(err, errNoRepository) {
		return notFound
	} else if err != nil {
		return err
	}
	if err := v.gate.disabled.check(v.r.Context(), v.gate.git, v.repo, v.who, v.asked.service); err != nil {
		return err
	}
	if v.asked.service == receivePack {
		if err := v.gate.checkSpace(v.repo); err != nil {
			return err
		}
	}
	if v.asked.advertise {
		return v.advertise()
	}

	if answered, err := v.awaitBody(receive); answered || err != nil {
		return err
	}
	if v.asked.service == receivePack {
		return v.withBody(v.push)
	}
	return v.withBody(v.fetch)
}

// awaitBody begins to read the body of a POST, by a call of receive, and waits for the body's first
// byte. If the request is a probe (see isProbe), awaitBody answers it.
func (v *visit) awaitBody(receive func(*http.Request, *outgoing, service) (*incoming, error)) (answered bool, err error) {
	if refused := checkBody(v.r, v.asked, v.gate.maxPush); refused != nil {
		return false, refused
	}
	if v.body, err = receive(v.r, v.w, v.asked.service); err != nil {
		return false, err
	}

	switch _, err := v.body.Peek(1); {
	case err == io.EOF:
		return false, malformed // the body is empty
	case err != nil:
		return false, gone(err)
	case v.isProbe():
		v.w.begin(v.asked)
		return true, nil
	}
	return false, nil
}

// withBody is withSlot for a request with a body. Once the context of do is done, the body is no
// longer read.
func (v *visit) withBody(do func(ctx context.Context) error) error {
	return v.withSlot(func(ctx context.Context) error {
		defer context.AfterFunc(ctx, v.body.interrupt)()
		return do(ctx)
	})
}

// withSlot calls do when the request has a slot. The context of do is done when the client goes
// away, the token no longer allows the request, or another project needs the slot.
func (v *visit) withSlot(do func(ctx context.Context) error) error {
	ctx, release := v.stands.while(v.r.Context())
	defer release()

	ctx, done, err := v.gate.slots.acquire(ctx, v.who.Project, v.who.token(), v.progress)
	if err != nil {
		return err
	}
	defer done()
	return do(ctx)
}

// progress returns how many bytes were read from the client and written to it.
func (v *visit) progress() int64 {
	bytes := v.w.sent()
	if v.body != nil {
		bytes += v.body.received()
	}
	return bytes
}

// isProbe reports whether the body is a flush packet and nothing else. By such a request, git finds
// out whether it is authorized, before it sends a body that it cannot send again.
func (v *visit) isProbe() bool {
	if v.r.ContentLength != 4 {
		return false
	}
	begins, _ := v.body.Peek(4)
	return string(begins) == "0000"
}

// advertise answers with the refs or, with protocol 2, with git's capabilities.
func (v *visit) advertise() error {
	// There is no body to read. The server still reads in the background, to notice that the client
	// has gone away. No deadline may end that.
	_ = http.NewResponseController(v.w).SetReadDeadline(time.Time{})
	arguments := []string{v.asked.service.command(), "--stateless-rpc", "--http-backend-info-refs", v.repo.path}
	if v.asked.service == uploadPack && v.asked.protocol == "version=2" {
		return v.advertiseKept(arguments)
	}

	return v.withSlot(func(ctx context.Context) error {
		git, err := v.gate.git.start(v.repo, v.who, v.asked.protocol, arguments...)
		if err != nil {
			return err
		}
		if v.asked.service == receivePack {
			git.out = withoutSigning(git.out)
		}
		return v.exchange(ctx, git)
	})
}

// advertiseKept answers with an advertisement of protocol 2. It runs git only if no advertisement
// is cached.
func (v *visit) advertiseKept(arguments []string) error {
	version, err := v.gate.git.advertisementVersion(v.repo)
	if err != nil {
		return err
	}

	text, ok := v.gate.advertisements.find(v.repo, version)
	if !ok {
		err := v.withSlot(func(ctx context.Context) error {
			git, err := v.gate.git.start(v.repo, v.who, v.asked.protocol, arguments...)
			if err != nil {
				return err
			}
			text, err = git.output(ctx)
			return err
		})
		if err != nil {
			return err
		}
		if !bytes.HasPrefix(text, versionTwo) {
			return errors.New("git: no advertisement of version 2")
		}
		v.gate.advertisements.keep(v.repo, version, text)
	}

	v.w.begin(v.asked)
	_, err = v.w.Write(text)
	return gone(err)
}

// fetch runs git to send what the client asks for.
func (v *visit) fetch(ctx context.Context) error {
	v.event = trail.Fetch
	if v.asksForRefs() {
		v.event = ""
	}

	git, err := v.gate.git.startReading(v.repo, v.who, v.asked.protocol, nil,
		"upload-pack", "--stateless-rpc", "--strict", v.repo.path)
	if err != nil {
		return err
	}
	return v.exchange(ctx, git)
}

// asksForRefs reports whether a POST to upload-pack is the command ls-refs of protocol 2, which
// only lists refs and so is no fetch.
func (v *visit) asksForRefs() bool {
	begins, _ := v.body.Peek(len("0014command=ls-refs"))
	return bytes.HasSuffix(begins, []byte("command=ls-refs"))
}

// push judges the refs that the push is to move, and lets git receive the rest of the push.
func (v *visit) push(ctx context.Context) error {
	v.event = trail.Push
	asked, err := v.readPush(ctx)
	if err != nil {
		return err
	}

	names, err := v.gate.present(ctx, v.repo, asked.all())
	if err != nil {
		return err
	}
	refused, whyNot, err := v.judgePush(ctx, asked, names)
	if err != nil {
		return err
	}
	if refused != nil {
		return v.refusePush(ctx, asked, refused, whyNot)
	}

	if err := v.gate.hooks.check(); err != nil {
		// Another program has deleted the hooks. Without them, a push with a revoked token
		// would not be stopped.
		slog.Warn("git's hooks were deleted: making them again", "error", err)
		if err := v.gate.hooks.make(); err != nil {
			return err
		}
	}
	return v.receivePush(ctx, asked, names)
}

// readPush reads the commands of the push.
func (v *visit) readPush(ctx context.Context) (commands, error) {
	asked, err := readCommands(v.body.Reader)
	switch {
	case ctx.Err() != nil:
		return asked, context.Cause(ctx)
	case errors.Is(err, errMalformed), err == nil && asked.number == 0:
		return asked, malformed
	case errors.Is(err, errTooLarge):
		return asked, tooLarge
	case err != nil:
		return asked, gone(err)
	}
	return asked, nil
}

// judgePush judges the refs that the push is to move. If one of them may not move, judgePush
// returns a refusal, and a function that returns the reason for each ref, or "" if there is no
// reason for that ref. If all refs may move, it returns no refusal. names has the present state of
// the refs.
func (v *visit) judgePush(ctx context.Context, asked commands, names map[string]present) (*refusal, func(move) string, error) {
	if v.may.AppendOnly && asked.moved() > mostForwards {
		return tooManyForwards, func(move) string { return tooManyForwards.text }, nil
	}

	outside := outsideOf(v.may.Limits)
	byLimits := func(m move) string { return whyNot(v.may.Limits, outside, m, names[m.ref]) }
	for m := range asked.all() {
		if reason := byLimits(m); reason != "" {
			v.ref = fmt.Sprintf("%.*s", longestRecorded, m.ref)
			return &refusal{code: http.StatusForbidden, text: reason}, byLimits, nil
		}
	}

	ref, err := v.gate.missing(ctx, v.repo, asked.all())
	if err != nil || ref == "" {
		return nil, nil, err
	}
	v.ref = fmt.Sprintf("%.*s", longestRecorded, ref)
	ofDamage := func(m move) string {
		if m.ref == ref {
			return damaged
		}
		return ""
	}
	return &refusal{code: http.StatusForbidden, text: damaged}, ofDamage, nil
}

// receivePush runs git to receive the push. git's hooks ask the gate again before a ref moves.
func (v *visit) receivePush(ctx context.Context, asked commands, names map[string]present) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	t := &transaction{
		gate: v.gate, repo: v.repo, permit: v.permit, about: v.about,
		ctx: ctx, fail: fail, asked: asked, names: names,
	}
	v.gate.cleaner.begin(v.repo)
	defer func() { v.gate.cleaner.end(v.repo, v.refs > 0) }()

	hooks, theirs, err := converse(t)
	if err != nil {
		return err
	}
	git, err := v.gate.git.startReading(v.repo, v.who, v.asked.protocol, theirs,
		"-c", "core.hooksPath="+string(v.gate.hooks), "receive-pack", "--stateless-rpc", v.repo.path)
	theirs.Close()
	if err != nil {
		hooks.end()
		return err
	}

	v.body.Reader = bufio.NewReader(io.MultiReader(asked.forGit(), v.body.Reader))
	err = v.exchange(ctx, git)
	if (err != nil || v.ended != nil) && git.quarantine != "" {
		v.repo.removeQuarantine(git.quarantine)
	}
	v.bytes = v.body.received()
	hooks.end()
	t.settle()
	v.refs = t.number

	return v.pushOutcome(ctx, t, hooks.refused, err)
}

// pushOutcome returns the outcome of a push. err is how git's exchange with the client ended.
// refused reports whether the gate refused to let pre-receive go on. If the gate has refused the
// push, and git could not tell the client, pushOutcome does.
func (v *visit) pushOutcome(ctx context.Context, t *transaction, refused bool, err error) error {
	switch {
	case refused && t.refused != nil && err == nil:
		v.ref = t.lost
		return t.refused // git has reported it
	case err == nil && refused:
		return cmp.Or(context.Cause(ctx), t.over, store.ErrRevoked) // git has reported the reason; err is nil
	case t.refused != nil && ctx.Err() == nil && !errors.Is(err, errClientGone):
		v.ended = nil // git has ended without an answer to the client
		return v.refusePush(ctx, t.asked, t.refused, func(move) string { return t.refused.text })
	}

	if t.number > 0 {
		v.gate.nameHead(v.repo, v.may.Limits, t.refs.all())
	}
	return err
}

// refusePush answers a push that is refused, with a report in git's protocol if the client supports
// reports. It answers only when the client has sent its pack, since the client reads no answer
// earlier. A client that does not read the answer keeps its slot only until ctx is done.
func (v *visit) refusePush(ctx context.Context, asked commands, refused *refusal, whyNot func(move) string) error {
	if !asked.can("report-status") && !asked.can("report-status-v2") {
		return refused
	}
	if err := v.body.discard(v.gate.maxPush); err != nil {
		return err
	}

	answer := uncut{ctx, v.w}
	defer context.AfterFunc(ctx, func() {
		if answer.cut() != nil {
			v.w.interrupt()
		}
	})()

	v.w.begin(v.asked)
	if err := asked.refuse(answer, whyNot); err != nil {
		return cmp.Or(answer.cut(), gone(err))
	}
	return refused
}

// uncut is a writer that fails when the request has been cut. If ctx is done only because the
// client has gone away, uncut still writes: then the write itself fails.
type uncut struct {
	ctx context.Context
	io.Writer
}

func (u uncut) cut() error {
	if cause := context.Cause(u.ctx); cause != context.Canceled {
		return cause
	}
	return nil
}

func (u uncut) Write(p []byte) (int, error) {
	if err := u.cut(); err != nil {
		return 0, err
	}
	return u.Writer.Write(p)
}

// exchange connects git and the client until git has ended.
func (v *visit) exchange(ctx context.Context, git *command) error {
	stop := context.AfterFunc(ctx, func() { v.interrupt(ctx, git) })
	defer stop()

	sent := v.sendBody(git)
	answerErr := v.sendAnswer(ctx, git)
	gitErr := git.wait()
	sentErr := <-sent

	return v.outcome(ctx, gitErr, answerErr, sentErr)
}

// interrupt ends an exchange whose context is done.
func (v *visit) interrupt(ctx context.Context, git *command) {
	// If a container's client has gone away, git gets a moment to finish. If the client is another
	// gate, it went away to cut the request, so git is cut.
	if context.Cause(ctx) == context.Canceled && v.who.Host == "" {
		v.w.leave()
		git.leave()
		return
	}

	git.cut()
	v.w.interrupt()
}

// sendBody begins to send git the request's body, if there is one. The channel gets one value when
// the sending has ended: its error.
func (v *visit) sendBody(git *command) <-chan error {
	sent := make(chan error, 1)
	if v.body == nil {
		sent <- nil
		return sent
	}

	go func() {
		err := v.body.to(git.in, v.gate.maxPush)
		if errors.Is(err, errTooLarge) {
			git.cut()
		}
		git.closeIn()
		sent <- err
	}()
	return sent
}

// sendAnswer sends the client what git prints, and closes git's output. If sending fails,
// sendAnswer ends git and the reading of the request's body.
func (v *visit) sendAnswer(ctx context.Context, git *command) error {
	defer git.out.Close()
	out := answerBuffers.Get().(*bufio.Reader)
	defer answerBuffers.Put(out)
	out.Reset(&flushing{out: git.out, answer: v.w})

	expect := 1
	if v.asked.advertise {
		expect = len(versionTwo)
	}
	begins, _ := out.Peek(expect)
	if len(begins) == 0 || ctx.Err() != nil {
		return nil
	}

	err := v.passOutput(git, out, begins)
	if err != nil {
		git.letGo()
		if v.body != nil {
			v.body.interrupt()
		}
	}
	return err
}

// passOutput sends the client git's output. begins is the beginning of that output.
func (v *visit) passOutput(git *command, out *bufio.Reader, begins []byte) (err error) {
	v.w.begin(v.asked)
	if v.asked.advertise {
		if _, err = io.WriteString(v.w, serviceLine(v.asked.service, begins)); err != nil {
			return err
		}
	}

	v.bytes, err = copyAnswer(v.w, out, v.repo.path, &git.errors)
	return err
}

// outcome returns the outcome of an exchange, from the errors of git, of the answer and of the
// request's body.
func (v *visit) outcome(ctx context.Context, gitErr, answerErr, sentErr error) error {
	switch {
	case v.w.begun && gitErr == nil && answerErr == nil && sentErr == nil:
		return nil // even if ctx has ended since
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(sentErr, errTooLarge):
		return tooLarge
	case answerErr != nil:
		return gone(answerErr)
	case sentErr != nil:
		return gone(sentErr)
	case gitErr != nil && !v.w.begun:
		return gitErr
	}

	v.w.begin(v.asked) // git may have printed nothing
	v.ended = gitErr   // git has told the client what the client may know
	return nil
}

// end answers the request if it has no answer yet, and records it.
func (v *visit) end(err error) {
	e, refused := v.result(err)

	code := v.refuse(refused)
	v.gate.counts.count(string(v.asked.service), v.bytes, e.Event, code)
	if v.stands != nil && v.who.Host != "" { // only names that the operator gave with --vouch or in --vouch-file are counted
		v.gate.counts.vouched.WithLabelValues(v.who.Host, strconv.Itoa(code)).Inc()
	}
	v.record(e)

	if v.w.begun && (e.Event == trail.Cut || e.Event == trail.Failed) {
		panic(http.ErrAbortHandler) // the client has only a part of the answer
	}
}

// result returns the request's line in the trail and, if the request has failed, the answer to it.
func (v *visit) result(err error) (e trail.Event, refused *refusal) {
	e = v.about()
	e.Event, e.Bytes, e.Refs, e.Ref = v.event, v.bytes, v.refs, v.ref
	e.Duration = time.Since(v.started).Round(time.Millisecond).Seconds()

	switch {
	case err == nil && v.ended == nil:
	case err == nil:
		e.Error = v.ended.Error()
		slog.Warn("git failed", "project", v.asked.project, "error", v.ended)

	case errors.As(err, &refused):
		e.Event, e.Error = trail.Refused, refused.text
		if refused == unauthorized && v.r.Header.Get("Authorization") == "" || v.asked.project == "" {
			e.Event = "" // git's first request has no token, and other programs request arbitrary paths
		}

	case endOfUse(err) != nil:
		e.Event, e.Error, refused = trail.Cut, err.Error(), refusalOf(endOfUse(err))
	case errors.Is(err, errOverShare):
		e.Event, e.Error, refused = trail.Cut, err.Error(), busy(retryAfter)
	case errors.Is(err, errStopping):
		e.Event, e.Error, refused = trail.Cut, err.Error(), stopping

	case errors.Is(err, errUnanswered), errors.Is(err, errBrokenOff):
		e.Event, e.Error, refused = trail.Failed, err.Error(), unanswered
		v.gate.elsewhere.report(err)

	case errors.Is(err, errClientGone), errors.Is(err, context.Canceled):
		e.Error, refused = errClientGone.Error(), incomplete
		if e.Event != "" {
			e.Event = trail.Cut
		}

	default:
		e.Event, e.Error, refused = trail.Failed, err.Error(), failed
		slog.Error("request failed", "project", v.asked.project, "error", err)
	}
	return e, refused
}

// refuse answers with the refusal, if there is one and the client has no answer yet. It
// returns the code of the answer.
func (v *visit) refuse(refused *refusal) (code int) {
	if v.body != nil && !v.body.ended() {
		// After full duplex, Go's server would panic if it read another request from the
		// connection.
		v.w.Header().Set("Connection", "close")
	}
	if refused == nil || v.w.begun {
		return http.StatusOK
	}

	refused.write(v.w)
	return refused.code
}

// about returns an event with the fields that all of the request's lines in the trail share.
func (v *visit) about() trail.Event {
	e := trail.Event{
		Project: v.asked.project, Task: v.who.Task, Container: v.who.Container,
		Fingerprint: v.who.Fingerprint, From: v.r.RemoteAddr, Host: v.who.Host,
	}
	if there := networks.Of(v.r.Context()); there != nil {
		e.From = there.Name
		if e.Container == "" {
			e.Container = v.gate.networks.Container(there)
		}
	}
	return e
}

// record writes an event to the trail.
func (v *visit) record(e trail.Event) {
	switch {
	case e.Event == "":
	case v.refs > 0:
		v.gate.writeTrail(e)
	default:
		v.gate.summary.Add(v.origin(), v.subject(), e)
	}
}

// origin returns the key by which events are summarized: the token or, if no valid token was shown,
// the container's network. Invalid tokens and clients' addresses are no keys, since a client can
// invent any number of tokens, and use any number of loopback addresses.
//
// A host can invent fingerprints, too. So its tokens have 16 origins, by the first digit.
func (v *visit) origin() string {
	if v.who.Host != "" {
		return "host " + v.who.Host + " " + v.who.Fingerprint[:min(1, len(v.who.Fingerprint))]
	}
	if v.who.Project != "" {
		return "token " + v.who.token()
	}
	if there := networks.Of(v.r.Context()); there != nil {
		return "network " + there.Name
	}
	return ""
}

// subject returns the project by which events of an origin are summarized. For a host's request, it
// is empty unless the project's repository was found: a host can invent names.
func (v *visit) subject() string {
	if v.who.Host != "" {
		return v.repo.project
	}
	return v.may.project
}
