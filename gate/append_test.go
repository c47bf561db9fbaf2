package gate_test

import (
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/trail"
)

func TestATokenThatMayOnlyAddLosesNothing(t *testing.T) {
	const lost, notAllowed = "the token may only add", "the token may push to refs/heads/**, refs/tags/**, refs/notes/**)"
	for _, row := range []struct {
		name string
		push []string
		says string // empty if the push succeeds
	}{
		{"a new branch", []string{"next:refs/heads/new"}, ""},
		{"a new tag", []string{"next:refs/tags/new"}, ""},
		{"a new tag of a tag", []string{"refs/tags/annotated:refs/tags/new"}, ""},
		{"a branch forward", []string{"next:refs/heads/main"}, ""},
		{"a merge of what was there", []string{"merged:refs/heads/side"}, ""},
		{"notes forward", []string{"morenotes:refs/notes/commits"}, ""},
		{"a symbolic branch forward", []string{"next:refs/heads/symbolic"}, ""},
		{"several, all forward", []string{"next:refs/heads/main", "merged:refs/heads/side", "next:refs/heads/new"}, ""},

		{"a branch deleted", []string{":refs/heads/main"}, lost + ": refs/heads/main"},
		{"a tag deleted", []string{":refs/tags/light"}, lost + ": refs/tags/light"},
		{"a symbolic branch deleted", []string{":refs/heads/symbolic"}, lost + ": refs/heads/symbolic"},
		{"a branch back", []string{"+main~1:refs/heads/main"}, lost + ": refs/heads/main"},
		{"a branch to an unrelated commit", []string{"+foreign:refs/heads/main"}, lost + ": refs/heads/main"},
		{"a branch to an amended commit", []string{"+amended:refs/heads/main"}, lost + ": refs/heads/main"},
		{"a tag forward", []string{"+next:refs/tags/light"}, lost + ": refs/tags/light"},
		{"an annotated tag anew", []string{"+refs/tags/again:refs/tags/annotated"}, lost + ": refs/tags/annotated"},
		{"a symbolic branch that stands for a tag, forward", []string{"+next:refs/heads/astag"}, lost + ": refs/heads/astag"},
		{"notes to an unrelated commit", []string{"+foreign:refs/notes/commits"}, lost + ": refs/notes/commits"},
		{"notes that are a tag, to a child of what the tag names", []string{"+next:refs/notes/tag"}, lost + ": refs/notes/tag"},
		{"notes that are a blob", []string{"+next:refs/notes/blob"}, lost + ": refs/notes/blob"},
		{"several, one of which forces", []string{"next:refs/heads/new", "next:refs/heads/main", "+foreign:refs/heads/side"}, lost + ": refs/heads/side"},
		{"several, one of which deletes", []string{"next:refs/heads/main", ":refs/tags/light"}, lost + ": refs/tags/light"},
		{"a ref that no token may push to", []string{"next:refs/replace/" + strings.Repeat("1", 40)}, notAllowed},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := open(t, gate.Settings{})
			demo, work := losable(t, h)
			token := h.containerToken(t, []string{"--access", "append"}, nil)
			git(t, work, "remote", "add", "gate", h.url(token, "demo"))
			before, objects := git(t, demo, "for-each-ref"), git(t, demo, "count-objects", "-v")

			push := append([]string{"push", "gate"}, row.push...)
			if row.says == "" {
				git(t, work, push...)
				h.trailed(t, trail.Moved, len(row.push))
				return
			}
			if says := gitFails(t, work, push...); !strings.Contains(says, row.says) {
				t.Errorf("git says\n%s\nnot %q", says, row.says)
			}
			if after := git(t, demo, "for-each-ref"); after != before {
				t.Errorf("the refs are\n%s\nand were\n%s", after, before)
			}
			if after := git(t, demo, "count-objects", "-v"); after != objects {
				t.Errorf("the repository has\n%s\nand had\n%s", after, objects)
			}
			h.trailed(t, trail.Moving, 0)
			if refused := h.trailed(t, trail.Refused, 1)[0]; refused.Ref == "" || !strings.HasPrefix(refused.Error, "the token may ") {
				t.Errorf("the trail has %+v", refused)
			}
		})
	}
}

