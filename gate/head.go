// HEAD of a repository that had no branch.

package gate

import (
	"iter"
	"log/slog"
	"strings"

	"terok-gate-hook/store"
)

// nameHead has HEAD name a branch that a push has made, if the one that it names is not
// there: a clone would be empty otherwise. That is main, master or else the first.
func (g *Gate) nameHead(repo repository, moved iter.Seq[move]) {
	branch := firstBranch(moved)
	if branch == "" || !g.headIsUnborn(repo) {
		return
	}
	if err := g.ask(repo, "symbolic-ref", "HEAD", branch); err != nil {
		slog.Warn("have HEAD name the first branch", "project", repo.project, "error", err)
	}
}

// firstBranch returns the branch for HEAD among those that were made, if any was.
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

func (g *Gate) headIsUnborn(repo repository) bool {
	return g.ask(repo, "rev-parse", "--quiet", "--verify", "HEAD") != nil
}

// ask runs one of git's commands in a repository, for the gate itself.
func (g *Gate) ask(repo repository, args ...string) error {
	git, err := g.git.start(repo, store.Pass{Grant: store.Grant{Project: repo.project}}, "", args...)
	if err == nil {
		_, err = git.output(g.ctx)
	}
	return err
}
