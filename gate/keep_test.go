package gate_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok-gate-hook/desk"
	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
)

// keptIn returns the tips that a repository keeps: the object, and the ref that it was the tip of.
func keptIn(t *testing.T, repo string) (kept []string) {
	t.Helper()
	for line := range strings.Lines(git(t, repo, "for-each-ref", "--format=%(objectname) %(refname)", "refs/terok/kept") + "\n") {
		id, name, is := strings.Cut(strings.TrimSpace(line), " ")
		if is {
			kept = append(kept, id+" "+strings.SplitN(name, "/", 5)[4])
		}
	}
	return kept
}

func TestWhatAPushDeletesOrForcesIsKept(t *testing.T) {
	for _, row := range []struct {
		name string
		push []string
		kept string // the ref whose old tip is kept
	}{
		{"a new branch", []string{"next:refs/heads/new"}, ""},
		{"a branch forward", []string{"next:refs/heads/main"}, ""},
		{"a branch deleted", []string{":refs/heads/side"}, "refs/heads/side"},
		{"a branch back", []string{"+main~1:refs/heads/main"}, "refs/heads/main"},
		{"a branch to an unrelated commit", []string{"+foreign:refs/heads/main"}, "refs/heads/main"},
		{"a branch forced, whose commits a new branch has", []string{"+foreign:refs/heads/main", "next:refs/heads/new"}, ""},
		{"a tag moved", []string{"+next:refs/tags/light"}, "refs/tags/light"},
		{"an annotated tag moved", []string{"+refs/tags/again:refs/tags/annotated"}, "refs/tags/annotated"},
		{"a symbolic branch forced", []string{"+foreign:refs/heads/symbolic"}, "refs/heads/main"},
		{"several, one of which deletes", []string{"next:refs/heads/main", ":refs/tags/light"}, "refs/tags/light"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := open(t, gate.Settings{})
			demo, work := losable(t, h)
			token := h.issue(t, "demo")
			git(t, work, "remote", "add", "gate", h.url(token, "demo"))
			var want []string
			if row.kept != "" {
				want = []string{git(t, demo, "rev-parse", row.kept) + " " + row.kept}
			}

			git(t, work, append([]string{"push", "--quiet", "gate"}, row.push...)...)
			if got := keptIn(t, demo); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("kept: %q, want %q", got, want)
			}
			if seen := git(t, work, "ls-remote", "gate"); strings.Contains(seen, "refs/terok") {
				t.Errorf("a client sees\n%s", seen)
			}
		})
	}
}

func TestNothingIsKeptForAPushThatFails(t *testing.T) {
	h := open(t, gate.Settings{Trail: func(events ...trail.Event) error {
		if events[0].Event == trail.Moving {
			return errors.New("the trail is full")
		}
		return nil
	}})
	demo, work := losable(t, h)
	token := h.issue(t, "demo")
	git(t, work, "remote", "add", "gate", h.url(token, "demo"))
	git(t, work, "push", "--quiet", "origin", "foreign:refs/heads/c")

	// git itself refuses c/d, and so the whole push: there is a branch c.
	if says := gitFails(t, work, "push", "gate", ":refs/heads/side", "next:refs/heads/c/d"); !strings.Contains(says, "refs/heads/c") {
		t.Errorf("git says\n%s", says)
	}
	if got := keptIn(t, demo); len(got) > 0 {
		t.Errorf("kept: %q", got)
	}

	// Here the gate has kept the old tip before the trail refuses the push.
	gitFails(t, work, "push", "gate", "+foreign:refs/heads/main")
	if got := keptIn(t, demo); len(got) > 0 {
		t.Errorf("kept although the trail refuses the push: %q", got)
	}
}

