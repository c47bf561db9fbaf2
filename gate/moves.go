// Judges and records the refs that a push moves, as git's hook reports them from within git's
// transaction. They can differ from the refs that the client named.

package gate

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"log/slog"
	"net/http"
	"strings"

	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

// transaction is git's transaction for a push. It moves all refs of the push, or none. Its lines in
// the trail are true at whatever moment git is ended:
//
//   - When git's hook asks the gate, git has locked the refs and compared their old values.
//   - Before git may move the refs, the trail has a line for each ref, with the event "moving".
//   - Before git may tell the client that the refs have moved, the trail has a line for each ref,
//     with the event "moved".
//   - If git is ended when it may move the refs and has not yet reported that they have moved, the
//     gate reads the refs to find out which of them have moved. While the gate does so, no other
//     push through the gate moves a ref of the repository.
type transaction struct {
	gate *Gate
	repo repository
	permit
	about func() trail.Event // returns the fields that all lines of the push share
	ctx   context.Context    // of the push
	fail  context.CancelCauseFunc
	asked commands
	names map[string]present

	forwards forwards // of a push with an append-only token
	lost     string   // the ref that a push with an append-only token would delete or force
	refs     moves
	kept     []keptTip
	state    transactionState
	refused  *refusal // why the gate did not let git go on
	over     error    // why the token no longer allows the push, if the gate found that when git asked
	leave    func()   // lets other pushes move refs
	number   int      // of refs that have moved
}

type transactionState int

const (
	idle  transactionState = iota
	begun                  // git may move the refs
	done                   // git has moved the refs, or given up
)

var (
	errUnsafe       = errors.New("a push has moved refs, and they or their lines in the trail cannot be written to the disk")
	trailRefuses    = &refusal{code: http.StatusInsufficientStorage, text: "the gate cannot write down what the push moves"}
	errNothingNamed = errors.New("git named no ref to move")
)

// prepared decides whether git may move these refs.
func (t *transaction) prepared(refs moves) error {
	if t.state != idle {
		return errors.New("git moves refs in two transactions")
	}

	leave, err := t.gate.cleaner.enter(t.ctx, t.repo)
	if err != nil {
		return err
	}
	if err = t.mayMove(refs); err == nil {
		err = t.keep(refs)
	}
	if err == nil && t.tell(trail.Moving, refs) != nil {
		t.refused = trailRefuses
		err = trailRefuses
	}
	if err != nil {
		t.takeBack(func(string) bool { return true })
		leave()
		return err
	}

	t.refs, t.leave, t.state = refs, leave, begun
	return nil
}

// received decides whether the push's objects may leave git's quarantine. quarantine is the name of
// the quarantine's directory, or "" if the push has no objects.
func (t *transaction) received(quarantine string) error {
	if err := t.mayMove(nil); err != nil || !t.may.AppendOnly {
		return err
	}

	var err error
	t.forwards, err = t.gate.forwardsOf(t.ctx, t.repo, quarantine, t.asked)
	switch {
	case t.ctx.Err() != nil:
		return t.cut()
	case err != nil:
		t.fail(fmt.Errorf("find out what a push loses: %w", err))
		return failed
	}
	for m := range t.asked.all() {
		if !t.forwards.have(m) {
			t.refused, t.lost = losing(m.ref), m.ref
			return t.refused
		}
	}
	return nil
}

// cut returns the reason why the push was cut, in words that git may show to the client.
func (t *transaction) cut() error {
	return cmp.Or(endOfUse(context.Cause(t.ctx)), store.ErrRevoked)
}

// mayMove judges the token again, and the refs by the names that git reports. A symbolic ref may
// have been made or changed after the push was first judged.
func (t *transaction) mayMove(refs moves) error {
	if t.ctx.Err() != nil {
		return t.cut()
	}
	if t.over = t.stands.still(); t.over != nil {
		return t.over
	}

	for m := range refs.all() {
		switch {
		case !t.may.MayPush(m.ref):
			t.refused = &refusal{code: http.StatusForbidden, text: outsideOf(t.may.Limits)}
			return t.refused
		case t.may.AppendOnly && (loses(m, m.ref) || !t.forwards.have(m)):
			t.refused = losing(m.ref)
			return t.refused
		}
	}
	return nil
}

// committed is called when the refs have moved. If it returns an error, the client must not be told
// of success.
func (t *transaction) committed() error {
	if t.state != begun {
		return errNothingNamed
	}
	for range t.refs.all() {
		t.number++
	}
	err := errors.Join(t.repo.sync(t.refs), t.tell(trail.Moved, t.refs))
	t.packKept()
	t.end()
	if err != nil {
		t.fail(errUnsafe)
	}
	return err
}

// aborted is called when git has given up the transaction and moved nothing.
func (t *transaction) aborted() {
	if t.state == begun {
		t.takeBack(func(string) bool { return true })
		t.refs = nil
		t.end()
	}
}

func (t *transaction) end() {
	t.state = done
	t.leave()
}

