// Judges pushes with append-only tokens. These tokens may neither delete nor force a ref.
//
// Only the pushed objects show whether a branch is forced. So the gate judges a push when its
// objects are in git's quarantine, and a refused push leaves nothing behind. A commit's ancestors
// never change, so the judgement still holds when git moves the refs. At that time, the gate
// refuses any move of an existing ref that it has not found to go forward.

package gate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"

	"terok-gate-hook/internal/printable"
)

// mostForwards is how many existing refs a push with an append-only token may move. The gate starts
// git for each of these refs.
const mostForwards = 100

var tooManyForwards = &refusal{
	code: http.StatusForbidden,
	text: fmt.Sprintf("the token may only add, and may move at most %d existing refs in one push: push in parts", mostForwards),
}

// losing returns the refusal of a move that would lose the ref's old object.
func losing(ref string) *refusal {
	return &refusal{code: http.StatusForbidden, text: fmt.Sprintf("the token may only add: %.200s must not be deleted or forced", printable.Line(ref))}
}

// loses reports whether a move certainly loses the ref's old object, because it deletes the ref or
// moves an existing tag. For other moves, only the objects show this. name is m.ref or, if m.ref is
// symbolic, the ref that m.ref stands for.
func loses(m move, name string) bool {
	return isZero(m.new) || strings.HasPrefix(name, "refs/tags/") && !isZero(m.old)
}

// moved returns the number of existing refs that the commands would move.
func (c commands) moved() (number int) {
	for m := range c.all() {
		if !isZero(m.old) {
			number++
		}
	}
	return number
}

// forwards are moves from a commit to the same commit or a descendant. A key is the old object and
// the new one.
type forwards map[[2]string]struct{}

// have reports whether the move is one of the forwards, or creates its ref.
func (f forwards) have(m move) bool {
	_, is := f[[2]string{m.old, m.new}]
	return is || isZero(m.old)
}

// forwardsOf returns those moves of a push that go forward.
func (g *Gate) forwardsOf(ctx context.Context, repo repository, quarantine string, asked commands) (forwards, error) {
	commits, err := g.commits(ctx, repo, quarantine, asked)
	if err != nil {
		return nil, err
	}

	found := forwards{}
	for m := range asked.all() {
		if !commits[m.old] || !commits[m.new] {
			continue
		}
		is, err := g.isAncestor(ctx, repo, quarantine, m.old, m.new)
		if err != nil {
			return nil, err
		}
		if is {
			found[[2]string{m.old, m.new}] = struct{}{}
		}
	}
	return found, nil
}

// commits returns the commits among the old and new objects of existing refs. It leaves out tag
// objects, since git merge-base would take a tag object as the commit that the tag names.
func (g *Gate) commits(ctx context.Context, repo repository, quarantine string, asked commands) (map[string]bool, error) {
	git := g.commandWith(repo, quarantine, "cat-file", "--batch-check=%(objectname) %(objecttype)")
	var objects strings.Builder // fits into a pipe: see mostForwards
	for m := range asked.all() {
		if !isZero(m.old) {
			fmt.Fprintf(&objects, "%s\n%s\n", m.old, m.new)
		}
	}
	git.cmd.Stdin = strings.NewReader(objects.String())
	if err := git.start(g.git.starter, g.git.memory); err != nil {
		return nil, err
	}

	text, err := git.output(ctx)
	commits := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if object, is := strings.CutSuffix(line, " commit\n"); is {
			commits[object] = true
		}
	}
	return commits, err
}

// isAncestor reports whether the commit old is an ancestor of the commit new, or the same commit.
func (g *Gate) isAncestor(ctx context.Context, repo repository, quarantine, old, new string) (bool, error) {
	git := g.commandWith(repo, quarantine, "merge-base", "--is-ancestor", old, new)
	if err := git.start(g.git.starter, g.git.memory); err != nil {
		return false, err
	}
	_, err := git.output(ctx)
	if no := (*exec.ExitError)(nil); ctx.Err() == nil && errors.As(err, &no) && no.ExitCode() == 1 {
		return false, nil
	}
	return err == nil, err
}

// commandWith returns a git command that also sees the objects in a quarantine, unless quarantine
// is "". The command ignores replacements of objects (git-replace(1)).
func (g *Gate) commandWith(repo repository, quarantine string, args ...string) *command {
	git := g.git.command(repo, itself(repo), "", args...)
	git.cmd.Env = append(git.cmd.Env, "GIT_NO_REPLACE_OBJECTS=1")
	if quarantine != "" { // a relative path, since a colon in the repository's path would end it
		git.cmd.Env = append(git.cmd.Env, "GIT_ALTERNATE_OBJECT_DIRECTORIES=objects/"+quarantine)
	}
	return git
}
