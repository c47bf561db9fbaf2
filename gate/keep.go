// Keeps for a while the old tips of refs that a push deletes or forces: below refs/terok/kept,
// which clients do not see. A tip is kept before the ref moves, and dropped if it does not move.
//
// The gate starts another git to make these refs, while the push's transaction holds its locks: no
// ref can be made from within git's quarantine. The refs are hidden, but their objects are not
// secret: with protocol 2, git serves any object to a client that knows its id.

package gate

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"terok-gate-hook/desk"
)

const (
	mostKept    = 1000 // old tips of a task, since the gate was started
	packKept    = 256  // old tips, after which the refs of a repository are packed
	expireEvery = time.Hour
)

var (
	tooManyKept = &refusal{code: http.StatusForbidden, text: fmt.Sprintf("the task has deleted or forced %d refs: it may delete and force no more", mostKept)}
	cannotKeep  = &refusal{code: http.StatusInsufficientStorage, text: "the gate cannot keep what the push deletes or forces"}
)

// keptTip is an old tip that is kept for a push.
type keptTip struct{ name, object, ref string }

// keeping counts kept tips.
type keeping struct {
	expireAfter time.Duration

	mu      sync.Mutex
	ofTask  map[[3]string]int // by host, project and task
	loose   map[string]int    // kept refs since a repository's refs were last packed, by its path
	written int
}

func newKeeping(expireAfter time.Duration) *keeping {
	return &keeping{expireAfter: expireAfter, ofTask: map[[3]string]int{}, loose: map[string]int{}}
}

// admit adds more, which may be negative, to the number of a task's kept tips. If there would be
// too many, it adds nothing and returns false.
func (k *keeping) admit(who caller, more int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	task := [3]string{who.Host, who.Project, who.Task}
	if more > 0 && k.ofTask[task]+more > mostKept {
		return false
	}
	k.ofTask[task] += more
	return true
}

// number returns a number that no other kept ref of this gate has.
func (k *keeping) number() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.written++
	return k.written
}

// packs counts more kept refs in a repository, and reports whether it is time to pack its refs.
func (k *keeping) packs(repo repository, more int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.loose[repo.path] += more; k.loose[repo.path] < packKept {
		return false
	}
	delete(k.loose, repo.path)
	return true
}

// keep keeps the old tips that would be lost by these moves. An append-only token cannot lose any.
func (t *transaction) keep(refs moves) error {
	if t.may.AppendOnly {
		return nil
	}
	lost, err := t.lostBy(refs)
	if err != nil || len(lost) == 0 {
		return t.notKept(err)
	}
	if !t.gate.kept.admit(t.who, len(lost)) {
		t.refused = tooManyKept
		return tooManyKept
	}

	now := time.Now()
	var commands strings.Builder
	for _, m := range lost {
		tip := keptTip{name: desk.NewKept(m.ref, now, t.gate.kept.number()), object: m.old, ref: m.ref}
		t.kept = append(t.kept, tip)
		commands.WriteString(desk.RefCommand(tip.name, "", tip.object))
	}
	if err := t.gate.updateRefs(t.ctx, t.repo, commands.String()); err != nil {
		t.gate.kept.admit(t.who, -len(lost))
		t.kept = nil
		return t.notKept(err)
	}
	return nil
}

// notKept returns the refusal of a push whose old tips cannot be kept.
func (t *transaction) notKept(err error) error {
	switch {
	case err == nil:
		return nil
	case t.ctx.Err() != nil:
		return t.cut()
	}
	slog.Error("keep what a push deletes or forces", "project", t.repo.project, "error", err)
	t.refused = cannotKeep
	return cannotKeep
}

// lostBy returns the moves that leave an old tip behind:
//
//   - every deletion of a ref, and every move of a tag;
//   - a move of a branch, if no new tip has the old one in its history;
//   - a move of any other ref, if no new tip has the old one in its history, or if the old tip is
//     not a commit: a tag object may be the last thing that led to some commits.
//
// git is not started for a push that only creates refs, or adds a few commits to a branch.
func (t *transaction) lostBy(refs moves) (lost []move, err error) {
	var asked, others strings.Builder
	perhaps, budget := 0, 0
	if t.repo.hasWholeHistories() {
		budget = mostRead
	}
	for m := range refs.all() {
		if !isZero(m.new) {
			fmt.Fprintf(&asked, "^%s\n", m.new)
		}
		if isZero(m.old) || m.old == m.new {
			continue
		}
		if loses(m, m.ref) {
			lost = append(lost, m)
			continue
		}
		if t.repo.isForward(m.old, m.new, &budget) {
			continue
		}
		if !strings.HasPrefix(m.ref, "refs/heads/") {
			fmt.Fprintln(&others, m.old)
		}
		fmt.Fprintf(&asked, "%s\n", m.old)
		perhaps++
	}
	if perhaps == 0 {
		return lost, nil
	}

	left, err := t.gate.leftBehind(t.ctx, t.repo, asked.String())
	if err == nil && others.Len() > 0 {
		err = t.gate.addNonCommits(t.ctx, t.repo, others.String(), left)
	}
	if err != nil {
		return nil, err
	}
	for m := range refs.all() {
		if left[m.old] && !isZero(m.old) && m.old != m.new && !loses(m, m.ref) {
			lost = append(lost, m)
		}
	}
	return lost, nil
}

