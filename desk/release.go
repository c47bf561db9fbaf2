// Pushes a container's commits to upstream, exactly those that were shown (release).

package desk

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/untrusted"
)

// Offer is a commit in the gate that could be pushed to one of upstream's branches or tags. Its
// methods show this very commit, and [Offer.Release] pushes no other.
type Offer struct {
	Ref    string // the gate's branch or tag
	Object string // the object to push: the commit, or an annotated tag of it
	Commit string
	To     string // upstream's branch or tag
	Old    string // the present object of To; "" if it does not exist
	Ahead  int    // number of commits that To lacks or, if To is new or a tag, that upstream's default branch lacks
	Behind int    // number of commits that To would lose; if it is not 0, Release needs force

	desk *Desk
	at   string // the present object of Ref
	base string // the commit that Commit is compared with; "" for none
}

// Errors of Offer and Release.
var (
	ErrNothing = errors.New("upstream has it already")
	ErrBehind  = errors.New("upstream has commits that would be lost")
	ErrTag     = errors.New("upstream has another tag of that name")
	ErrMoved   = errors.New("the gate's branch or tag has moved since it was shown")
)

// Offer fetches and compares ref, a branch or tag of the gate, and target, the branch or tag of upstream to
// which ref could be pushed. Both are full ref names.
func (d *Desk) Offer(ctx context.Context, ref, target string) (*Offer, error) {
	for _, name := range []string{ref, target} {
		if !strings.HasPrefix(name, heads) && !isTag(name) || checkRef(name) != nil {
			return nil, fmt.Errorf("%q is neither a branch nor a tag", name)
		}
	}
	unlock, err := d.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()

	o, gate, err := d.look(ctx, ref)
	if err != nil {
		return nil, err
	}
	base := o.base(target)
	if isTag(target) {
		base = o.head
	}
	offer := &Offer{Ref: ref, Object: gate[ref], at: gate[ref], To: target, Old: o.refs[target], desk: d, base: o.refs[base]}
	if offer.Object == "" {
		return nil, fmt.Errorf("the gate has no %s", KindAndName(ref))
	}
	offer.Commit, err = output(d.local(ctx, "rev-parse", "--verify", "--quiet", offer.Object+"^{commit}"))
	if err != nil || !isTag(ref) && offer.Object != offer.Commit {
		return nil, errors.Join(fmt.Errorf("%s in the gate is not a commit", ref), err)
	}
	if !isTag(target) {
		offer.Object = offer.Commit
	}
	return offer, offer.measure(ctx)
}

func isTag(ref string) bool { return strings.HasPrefix(ref, tags) }

// KindAndName returns a ref's name for people, such as "branch main" or "tag v1.0".
func KindAndName(ref string) string {
	if isTag(ref) {
		return "tag " + strings.TrimPrefix(ref, tags)
	}
	return "branch " + ShortRef(ref)
}

// measure counts the commits that upstream would gain and lose.
func (o *Offer) measure(ctx context.Context) (err error) {
	if o.base == "" {
		o.Ahead, err = o.desk.count(ctx, o.Commit)
		return err
	}
	behind := 0
	o.Ahead, behind, err = o.desk.apart(ctx, o.Commit, o.base)
	if o.Old != "" && !isTag(o.To) {
		o.Behind = behind
	}
	return err
}

// Takes reports whether the push would take commits or a tag away from upstream, which requires
// force.
func (o *Offer) Takes() bool {
	return o.Behind > 0 || isTag(o.To) && o.Old != "" && o.Old != o.Object
}

// Log writes the commits that Ahead counts. If the object is an annotated tag, Log writes the tag first.
// All output is made safe for a terminal. If the function pushed returns text for a commit, Log adds the
// text as a line below the commit's id. pushed may be nil.
func (o *Offer) Log(ctx context.Context, w io.Writer, pushed func(commit string) string) error {
	for object := o.Object; object != o.Commit; {
		text, err := output(o.desk.local(ctx, "cat-file", "tag", object))
		if err != nil {
			return err
		}
		indented := strings.ReplaceAll(text, "\n", "\n    ")
		if _, err := fmt.Fprintf(printable.Writer(w), "tag %s\n    %s\n\n", object, indented); err != nil {
			return err
		}
		if _, err := fmt.Sscanf(text, "object %s", &object); err != nil { // the new object may be a tag, too
			return fmt.Errorf("read the tag: %w", err)
		}
	}
	lines := &pushedLines{w: w, pushed: pushed}
	return errors.Join(o.log(ctx, lines, o.Commit, o.base), lines.flush())
}

