// Keeps the old tips of refs that a push deletes or forces, for a while, by refs below
// refs/terok/kept. Clients do not see these refs. A tip is kept before its ref moves, and dropped
// if the ref does not move.
//
// The gate starts another git to make the kept refs, since no ref can be made from within git's
// quarantine. It does so while the push's transaction holds its locks. The kept refs are hidden,
// but their objects are not secret: with protocol 2, git serves any object to a client that knows
// the object's id.

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
	mostKept    = 1000 // how many old tips of a task one run of the gate keeps at most
	packKept    = 256  // after how many kept tips a repository's refs are packed
	expireEvery = time.Hour
)

var (
	tooManyKept = &refusal{code: http.StatusForbidden, text: fmt.Sprintf("a task may delete or force at most %d refs, and this push would exceed that", mostKept)}
	cannotKeep  = &refusal{code: http.StatusInsufficientStorage, text: "the gate cannot keep what the push deletes or forces"}
)

// keptTip is an old tip that is kept for a push: name is the kept ref, and ref is the ref that the
// push moves.
type keptTip struct{ name, object, ref string }

// keeping counts kept tips.
type keeping struct {
	expireAfter time.Duration

	mu      sync.Mutex
	ofTask  map[[3]string]int // by host, project and task
	loose   map[string]int    // kept refs that are not packed yet, by the repository's path
	written int
}

func newKeeping(expireAfter time.Duration) *keeping {
	return &keeping{expireAfter: expireAfter, ofTask: map[[3]string]int{}, loose: map[string]int{}}
}

// admit adds number, which may be negative, to the count of a task's kept tips. If there would be
// too many, it adds nothing and returns false.
func (k *keeping) admit(who caller, number int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	task := [3]string{who.Host, who.Project, who.Task}
	if number > 0 && k.ofTask[task]+number > mostKept {
		return false
	}
	k.ofTask[task] += number
	return true
}

// number returns a number that no other kept ref of this gate has.
func (k *keeping) number() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.written++
	return k.written
}

// packs adds number to the count of a repository's kept refs that are not packed. It reports
// whether it is time to pack the repository's refs. If so, packs begins to count anew.
func (k *keeping) packs(repo repository, number int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.loose[repo.path] += number; k.loose[repo.path] < packKept {
		return false
	}
	delete(k.loose, repo.path)
	return true
}

// keep keeps the old tips that these moves would lose. With an append-only token, no move loses a
// tip.
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

// notKept returns the refusal of a push whose old tips cannot be kept because of err, or nil if err
// is nil.
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

// lostBy returns the moves that lose an old tip:
//
//   - every deletion of a ref, and every move of a tag;
//   - a move of a branch, if no new tip has the old tip in its history;
//   - a move of any other ref, if no new tip has the old tip in its history, or if the old tip is
//     not a commit: a tag object may have been the last thing that led to some commits.
//
// lostBy does not start git for a push that only creates refs, or adds a few commits to a branch.
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

// addNonCommits adds to the set those objects that are not commits.
func (g *Gate) addNonCommits(ctx context.Context, repo repository, objects string, set map[string]bool) error {
	git := g.commandWith(repo, "", "cat-file", "--batch-check=%(objecttype) %(objectname)")
	return g.answers(ctx, git, objects, func(line string) {
		if kind, id, _ := strings.Cut(line, " "); kind != "commit" {
			set[id] = true
		}
	})
}

// leftBehind takes lines with a commit each; some commits are marked with a ^. It returns the
// unmarked commits that are in no marked commit's history. It starts git once.
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

// answers starts git, writes asked to its input, and calls line with each line that git prints.
func (g *Gate) answers(ctx context.Context, git *command, asked string, line func(string)) (err error) {
	git.reads = true
	if err := git.start(g.git.starter, g.git.memory); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, git.cut)()
	go func() {
		defer git.closeIn()
		_, _ = io.WriteString(git.in, asked) // git.lines returns an error if git ends early
	}()
	err = git.lines(line)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// takeBack drops the tips that were kept for refs that did not move. stayed reports whether a ref
// did not move.
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

// packKept packs the repository's refs if many of the kept refs are not packed yet.
func (t *transaction) packKept() {
	if t.gate.kept.packs(t.repo, len(t.kept)) {
		t.gate.cleaner.cleaning.Go(func() { _ = t.gate.ask(t.repo, "pack-refs", "--all") })
	}
}

// keeps reports, without starting git, whether the repository may have kept tips.
func (repo repository) keeps() bool {
	if _, err := os.Lstat(filepath.Join(repo.path, "refs/terok/kept")); err == nil {
		return true
	}
	packed, _ := os.ReadFile(filepath.Join(repo.path, "packed-refs"))
	return bytes.Contains(packed, []byte(" refs/terok/kept/"))
}

// updateRefs runs commands of git update-ref in one transaction.
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
		_ = in.Flush() // git.output returns an error if git ends early
	}()
	_, err = git.output(ctx)
	return err
}

// expireKept drops the expired tips in all repositories, once an hour until the gate stops. It also
// has git pack the repositories' objects. Otherwise the gate does so only after pushes, and some
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

// expireKeptOf drops the tips of a project that were kept before the cutoff.
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
	err = git.lines(func(line string) { // there may be more refs than git.output reads
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
