// Points a repository's HEAD at the first branch that is pushed.

package gate

import (
	"iter"
	"log/slog"
	"strconv"
	"strings"

	"terok-gate-hook/store"
)

// nameHead points HEAD at a branch that a push has created, if HEAD names a branch that does not
// exist: with such a HEAD, a clone would check out nothing. nameHead prefers main, then master,
// then the first branch of the push. A push with a limited token changes HEAD only if the
// repository has no other branches.
func (g *Gate) nameHead(repo repository, limits store.Limits, moved iter.Seq[move]) {
	branch := firstBranch(moved)
	if branch == "" || !g.headIsUnborn(repo) || limits.Limited() && g.hasOtherBranches(repo, moved) {
		return
	}
	if err := g.ask(repo, "symbolic-ref", "HEAD", branch); err != nil {
		slog.Warn("point HEAD at the first branch", "project", repo.project, "error", err)
	}
}

// firstBranch returns the branch for HEAD among those that a push has created, or "" if it has
// created none.
func firstBranch(moved iter.Seq[move]) (branch string) {
	rank := map[string]int{"refs/heads/main": 2, "refs/heads/master": 1}
	for m := range moved {
		if strings.HasPrefix(m.ref, "refs/heads/") && isZero(m.old) && !isZero(m.new) &&
			(branch == "" || rank[m.ref] > rank[branch]) {
			branch = m.ref
		}
	}
	return branch
}

// hasOtherBranches reports whether there are branches besides those that a push has created. If it
// cannot find out, it returns true.
func (g *Gate) hasOtherBranches(repo repository, moved iter.Seq[move]) bool {
	made := 0
	for m := range moved {
		if strings.HasPrefix(m.ref, "refs/heads/") && isZero(m.old) {
			made++
		}
	}

	git, err := g.git.start(repo, itself(repo), "",
		"for-each-ref", "--format=x", "--count="+strconv.Itoa(made+1), "refs/heads/")
	if err != nil {
		return true
	}

	there := 0
	err = git.lines(func(string) { there++ })
	return err != nil || there > made
}

func (g *Gate) headIsUnborn(repo repository) bool {
	return g.ask(repo, "rev-parse", "--quiet", "--verify", "HEAD") != nil
}

// ask runs one of git's commands in a repository, for the gate itself.
func (g *Gate) ask(repo repository, args ...string) error {
	git, err := g.git.start(repo, itself(repo), "", args...)
	if err == nil {
		_, err = git.output(g.ctx)
	}
	return err
}
