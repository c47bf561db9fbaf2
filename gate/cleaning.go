// Packing what pushes leave in a repository, when none is under way there.

package gate

import (
	"context"
	"log/slog"
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
	collecting bool // git gc runs

	moving chan struct{} // held by the one whose refs git moves
}

// beginPush tells that a push is under way, until endPush.
func (g *Gate) beginPush(repo repository) {
	p := &g.pushes
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.to[repo.path] == nil {
		p.to[repo.path] = &pushesTo{moving: make(chan struct{}, 1)}
	}
	p.to[repo.path].underWay++
}

// enter waits until a push that is under way may move refs: one at a time does, in each
// repository. leave lets the next one.
func (p *pushes) enter(ctx context.Context, repo repository) (leave func(), err error) {
	p.mu.Lock()
	moving := p.to[repo.path].moving
	p.mu.Unlock()

	select {
	case moving <- struct{}{}:
		return func() { <-moving }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// endPush says whether the push moved a ref, and lets git pack what pushes have left if no
// other is under way.
func (g *Gate) endPush(repo repository, moved bool) {
	p := &g.pushes
	p.mu.Lock()
	defer p.mu.Unlock()
	to := p.to[repo.path]
	to.underWay--
	to.moved = to.moved || moved
	if to.underWay > 0 || to.collecting {
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
