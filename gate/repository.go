// The folder of bare repositories, and what must be cleaned up in one.

package gate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"terok-gate-hook/store"
)

// repository is a bare repository of the folder.
type repository struct {
	project string
	path    string // no symbolic link in it: git compares it with safe.directory
}

var errNoRepository = errors.New("no repository")

// repository finds a project's.
func (g *Gate) repository(project string) (repository, error) {
	path, err := filepath.EvalSymlinks(filepath.Join(g.repos, project+".git"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = errNoRepository
		}
		return repository{}, err
	}
	return repository{project: project, path: path}, nil
}

// Projects returns the names of the repositories in a folder.
func Projects(repos string) ([]string, error) {
	entries, err := os.ReadDir(repos)
	if err != nil {
		return nil, fmt.Errorf("read the folder of repositories: %w", err)
	}
	var projects []string
	for _, entry := range entries {
		project, isRepository := strings.CutSuffix(entry.Name(), ".git")
		if isRepository && store.CheckName(project) == nil {
			projects = append(projects, project)
		}
	}
	return projects, nil
}

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

func (g *Gate) beginPush(repo repository) {
	p := &g.pushes
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.to[repo.path] == nil {
		p.to[repo.path] = &pushesTo{}
	}
	p.to[repo.path].underWay++
}

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

// movedByNow finds out which of a push's refs have moved, when git cannot tell any more:
// the first of them, and how many.
func (g *Gate) movedByNow(repo repository, asked commands) (moved []move, number int) {
	git, err := g.start(repo, store.Pass{Grant: store.Grant{Project: repo.project}}, "",
		"for-each-ref", "--format=%(objectname) %(refname)")
	var text []byte
	if err == nil {
		text, err = git.output(context.Background())
	}
	if err != nil {
		slog.Warn("find out what a push moved", "project", repo.project, "error", err)
		return nil, 0
	}
	now := map[string]string{} // by ref
	for line := range strings.Lines(string(text)) {
		if object, ref, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok {
			now[ref] = object
		}
	}
	for m := range asked.all() {
		object, there := now[m.ref]
		if there && object == m.new && m.new != m.old || !there && isZero(m.new) && !isZero(m.old) {
			if number++; len(moved) < mostMoves {
				moved = append(moved, m)
			}
		}
	}
	return moved, number
}

// isZero tells whether an object id stands for no object.
func isZero(id string) bool { return strings.Trim(id, "0") == "" }

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

// setUp makes the folder of hooks, links to our own binary, and removes what pushes
// left that were under way when an earlier gate was killed.
func (g *Gate) setUp() error {
	if err := g.makeHooks(); err != nil {
		return fmt.Errorf("make git's hooks: %w", err)
	}
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

// makeHooks puts the links in place, without a moment at which there is none.
func (g *Gate) makeHooks() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(g.hooks, 0o700); err != nil {
		return err
	}
	for _, hook := range hooks {
		link := filepath.Join(g.hooks, hook)
		if err := os.Remove(link + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Symlink(self, link+".new"); err != nil {
			return err
		}
		if err := os.Rename(link+".new", link); err != nil {
			return err
		}
	}
	return g.checkHooks()
}

// checkHooks must succeed before a push: git passes over a hook that is missing or not
// executable, in silence.
func (g *Gate) checkHooks() error {
	for _, hook := range hooks {
		link := filepath.Join(g.hooks, hook)
		if err := unix.Access(link, unix.X_OK); err != nil {
			return fmt.Errorf("hook %s: %w", link, err)
		}
	}
	return nil
}