// addNonCommits adds to a set those of the objects that are not commits.
func (g *Gate) addNonCommits(ctx context.Context, repo repository, objects string, to map[string]bool) error {
	git := g.commandWith(repo, "", "cat-file", "--batch-check=%(objecttype) %(objectname)")
	return g.answers(ctx, git, objects, func(line string) {
		if kind, id, _ := strings.Cut(line, " "); kind != "commit" {
			to[id] = true
		}
	})
}

// leftBehind reads a commit from each line of asked, and returns the commits that are not in the
// history of any of those marked with a ^. It starts one git for all.
func (g *Gate) leftBehind(ctx context.Context, repo repository, asked string) (left map[string]bool, err error) {
	left = map[string]bool{}
	wanted := map[string]bool{}
	for line := range strings.Lines(asked) {
		wanted[strings.TrimSuffix(line, "\n")] = true
	}
	err = g.answers(ctx, g.commandWith(repo, "", "rev-list", "--stdin"), asked, func(line string) {
		if wanted[line] {
			left[line] = true
		}
	})
	return left, err
}

// answers starts git, writes the questions to it, and calls line with each line that it prints.
func (g *Gate) answers(ctx context.Context, git *command, asked string, line func(string)) (err error) {
	if git.in, err = git.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := git.start(g.git.starter, g.git.memory); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, git.cut)()
	go func() {
		defer git.closeIn()
		_, _ = io.WriteString(git.in, asked) // if git ends early, it says so
	}()
	err = git.lines(line)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// takeBack drops the old tips that were kept for refs that have stayed where they were.
func (t *transaction) takeBack(stayed func(ref string) bool) {
	var commands strings.Builder
	back := 0
	for _, tip := range t.kept {
		if stayed(tip.ref) {
			commands.WriteString(desk.RefCommand(tip.name, tip.object, ""))
			back++
		}
	}
	if back > 0 {
		t.gate.kept.admit(t.who, -back)
		if err := t.gate.updateRefs(context.Background(), t.repo, commands.String()); err != nil {
			slog.Warn("drop what was kept for refs that did not move", "project", t.repo.project, "error", err)
		}
	}
	t.kept = nil
}

// packKept packs the refs of the repository if many tips were kept there since they were last packed.
func (t *transaction) packKept() {
	if t.gate.kept.packs(t.repo, len(t.kept)) {
		t.gate.cleaner.cleaning.Go(func() { _ = t.gate.ask(t.repo, "pack-refs", "--all") })
	}
}

// keeps reports whether there could be kept tips in the repository, without starting git.
func (repo repository) keeps() bool {
	if _, err := os.Lstat(filepath.Join(repo.path, "refs/terok/kept")); err == nil {
		return true
	}
	packed, _ := os.ReadFile(filepath.Join(repo.path, "packed-refs"))
	return bytes.Contains(packed, []byte(" refs/terok/kept/"))
}

// updateRefs runs commands of git update-ref, all or none.
func (g *Gate) updateRefs(ctx context.Context, repo repository, commands string) error {
	git, err := g.git.startReading(repo, itself(repo), "", nil,
		"update-ref", "--no-deref", "-z", "--stdin")
	if err != nil {
		return err
	}
	go func() {
		defer git.closeIn()
		in := bufio.NewWriter(git.in)
		_, _ = in.WriteString(commands)
		_ = in.Flush() // if git ends early, it says so
	}()
	_, err = git.output(ctx)
	return err
}

// expireKept drops old kept tips in all repositories, again and again until the gate stops. It also
// packs the repositories' objects: the gate otherwise does that only after pushes, and some
// repositories get objects only by syncs.
func (g *Gate) expireKept() {
	again := time.NewTicker(expireEvery)
	defer again.Stop()
	for {
		projects, err := Projects(g.repos)
		if err != nil {
			slog.Warn("drop what was kept", "error", err)
		}
		for _, project := range projects {
			if err := g.expireKeptOf(project, time.Now().Add(-g.kept.expireAfter)); err != nil && g.ctx.Err() == nil {
				slog.Warn("drop what was kept", "project", project, "error", err)
			}
			if repo, err := findRepository(g.repos, project); err == nil {
				g.cleaner.collectIfIdle(repo)
			}
		}
		select {
		case <-again.C:
		case <-g.ctx.Done():
			return
		}
	}
}

// expireKeptOf drops the tips of a project that have been kept since before the cutoff.
func (g *Gate) expireKeptOf(project string, cutoff time.Time) error {
	repo, err := findRepository(g.repos, project)
	if err != nil || !repo.keeps() {
		return err
	}
	git, err := g.git.start(repo, itself(repo), "",
		"for-each-ref", "--format=%(objectname) %(refname)", "refs/terok/kept/")
	if err != nil {
		return err
	}
	defer context.AfterFunc(g.ctx, git.cut)()
	var commands strings.Builder
	err = git.lines(func(line string) { // not git.output, which is limited: there may be many refs
		for _, k := range desk.ParseKept(line) {
			if k.Time.Before(cutoff) {
				commands.WriteString(desk.RefCommand(k.Name, k.Commit, ""))
			}
		}
	})
	if err != nil || commands.Len() == 0 {
		return err
	}
	return g.updateRefs(g.ctx, repo, commands.String())
}