// Lost writes the commits that upstream's branch would lose.
func (o *Offer) Lost(ctx context.Context, w io.Writer) error {
	if o.Old == "" {
		return nil
	}
	return o.log(ctx, w, o.Old, o.Commit)
}

func (o *Offer) log(ctx context.Context, w io.Writer, tip, without string) error {
	args := []string{
		"log", "--no-color", "--no-decorate", "--no-show-signature", "--no-notes", "--no-mailmap",
		"--format=commit %H%nAuthor: %an <%ae>%nDate:   %aI%n%n%w(0,4,4)%B%w(0,0,0)", tip,
	}
	if without != "" {
		args = append(args, "^"+without)
	}
	return copyTo(printable.Writer(w), o.desk.local(ctx, append(args, "--")...))
}

// pushedLines adds the text that the function pushed returns for a commit, as a line below the one with
// the commit's id. No other line of a log can look like a line with an id, since commit messages are
// indented.
type pushedLines struct {
	w      io.Writer
	pushed func(commit string) string
	begun  []byte
}

func (p *pushedLines) Write(text []byte) (int, error) {
	p.begun = append(p.begun, text...)
	for {
		line, rest, whole := bytes.Cut(p.begun, []byte("\n"))
		if !whole {
			return len(text), nil
		}
		out := append(bytes.Clone(line), '\n')
		if id, is := strings.CutPrefix(string(line), "commit "); is && isID(id) && p.pushed != nil {
			if said := p.pushed(id); said != "" {
				out = append(out, "Pushed: "+printable.Line(said)+"\n"...)
			}
		}
		p.begun = rest
		if _, err := p.w.Write(out); err != nil {
			return 0, err
		}
	}
}

func (p *pushedLines) flush() error {
	_, err := p.w.Write(p.begun)
	return err
}

// Diff writes what the commit changes, compared with the commit where its history branched off from
// upstream's. Because of merges, there may be several such commits. Diff then compares with each of them:
// compared with only one, a merge that undoes a change might show nothing. No attribute or setting hides
// anything. All output is made safe for a terminal.
func (o *Offer) Diff(ctx context.Context, w io.Writer) error {
	bases, err := o.bases(ctx)
	if err != nil {
		return err
	}
	if len(bases) == 0 {
		bases = []string{emptyTree(o.desk.format)}
	}

	w = printable.Writer(w)
	for _, base := range bases {
		if len(bases) > 1 {
			if _, err := fmt.Fprintf(w, "compared with %s\n", base); err != nil {
				return err
			}
		}
		err := copyTo(w, o.desk.local(ctx, "diff-tree", "-r", "-p", "--no-color", "--no-ext-diff", "--no-textconv",
			"--text", "--no-renames", "--ignore-submodules=none", "--full-index", base, o.Commit, "--"))
		if err != nil {
			return err
		}
	}
	return nil
}

// bases returns the commits where the commit's history branched off from upstream's.
func (o *Offer) bases(ctx context.Context) ([]string, error) {
	if o.base == "" {
		return nil, nil
	}
	bases, err := output(o.desk.local(ctx, "merge-base", "--all", o.base, o.Commit))
	if err != nil && !unrelated(err) {
		return nil, err
	}
	return strings.Fields(bases), nil
}

// FirstWith returns, for each commit that upstream lacks, the index of the first tip whose history contains
// the commit. The tips are objects of the gate.
func (o *Offer) FirstWith(ctx context.Context, tips []string) (map[string]int, error) {
	bases, err := o.bases(ctx)
	if err != nil {
		return nil, err
	}
	return o.desk.Gate.firstWith(ctx, tips, bases)
}

// unrelated reports whether an error of git merge-base means that two commits have no common
// history: git prints nothing then, and its exit status is 1.
func unrelated(err error) bool {
	exit := new(exec.ExitError)
	return errors.As(err, &exit) && exit.ExitCode() == 1
}

