// Cleaning up what pushes leave in a repository: unfinished ones at the gate's start, the
// others when none is under way there.

package gate

import (
	"context"
	"log/slog"
	"sync"

	"terok-gate-hook/store"
)

// cleaner cleans up what pushes leave in a repository, when the last of those under way
// there has ended.
type cleaner struct {
	git *runner
	ctx context.Context // ends the cleaning

	mu       sync.Mutex
	to       map[string]*pushesTo // pushes under way, by the path of their repository
	cleaning sync.WaitGroup
}

func newCleaner(ctx context.Context, git *runner) *cleaner {
	return &cleaner{git: git, ctx: ctx, to: map[string]*pushesTo{}}
}

// cleanUp removes what pushes left that were under way when an earlier gate was killed, or
// the machine.
func cleanUp(repos string) error {
	projects, err := Projects(repos)
	if err != nil {
		return err
	}
	for _, project := range projects {
		if repo, err := findRepository(repos, project); err == nil {
			repo.removeAbandoned()
		}
	}
	return nil
}

type pushesTo struct {
	underWay   int
	moved      bool // a ref, by one of them
	collecting bool // git gc runs

	moving chan struct{} // held by the one whose refs git moves
}

// begin tells that a push is under way, until end.
func (c *cleaner) begin(repo repository) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.to[repo.path] == nil {
		c.to[repo.path] = &pushesTo{moving: make(chan struct{}, 1)}
	}
	c.to[repo.path].underWay++
}

// enter waits until a push that is under way may move refs: one at a time does, in each
// repository. leave lets the next one.
func (c *cleaner) enter(ctx context.Context, repo repository) (leave func(), err error) {
	c.mu.Lock()
	moving := c.to[repo.path].moving
	c.mu.Unlock()

	select {
	case moving <- struct{}{}:
		return func() { <-moving }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// end says whether the push moved a ref, and lets git pack what pushes have left if no
// other is under way.
func (c *cleaner) end(repo repository, moved bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	to := c.to[repo.path]
	to.underWay--
	to.moved = to.moved || moved

	if to.underWay > 0 || to.collecting {
		return
	}
	if !to.moved || c.ctx.Err() != nil {
		delete(c.to, repo.path)
		return
	}

	to.moved, to.collecting = false, true
	c.cleaning.Go(func() {
		c.collect(repo)
		c.mu.Lock()
		defer c.mu.Unlock()
		if to.collecting = false; to.underWay == 0 {
			delete(c.to, repo.path)
		}
	})
}

// collect lets git pack what pushes have left in many files, if there is enough of it.
func (c *cleaner) collect(repo repository) {
	gc, err := c.git.start(repo, store.Pass{Grant: store.Grant{Project: repo.project}}, "", "gc", "--auto", "--quiet")
	if err == nil {
		_, err = gc.output(c.ctx)
	}
	if err != nil && c.ctx.Err() == nil {
		slog.Warn("git gc", "project", repo.project, "error", err)
	}
}

// wait waits until nothing is cleaned up any more.
func (c *cleaner) wait() { c.cleaning.Wait() }