// settle finds out which refs have moved, if git was ended before it reported the end of the
// transaction.
func (t *transaction) settle() {
	if t.state != begun {
		return
	}
	defer t.end()

	now, err := t.gate.present(context.Background(), t.repo, t.refs.all())
	for tries := 1; err != nil && tries < 3; tries++ { // what killed the push's git may kill this git, too
		now, err = t.gate.present(context.Background(), t.repo, t.refs.all())
	}
	if err != nil {
		slog.Error("find out what a push moved", "project", t.repo.project, "error", err)
		return
	}
	var moved moves
	stayed := map[string]bool{}
	for m := range t.refs.all() {
		is := now[m.ref].object
		if is == m.new || is == "" && isZero(m.new) {
			moved = fmt.Appendf(moved, "%s %s %s\n", m.old, m.new, m.ref)
			t.number++
		}
		stayed[m.ref] = is == m.old // if it is neither the old nor the new object, a sync may have moved the ref since
	}
	t.takeBack(func(ref string) bool { return stayed[ref] })
	t.refs = moved
	_ = t.tell(trail.Moved, moved)
}

// without leaves out the moves of symbolic refs that the push names. git before 2.50 reports these
// moves in addition to those of the refs that the symbolic refs point to.
func (t *transaction) without(refs moves) (real moves) {
	for line := range bytes.Lines(refs) {
		_, ref, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" refs/"))
		if t.names["refs/"+string(ref)].standsFor == "" {
			real = append(real, line...)
		}
	}
	return real
}

// tell writes a line into the trail for each ref.
func (t *transaction) tell(event string, refs moves) error {
	const atOnce = 1000
	about := t.about()
	lines := make([]trail.Event, 0, atOnce)
	write := func() error {
		err := t.gate.trail(lines...)
		lines = lines[:0]
		if err != nil {
			slog.Error("write the trail", "error", err)
		}
		return err
	}

	for m := range refs.all() {
		e := about
		e.Event, e.Ref, e.Old, e.New = event, m.ref, m.old, m.new
		if lines = append(lines, e); len(lines) == atOnce {
			if err := write(); err != nil {
				return err
			}
		}
	}
	if len(lines) > 0 {
		return write()
	}
	return nil
}

// present is the present state of a ref that a push names.
type present struct {
	object    string // empty for none
	standsFor string // for a symbolic ref, the ref that it finally points to
}

// present returns the present state of the refs that a push names. It leaves out refs that do not
// exist.
func (g *Gate) present(ctx context.Context, repo repository, refs iter.Seq[move]) (map[string]present, error) {
	const longest = 32 << 10 // bytes of names in git's arguments; beyond that, git lists all refs
	// There may be 64 pushes at once that name 40,000 refs each. So only hashes of these names are
	// kept, and the state of the refs that exist.
	seed, asked := maphash.MakeSeed(), map[uint64]struct{}{}
	args := []string{"for-each-ref", "--format=%(objectname) %(refname) %(symref)", "--"}
	length := 0
	for m := range refs {
		asked[maphash.String(seed, m.ref)] = struct{}{}
		if length += len(m.ref); length < longest {
			args = append(args, m.ref)
		}
	}
	if length >= longest {
		args = args[:3]
	}

	git, err := g.git.start(repo, itself(repo), "", args...)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, git.cut)()
	now := map[string]present{}
	err = git.lines(func(line string) {
		fields := strings.Split(line, " ")
		if len(fields) != 3 {
			return
		}
		if _, is := asked[maphash.String(seed, fields[1])]; is {
			now[fields[1]] = present{object: fields[0], standsFor: fields[2]}
		}
	})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return now, err
}

// damaged is the reason why a ref that names a missing object is not deleted.
const damaged = "the object that the ref names is missing: the repository is damaged"

// missing returns the first ref that the push would delete and whose object is missing, or "". git
// would delete such a ref without comparing the old value, and would report zeroes to its hook. The
// gate could not tell this from a packed ref, for which git also reports zeroes.
func (g *Gate) missing(ctx context.Context, repo repository, refs iter.Seq[move]) (ref string, err error) {
	deleted := func(yield func(move) bool) {
		for m := range refs {
			if isZero(m.new) && !yield(m) {
				return
			}
		}
	}
	number := 0
	for range deleted {
		number++
	}
	if number == 0 {
		return "", nil
	}

	git, err := g.git.startReading(repo, itself(repo), "", nil,
		"cat-file", "--batch-check=there")
	if err != nil {
		return "", err
	}
	defer context.AfterFunc(ctx, git.cut)()
	go func() {
		defer git.closeIn()
		in := bufio.NewWriter(git.in)
		for m := range deleted {
			fmt.Fprintln(in, m.old)
		}
		_ = in.Flush() // git.lines returns an error if git ends early
	}()
	n, first := 0, -1
	err = git.lines(func(line string) {
		if line != "there" && first < 0 {
			first = n
		}
		n++
	})
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case err != nil:
		return "", err
	case n != number:
		return "", errors.New("git does not say of each object whether it is there")
	}

	for m := range deleted {
		if first == 0 {
			return m.ref, nil
		}
		first--
	}
	return "", nil
}

// whyNot returns the reason why a ref may not move, or "". outside is the text for refs that the
// limits do not permit. The caller makes outside only once, since it is long and a push may name
// 40,000 such refs.
func whyNot(limits store.Limits, outside string, m move, now present) string {
	name := m.ref
	if now.standsFor != "" {
		name = now.standsFor
	}

	switch {
	case !limits.MayPush(name):
		return outside
	case limits.AppendOnly && loses(m, name):
		return losing(m.ref).text
	case isZero(m.old) && isZero(m.new):
		return "the ref to delete does not exist"
	case now.object != m.old && !(now.object == "" && isZero(m.old)):
		return "the ref has moved meanwhile: fetch first"
	}
	return ""
}