// losable makes a project with refs of each kind, and a clone that has all that the tests push.
func losable(t *testing.T, h *harness) (demo, work string) {
	t.Helper()
	demo = h.demo(t, "demo", 3)
	git(t, demo, "symbolic-ref", "HEAD", "refs/heads/other") // git would refuse to delete the branch that HEAD names
	git(t, h.dir, "clone", "--quiet", "--branch", "main", demo, "work")
	work = filepath.Join(h.dir, "work")

	commit := func(branch, from string) {
		git(t, work, "checkout", "--quiet", "-B", branch, from)
		git(t, work, "commit", "--quiet", "--allow-empty", "-m", branch)
	}

	git(t, work, "checkout", "--quiet", "--orphan", "foreign")
	git(t, work, "commit", "--quiet", "--allow-empty", "-m", "foreign")
	commit("side", "main~1")
	commit("morenotes", "main")
	git(t, work, "push", "--quiet", "origin", "side")
	git(t, work, "checkout", "--quiet", "-B", "merged", "side")
	git(t, work, "merge", "--quiet", "-m", "merged", "main")
	commit("amended", "main~1")
	commit("next", "main")

	git(t, work, "tag", "-a", "-m", "tag", "annotated", "main")
	git(t, work, "tag", "-a", "-m", "again", "again", "annotated^{}")
	git(t, work, "push", "--quiet", "origin", "main:refs/tags/light", "annotated", "main:refs/notes/commits",
		"annotated:refs/notes/tag", "foreign:refs/heads/elsewhere")

	blob := feed(t, demo, "text", "hash-object", "-w", "--stdin")
	git(t, demo, "update-ref", "refs/notes/blob", blob)
	git(t, demo, "symbolic-ref", "refs/heads/symbolic", "refs/heads/main")
	git(t, demo, "symbolic-ref", "refs/heads/astag", "refs/tags/light")
	return demo, work
}

// If no pattern of the operator's matches a ref, the token may not add to that ref.
func TestATokenThatMayOnlyAddAddsWherePatternsAllowIt(t *testing.T) {
	h := open(t, gate.Settings{})
	demo, work := losable(t, h)
	token := h.containerToken(t, []string{"--push", "refs/heads/agent/**", "--hashed"}, map[string]string{"terok.access": "append"})
	git(t, work, "remote", "add", "gate", h.url(token, "demo"))

	git(t, work, "push", "gate", "next:refs/heads/agent/one")
	for refs, why := range map[string]string{
		"next:refs/heads/main":           "the token may push to refs/heads/agent/**)",
		"next:refs/tags/new":             "the token may push to refs/heads/agent/**)",
		"+foreign:refs/heads/agent/one":  "the token may only add: refs/heads/agent/one",
		":refs/heads/agent/one":          "the token may only add: refs/heads/agent/one",
		"+next~1:refs/heads/agent/one":   "the token may only add: refs/heads/agent/one",
		"+amended:refs/heads/agent/one":  "the token may only add: refs/heads/agent/one",
		"+refs/tags/again:refs/tags/new": "the token may push to refs/heads/agent/**)",
	} {
		if says := gitFails(t, work, "push", "gate", refs); !strings.Contains(says, why) {
			t.Errorf("%s: git says\n%s", refs, says)
		}
	}
	if is, was := git(t, demo, "rev-parse", "refs/heads/agent/one"), git(t, work, "rev-parse", "next"); is != was {
		t.Errorf("the branch is at %s, not %s", is, was)
	}
}

// A replacement in the repository would give a commit other ancestors.
func TestAReplacementDoesNotMakeAForcedPushAForwardOne(t *testing.T) {
	h := open(t, gate.Settings{})
	demo, work := losable(t, h)
	git(t, demo, "replace", "--graft", "elsewhere", "main")
	token := h.containerToken(t, []string{"--access", "append"}, nil)
	git(t, work, "remote", "add", "gate", h.url(token, "demo"))

	if says := gitFails(t, work, "push", "gate", "+foreign:refs/heads/main"); !strings.Contains(says, "the token may only add: refs/heads/main") {
		t.Errorf("git says\n%s", says)
	}
}

func TestATokenThatMayOnlyAddMovesABoundedNumberOfRefs(t *testing.T) {
	h := open(t, gate.Settings{})
	demo, work := losable(t, h)
	var create, move strings.Builder
	for i := range 101 {
		name := "refs/heads/many/" + strings.Repeat("x", i+1)
		create.WriteString("create " + name + " refs/heads/main\n")
		move.WriteString("next:" + name + "\n")
	}
	feed(t, demo, create.String(), "update-ref", "--stdin")
	token := h.containerToken(t, []string{"--access", "append"}, nil)
	git(t, work, "remote", "add", "gate", h.url(token, "demo"))

	all := strings.Fields(move.String())
	if says := gitFails(t, work, append([]string{"push", "gate"}, all...)...); !strings.Contains(says, "push in parts") {
		t.Errorf("git says\n%s", says)
	}
	git(t, work, append([]string{"push", "gate"}, all[1:]...)...)
	h.trailed(t, trail.Moved, 100)
}