func TestATaskKeepsNoMoreThanItsShare(t *testing.T) {
	h := open(t, gate.Settings{})
	demo, work := losable(t, h)
	token := h.issue(t, "demo")
	git(t, work, "remote", "add", "gate", h.url(token, "demo"))
	tip := git(t, demo, "rev-parse", "side")
	var create strings.Builder
	for i := range 1002 {
		fmt.Fprintf(&create, "create refs/heads/many/%d %s\n", i, tip)
	}
	feed(t, demo, create.String(), "update-ref", "--stdin")
	deletions := func(from, to int) []string {
		push := []string{"push", "--quiet", "gate"}
		for i := from; i < to; i++ {
			push = append(push, fmt.Sprintf(":refs/heads/many/%d", i))
		}
		return push
	}

	if says := gitFails(t, work, deletions(0, 1001)...); !strings.Contains(says, "this push would exceed that") {
		t.Errorf("git says\n%s", says)
	}
	git(t, work, deletions(0, 1000)...)
	if says := gitFails(t, work, deletions(1000, 1001)...); !strings.Contains(says, "this push would exceed that") {
		t.Errorf("git says\n%s", says)
	}
	if got := len(keptIn(t, demo)); got != 1000 {
		t.Errorf("%d are kept", got)
	}
	git(t, work, "push", "--quiet", "gate", "next:refs/heads/main") // a push that loses nothing still succeeds
	testenv.Eventually(t, "the refs are packed", func() bool {
		loose, err := filepath.Glob(filepath.Join(demo, "refs/terok/kept/*"))
		return err == nil && len(loose) == 0
	})

	// Another task has its own share.
	other, err := h.tokens.CreateToken("demo", "task-2")
	must(t, err)
	git(t, work, "remote", "set-url", "gate", h.url(string(other), "demo"))
	git(t, work, deletions(1000, 1001)...)
}

func TestTheGateLetsGoOfWhatWasKeptForLongEnough(t *testing.T) {
	h := open(t, gate.Settings{})
	demo, _ := losable(t, h)
	old := desk.NewKept("refs/heads/old", time.Now().Add(-time.Hour), 0)
	young := desk.NewKept("refs/heads/young", time.Now(), 0)
	other := "refs/terok/kept/no-time/refs/heads/other"
	for _, name := range []string{old, young, other} {
		git(t, demo, "update-ref", name, "refs/heads/main")
	}

	h.again(t, gate.Settings{Keep: 30 * time.Minute})
	testenv.Eventually(t, "what is old goes", func() bool {
		return !strings.Contains(git(t, demo, "for-each-ref", "refs/terok/kept"), old)
	})
	for _, name := range []string{young, other, "refs/heads/main"} {
		git(t, demo, "rev-parse", "--verify", "--quiet", name)
	}
}

// Guards against: a push forces a branch away, but pushes a tag object with the branch's commits to
// a ref that is not a tag. When that ref moves on, the commits are lost.
func TestWhatATagObjectTookOverIsKept(t *testing.T) {
	h := open(t, gate.Settings{})
	demo, work := losable(t, h)
	git(t, work, "remote", "add", "gate", h.url(h.issue(t, "demo"), "demo"))
	for _, tag := range []string{"next", "foreign"} {
		git(t, work, "tag", "--annotate", "--message", tag, "of-"+tag, tag)
	}
	git(t, work, "push", "--quiet", "gate", "next:refs/heads/main")
	git(t, work, "push", "--quiet", "gate", "+foreign:refs/heads/main", "refs/tags/of-next:refs/notes/x")
	git(t, work, "push", "--quiet", "gate", "+refs/tags/of-foreign:refs/notes/x")
	if from := git(t, demo, "for-each-ref", "--contains", git(t, work, "rev-parse", "next")); from == "" {
		t.Error("no ref has what the branch had")
	}
}

