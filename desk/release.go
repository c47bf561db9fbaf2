// Out: a container's commits, when a human says so.

package desk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"terok-gate-hook/internal/printable"
)

// Offer is a commit of the gate's that could go to a branch of upstream's. What it shows is
// of this very commit, which is pushed or nothing is.
type Offer struct {
	Ref    string // of the gate's
	Commit string
	To     string // upstream's branch
	Old    string // what that is now; "" if it is not there
	Ahead  int    // commits that go there, or that upstream's default branch lacks
	Behind int    // commits of upstream's branch that would go; only force takes them

	desk *Desk
	base string // the commit that it is compared with; "" for none
}

// Errors of Offer and Release.
var (
	ErrNothing = errors.New("upstream has it already")
	ErrBehind  = errors.New("upstream has commits that would go")
	ErrMoved   = errors.New("the branch has moved since it was shown")
)

// Offer looks at a branch of the gate's, and at upstream's branch that it could go to. Both
// are full ref names.
func (d *Desk) Offer(ctx context.Context, ref, to string) (*Offer, error) {
	for _, name := range []string{ref, to} {
		if !strings.HasPrefix(name, heads) || checkRef(name) != nil {
			return nil, fmt.Errorf("%q is no branch", name)
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
	offer := &Offer{Ref: ref, Commit: gate[ref], To: to, Old: o.refs[to], desk: d, base: o.refs[o.base(to)]}
	if offer.Commit == "" {
		return nil, fmt.Errorf("the gate has no branch %s", ShortRef(ref))
	}
	if is, err := d.isCommit(ctx, offer.Commit); err != nil || !is {
		return nil, errors.Join(fmt.Errorf("%s of the gate's is no commit", ref), err)
	}
	return offer, offer.measure(ctx)
}

// measure counts what would come and go.
func (o *Offer) measure(ctx context.Context) (err error) {
	if o.base == "" {
		o.Ahead, err = o.desk.count(ctx, o.Commit)
		return err
	}
	behind := 0
	o.Ahead, behind, err = o.desk.apart(ctx, o.Commit, o.base)
	if o.Old != "" {
		o.Behind = behind
	}
	return err
}

// Log writes the commits that upstream lacks. Nothing that they say reaches a terminal
// other than as text.
func (o *Offer) Log(ctx context.Context, w io.Writer) error {
	return o.log(ctx, w, o.Commit, o.base)
}

// Lost writes the commits of upstream's branch that would go.
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

// Diff writes what the commit changes, compared with where its history left upstream's; after
// a merge of what upstream merged as well that can be several commits, and with one of them
// alone a merge that undoes the other shows nothing. No attribute and no setting keeps
// anything out of it, and nothing in it reaches a terminal other than as text.
func (o *Offer) Diff(ctx context.Context, w io.Writer) error {
	bases, err := o.bases(ctx)
	if err != nil {
		return err
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

// bases returns the commits where the history left upstream's, or the empty tree.
func (o *Offer) bases(ctx context.Context) ([]string, error) {
	if o.base != "" {
		bases, err := output(o.desk.local(ctx, "merge-base", "--all", o.base, o.Commit))
		if err == nil {
			return strings.Fields(bases), nil
		}
		if !unrelated(err) {
			return nil, err
		}
	}
	return []string{emptyTree(o.desk.format)}, nil
}

// unrelated reports whether two commits have no history in common: git says nothing, and
// ends with 1.
func unrelated(err error) bool {
	exit := new(exec.ExitError)
	return errors.As(err, &exit) && exit.ExitCode() == 1
}

// Release pushes the commit to upstream's branch, if the gate's branch and upstream's are
// still what they were. Commits of upstream's go with force alone. What upstream says goes
// to said, as text.
func (o *Offer) Release(ctx context.Context, force bool, said io.Writer) error {
	d := o.desk
	switch {
	case o.Commit == o.Old:
		return ErrNothing
	case o.Behind > 0 && !force:
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
	if gate[o.Ref] != o.Commit {
		return ErrMoved
	}
	if o.Behind > 0 {
		if err := d.keepLost(ctx, o); err != nil {
			return err
		}
	}

	if err := o.push(ctx, said); err != nil {
		return fmt.Errorf("push to %s: %w", d.Source, err)
	}
	return d.released(ctx, o)
}

// push pushes the commit, with a lease on what upstream's branch was when it was judged:
// the lease alone would force.
func (o *Offer) push(ctx context.Context, said io.Writer) error {
	return o.desk.speak(ctx, func(address string) *exec.Cmd {
		cmd := o.desk.operators(ctx, "push", "--no-verify", "--no-signed", "--no-follow-tags", "--recurse-submodules=no", "--no-progress",
			"--force-with-lease="+o.To+":"+o.Old, "--", address, o.Commit+":"+o.To)
		cmd.Stderr = printable.Writer(said)
		return cmd
	}, "receive-pack")
}

// keepLost keeps, at the desk, what upstream is about to lose, and drops what has been kept
// for long enough.
func (d *Desk) keepLost(ctx context.Context, o *Offer) error {
	known, err := d.refs(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	commands := command(NewKept(o.To, now, 0), "", o.Old)
	for _, k := range keptIn(known) {
		if now.Sub(k.Time) > cmp.Or(d.Keep, KeepFor) {
			commands += command(k.Name, k.Commit, "")
		}
	}
	return d.update(ctx, commands)
}

// released notes in the desk what upstream has now, and that the gate has it.
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
		if known[ref] != o.Commit {
			commands += command(ref, known[ref], o.Commit)
		}
	}
	return d.update(ctx, commands)
}