// Release pushes the object to upstream's branch or tag. It fails if upstream's or the gate's branch or tag
// has moved since the offer was made. Upstream can lose commits or a tag only with force. Release writes
// upstream's messages to w, made safe for a terminal.
func (o *Offer) Release(ctx context.Context, force bool, w io.Writer) error {
	d := o.desk
	switch {
	case o.Object == o.Old:
		return ErrNothing
	case !o.Takes() || force:
	case isTag(o.To):
		return ErrTag
	default:
		return fmt.Errorf("%w: %d of %s", ErrBehind, o.Behind, ShortRef(o.To))
	}
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()

	gate, _, err := d.Gate.refs(ctx)
	if err != nil {
		return err
	}
	if gate[o.Ref] != o.at {
		return ErrMoved
	}
	if o.Takes() {
		if err := d.keepLost(ctx, o); err != nil {
			return err
		}
	}

	if err := o.push(ctx, w); err != nil {
		return fmt.Errorf("push to %s: %w", d.Source, err)
	}
	return d.released(ctx, o)
}

// push pushes the object with --force-with-lease: the push fails if upstream's ref has moved since the
// offer was made. The lease alone would let upstream lose commits, so Release has checked force before.
// Upstream's messages are passed on to w. Git's own messages are passed on to w only if the push succeeds; if
// the push fails, the error says why.
func (o *Offer) push(ctx context.Context, w io.Writer) error {
	status := untrusted.Output{}
	lines := &saidByUpstream{to: printable.Writer(w)}
	err := o.desk.transfer(ctx, func(ctx context.Context, address string) *exec.Cmd {
		cmd := o.desk.operators(ctx, "push", "--no-verify", "--no-signed", "--no-follow-tags", "--recurse-submodules=no", "--no-progress",
			"--porcelain", "--force-with-lease="+o.To+":"+o.Old, "--", address, o.Object+":"+o.To)
		cmd.Stdout, cmd.Stderr = &status, lines
		return cmd
	}, "receive-pack")
	if err == nil {
		lines.passOn()
		return nil
	}

	for line := range strings.Lines(status.String()) {
		// The line has a flag, the refs, and the reason (git-push(1)).
		if fields := strings.SplitN(strings.TrimSpace(line), "\t", 3); fields[0] == "!" && len(fields) == 3 {
			return errors.New(fields[2])
		}
	}
	return err
}

// saidByUpstream passes on the lines that upstream sends, and keeps the lines of git and ssh until passOn is
// called. A line that cannot be passed on does not make the push fail.
type saidByUpstream struct {
	to    io.Writer
	begun []byte // the beginning of a line
	kept  untrusted.Output
}

func (s *saidByUpstream) Write(text []byte) (int, error) {
	const longest = 64 << 10
	s.begun = append(s.begun, text...)
	for {
		end := bytes.IndexByte(s.begun, '\n') + 1
		if end == 0 && len(s.begun) < longest {
			return len(text), nil
		}
		if end == 0 {
			end = len(s.begun)
		}

		if line := s.begun[:end]; bytes.HasPrefix(line, []byte("remote:")) {
			_, _ = s.to.Write(line)
		} else {
			_, _ = s.kept.Write(line)
		}
		s.begun = s.begun[end:]
	}
}

// passOn passes on the lines that were kept.
func (s *saidByUpstream) passOn() { _, _ = s.to.Write(append(s.kept.Bytes(), s.begun...)) }

// keepLost keeps in the desk what upstream is about to lose, and drops what the desk has kept for long
// enough.
func (d *Desk) keepLost(ctx context.Context, o *Offer) error {
	known, err := d.refs(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	commands := RefCommand(NewKept(o.To, now, 0), "", o.Old)
	for _, k := range keptIn(known) {
		if now.Sub(k.Time) > cmp.Or(d.Keep, KeepFor) {
			commands += RefCommand(k.Name, k.Commit, "")
		}
	}
	return d.update(ctx, commands)
}

// released records in the desk that upstream's ref is the object now and, if the gate's ref has the same
// name, that the gate has taken the object from upstream.
func (d *Desk) released(ctx context.Context, o *Offer) error {
	known, err := d.refs(ctx)
	if err != nil {
		return err
	}
	name := strings.TrimPrefix(o.To, "refs/")
	noted := []string{originPrefix + name}
	if o.To == o.Ref {
		noted = append(noted, lastPrefix+name)
	}
	var commands string
	for _, ref := range noted {
		if known[ref] != o.Object {
			commands += RefCommand(ref, known[ref], o.Object)
		}
	}
	return d.update(ctx, commands)
}