// Guards against: a push is cut after git has moved the refs, and a sync moves them on before the
// gate looks at them. Then the gate does not keep their old tips.
func TestAnOldTipIsKeptThoughThePushIsCutAndTheRefMovesOn(t *testing.T) {
	h := open(t, gate.Settings{})
	demo, work := losable(t, h)
	git(t, work, "push", "--quiet", "origin", "next:refs/heads/main")
	git(t, work, "remote", "add", "gate", h.url(h.issue(t, "demo"), "demo"))
	next := git(t, work, "rev-parse", "next")

	waitOnceMoved(t, h)

	cutShort(t, h, command(work, "push", "gate", "+foreign:refs/heads/main"), func() bool {
		return git(t, demo, "rev-parse", "main") == git(t, demo, "rev-parse", "elsewhere")
	}, func() {
		git(t, demo, "update-ref", "refs/heads/main", "refs/heads/side")
		h.revoke(t, "demo")
	})
	h.trailed(t, trail.Cut, 1)
	if from := git(t, demo, "for-each-ref", "--contains", next); from == "" {
		t.Error("no ref has what the branch had")
	}
}

// Guards against: after a few tasks have deleted refs with long names, the gate never again lets go
// of what it keeps.
func TestTheGateLetsGoOfManyLongNames(t *testing.T) {
	h := open(t, gate.Settings{})
	demo, _ := losable(t, h)
	tip := git(t, demo, "rev-parse", "main")
	git(t, demo, "pack-refs", "--all")
	packed, err := os.ReadFile(filepath.Join(demo, "packed-refs"))
	must(t, err)
	directories := strings.Repeat(strings.Repeat("d", 199)+"/", 19)
	for i := range 5000 {
		name := desk.NewKept(fmt.Sprintf("refs/tags/%s%06d", directories, i), time.Now().Add(-time.Hour), i)
		packed = fmt.Appendf(packed, "%s %s\n", tip, name)
	}
	must(t, os.WriteFile(filepath.Join(demo, "packed-refs"), bytes.Replace(packed, []byte("sorted "), nil, 1), 0o644))

	h.again(t, gate.Settings{Keep: 30 * time.Minute})
	testenv.Eventually(t, "what is old goes", func() bool {
		return git(t, demo, "for-each-ref", "refs/terok/kept") == ""
	})
}

// A push waits for every process of git that the gate starts for it.
func TestAPushThatAddsAFewCommitsAsksGitForNoHistory(t *testing.T) {
	h, runs := openOver(t, "")
	demo, work := losable(t, h)
	git(t, work, "remote", "add", "gate", h.url(h.issue(t, "demo"), "demo"))
	for _, row := range []struct {
		what  string
		push  []string
		asks  bool
		setUp func()
	}{
		{what: "a new branch", push: []string{"next:refs/heads/new"}},
		{what: "forward", push: []string{"next:refs/heads/main"}},
		{what: "forward to a merge", push: []string{"merged:refs/heads/main"}, setUp: func() {
			git(t, work, "checkout", "--quiet", "-B", "merged", "foreign")
			git(t, work, "merge", "--quiet", "--allow-unrelated-histories", "-s", "ours", "-m", "merge", "next")
		}},
		{what: "back", push: []string{"+next:refs/heads/main"}, asks: true},
		{what: "forward where histories may be cut by grafts", push: []string{"merged:refs/heads/main"}, asks: true, setUp: func() {
			must(t, os.WriteFile(filepath.Join(demo, "info/grafts"), nil, 0o600))
		}},
	} {
		if row.setUp != nil {
			row.setUp()
		}
		_ = os.Remove(runs)
		kept := len(keptIn(t, demo))
		git(t, work, append([]string{"push", "--quiet", "gate"}, row.push...)...)
		text, err := os.ReadFile(runs)
		must(t, err)
		if asks := strings.Contains(string(text), "rev-list"); asks != row.asks {
			t.Errorf("%s: it starts %q", row.what, text)
		}
		if row.what != "back" && len(keptIn(t, demo)) != kept {
			t.Errorf("%s: something is kept", row.what)
		}
	}
}
