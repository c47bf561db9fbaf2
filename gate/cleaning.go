// Cleans up after pushes. When the gate starts, it removes what unfinished pushes left. When the
// last push to a repository has ended, it has git pack the repository's objects.

package gate

import (
	"context"
	"log/slog"
	"sync"
)

// cleaner knows the pushes under way, and has git pack a repository's objects when the last push to
// it has ended.
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

// cleanUp removes what is left of pushes that were under way when an earlier gate was killed or the
// machine crashed.
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
	moved      bool // one of them has moved a ref
	collecting bool // git gc runs

	moving chan struct{} // held by the push whose refs git is moving
}

// begin records that a push is under way, until end is called.
func (c *cleaner) begin(repo repository) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.to[repo.path] == nil {
		c.to[repo.path] = &pushesTo{moving: make(chan struct{}, 1)}
	}
	c.to[repo.path].underWay++
}

// enter waits until a push may move refs. In each repository, only one push at a time moves refs.
// leave lets the next push move its refs.
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

// end records that a push has ended, and whether it moved a ref. When no other push to the
// repository is under way, and the push or one that ended before it has moved a ref, git packs the
// repository's objects. If git is already packing them, end does not start it again.
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

// collectIfIdle packs the objects of a repository to which no push is under way.
func (c *cleaner) collectIfIdle(repo repository) {
	c.mu.Lock()
	idle := c.to[repo.path] == nil
	c.mu.Unlock()
	if idle && c.ctx.Err() == nil {
		c.collect(repo)
	}
}

// collect runs git gc --auto, which packs loose objects if there are enough of them.
func (c *cleaner) collect(repo repository) {
	gc, err := c.git.start(repo, itself(repo), "", "gc", "--auto", "--quiet")
	if err == nil {
		_, err = gc.output(c.ctx)
	}
	if err != nil && c.ctx.Err() == nil {
		slog.Warn("git gc", "project", repo.project, "error", err)
	}
}

// wait waits until all cleaning has ended.
func (c *cleaner) wait() { c.cleaning.Wait() }
