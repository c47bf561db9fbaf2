// What pushes leave in a repository, and when it can be cleaned up: when none is under way
// there.

package gate

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"terok-gate-hook/store"
)

// pushes are those under way, by the path of their repository. What they leave is
// cleaned up when the last of a repository has ended.
type pushes struct {
	mu       sync.Mutex
	to       map[string]*pushesTo
	cleaning sync.WaitGroup
}

type pushesTo struct {
	underWay   int
	moved      bool // a ref, by one of them
	cut        bool // one of them was ended early
	collecting bool // git gc runs
}

// beginPush tells that a push is under way, until endPush.
func (g *Gate) beginPush(repo repository) {
	p := &g.pushes
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.to[repo.path] == nil {
		p.to[repo.path] = &pushesTo{}
	}
	p.to[repo.path].underWay++
}

// endPush tells whether the push moved a ref, and whether it was ended early. It cleans up
// if no other is under way.
func (g *Gate) endPush(repo repository, moved, cut bool) {
	p := &g.pushes
	p.mu.Lock()
	defer p.mu.Unlock()
	to := p.to[repo.path]
	to.underWay--
	to.moved = to.moved || moved
	to.cut = to.cut || cut
	if to.underWay > 0 {
		return
	}
	if to.cut {
		to.cut = false
		removeQuarantines(repo.path)
	}
	if to.collecting {
		return
	}
	if !to.moved || g.ctx.Err() != nil {
		delete(p.to, repo.path)
		return
	}
	to.moved, to.collecting = false, true
	p.cleaning.Go(func() {
		g.collect(repo)
		p.mu.Lock()
		defer p.mu.Unlock()
		if to.collecting = false; to.underWay == 0 {
			delete(p.to, repo.path)
		}
	})
}

// collect lets git pack what pushes have left in many files, if there is enough of it.
func (g *Gate) collect(repo repository) {
	gc, err := g.start(repo, store.Pass{Grant: store.Grant{Project: repo.project}}, "", "gc", "--auto", "--quiet")
	if err == nil {
		_, err = gc.output(g.ctx)
	}
	if err != nil && g.ctx.Err() == nil {
		slog.Warn("git gc", "project", repo.project, "error", err)
	}
}

// cleanUp removes what pushes left that were under way when an earlier gate was killed.
func (g *Gate) cleanUp() error {
	projects, err := Projects(g.repos)
	if err != nil {
		return err
	}
	for _, project := range projects {
		if repo, err := g.repository(project); err == nil {
			removeQuarantines(repo.path)
		}
	}
	return nil
}

// removeQuarantines removes the folders of pushes that were ended by a signal: git
// keeps what it received in one until its pre-receive hook has agreed. It must know of
// no push: one that somebody makes past the gate, into the folder itself, would fail.
func removeQuarantines(repo string) {
	left, _ := filepath.Glob(filepath.Join(globQuoted(repo), "objects/tmp_objdir-incoming-*"))
	for _, folder := range left {
		if err := os.RemoveAll(folder); err != nil {
			slog.Warn("remove what an unfinished push left", "error", err)
		}
	}
}

// globQuoted quotes a path for a pattern.
func globQuoted(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
