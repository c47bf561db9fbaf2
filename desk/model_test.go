package desk

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"terok-gate-hook/internal/testenv"
)

// family lists the commits of the model, with their parents. Upstream and containers use the same commits.
var family = []struct{ name, parent string }{
	{"a", ""}, {"b", "a"}, {"c", "b"}, {"d", "c"}, {"x", "a"}, {"y", "b"}, {"z", "x"},
}

// descends reports whether the first commit is the second one, or has it in its history.
func descends(of, from string) bool {
	for of != "" && of != from {
		i := slices.IndexFunc(family, func(f struct{ name, parent string }) bool { return f.name == of })
		of = family[i].parent
	}
	return of != ""
}

// model has the expected state of the repositories: commits by ref; "" means that there is no ref.
type model struct {
	*world
	forge, gate, last map[string]string
	reached           map[string]bool // commits that have been the gate's
	lost              map[string]bool // those that a release has taken away from upstream
}

var modelRefs = []string{"refs/heads/main", "refs/heads/topic", "refs/tags/v1"}

// sync is what a sync does with one ref.
func (m *model) sync(ref string, reset bool) {
	o, l, g := m.forge[ref], m.last[ref], m.gate[ref]
	takes := false
	switch {
	case reset:
		takes = true
	case o == g, g == "", g == l:
		takes = true
	case l == "" && o != "":
		takes = descends(o, g)
	}
	if takes {
		m.gate[ref], m.last[ref] = o, o
	}
}

// check compares the repositories with the model.
func (m *model) check() {
	m.Helper()
	for _, ref := range modelRefs {
		if got := m.at(m.world.gate, ref); got != m.gate[ref] {
			m.Errorf("the gate's %s is %q, want %q", ref, got, m.gate[ref])
		}
		if got := m.at(m.world.forge, ref); got != m.forge[ref] {
			m.Errorf("upstream's %s is %q, want %q", ref, got, m.forge[ref])
		}
		if m.gate[ref] != "" {
			m.reached[m.gate[ref]] = true
		}
	}
	m.nothingLost()
}

func (m *model) nothingLost() {
	m.Helper()
	there := m.git("--git-dir", m.world.gate, "rev-list", "--all")
	for name := range m.reached {
		if !strings.Contains(there, m.id(name)) {
			m.Errorf("the gate has lost %s", name)
		}
	}
	if len(m.lost) == 0 {
		return
	}
	there = m.git("--git-dir", filepath.Join(m.desks, "demo.git"), "rev-list", "--all")
	for name := range m.lost {
		if !strings.Contains(there, m.id(name)) {
			m.Errorf("the desk has lost %s, which upstream had", name)
		}
	}
}

func TestNoOrderOfEventsLosesACommit(t *testing.T) {
	first := newWorld(t)
	for _, f := range family {
		if f.parent == "" {
			first.commit(f.name)
		} else {
			first.commit(f.name, f.parent)
		}
	}
	standIn := gitThatKills(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		dir := filepath.Join(filepath.Dir(first.work), fmt.Sprint(n))
		w := *first
		w.TB = both{TB: t, rapid: rt}
		w.forge, w.gate, w.desks = filepath.Join(dir, "forge.git"), filepath.Join(dir, "gate.git"), filepath.Join(dir, "desks")
		w.git("init", "--quiet", "--bare", "--initial-branch=main", "--template=", w.forge)
		w.git("init", "--quiet", "--bare", "--initial-branch=main", "--template=", w.gate)
		m := &model{
			world: &w, forge: map[string]string{}, gate: map[string]string{}, last: map[string]string{},
			reached: map[string]bool{}, lost: map[string]bool{},
		}

		ref := func(rt *rapid.T) string { return rapid.SampledFrom(modelRefs).Draw(rt, "ref") }
		commit := func(rt *rapid.T) string {
			return rapid.SampledFrom([]string{"", "a", "b", "c", "d", "x", "y", "z"}).Draw(rt, "commit")
		}
		syncs := func(rt *rapid.T, reset ...string) {
			w.sync(reset...)
			for _, ref := range modelRefs {
				m.sync(ref, slices.Contains(reset, ref))
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"upstream moves": func(rt *rapid.T) {
				ref, to := ref(rt), commit(rt)
				w.set(w.forge, ref, to)
				m.forge[ref] = to
			},
			"a container pushes": func(rt *rapid.T) {
				ref, to := ref(rt), commit(rt)
				m.containerPushes(ref, to)
			},
			"sync": func(rt *rapid.T) { syncs(rt) },
			"sync is killed": func(rt *rapid.T) {
				m.killedSync(standIn, rapid.IntRange(1, 22).Draw(rt, "after so many processes"))
				syncs(rt)
			},
			"reset": func(rt *rapid.T) {
				ref := ref(rt)
				if m.forge[ref] != "" || m.gate[ref] != "" {
					syncs(rt, ref)
				}
			},
			"the desk is gone": func(rt *rapid.T) {
				if err := Remove(w.desks, "demo"); err != nil {
					rt.Fatal(err)
				}
				clear(m.last)
				clear(m.lost)
			},
			"release": func(rt *rapid.T) {
				m.release(rt, rapid.SampledFrom(modelRefs[:2]).Draw(rt, "ref"), rapid.Bool().Draw(rt, "force"))
			},
			"restore": func(rt *rapid.T) {
				ref := ref(rt)
				kept := w.kept(ref)
				if len(kept) == 0 {
					return
				}
				if _, err := w.settings().Gate.Restore(t.Context(), ref); err != nil {
					rt.Fatal(err)
				}
				m.gate[ref] = kept[0]
			},
			"": func(*rapid.T) { m.check() },
		})
	})
}

// containerPushes is a container's push, force or delete. The gate keeps the old tip.
func (m *model) containerPushes(ref, to string) {
	old := m.gate[ref]
	if old == to {
		return
	}
	if old != "" && !descends(to, old) {
		kept := NewKept(ref, time.Now(), 0)
		m.git("--git-dir", m.world.gate, "update-ref", kept, m.id(old))
	}
	m.set(m.world.gate, ref, to)
	m.gate[ref] = to
}

func (m *model) release(rt *rapid.T, ref string, force bool) {
	if m.gate[ref] == "" {
		return
	}
	offer := m.offer(ref, ref)
	if offer.Commit != m.id(m.gate[ref]) {
		rt.Fatalf("offered %s", m.name(offer.Commit))
	}
	var want error
	old := m.forge[ref]
	takes := old != "" && !descends(m.gate[ref], old)
	switch {
	case old == m.gate[ref]:
		want = ErrNothing
	case takes && !force:
		want = ErrBehind
	default:
		if takes {
			m.lost[old] = true
		}
		m.forge[ref], m.last[ref] = m.gate[ref], m.gate[ref]
	}
	if err := offer.Release(m.Context(), force, m.Output()); !errors.Is(err, want) {
		rt.Fatalf("release: %v, want %v", err, want)
	}
}

// killedSync syncs in a process that is killed when it starts git for the nth time. Then each ref must have
// its old value or the intended new one.
func (m *model) killedSync(standIn string, n int) {
	m.Helper()
	m.killedAt(standIn, n, killed{Settings: m.settings(), Do: "sync"})

	m.nothingLost()
	after := model{forge: m.forge, gate: map[string]string{}, last: map[string]string{}}
	for _, ref := range modelRefs {
		after.gate[ref], after.last[ref] = m.gate[ref], m.last[ref]
		after.sync(ref, false)
		if got := m.at(m.world.gate, ref); got != m.gate[ref] && got != after.gate[ref] {
			m.Errorf("a sync was killed, and %s is %q: neither %q nor %q", ref, got, m.gate[ref], after.gate[ref])
		}
	}
}

// killedAt does something in a process that is killed when it starts git for the nth time. It reports whether
// the process was killed, and not done before that.
func (w *world) killedAt(standIn string, n int, what killed) bool {
	w.Helper()
	text, err := json.Marshal(what)
	if err != nil {
		w.Fatal(err)
	}
	for file, content := range map[string]string{"count": "", "limit": fmt.Sprint(n)} {
		if err := os.WriteFile(filepath.Join(standIn, file), []byte(content), 0o600); err != nil {
			w.Fatal(err)
		}
	}
	run := testenv.Again()
	run.Env = append(run.Env, killedAt+"="+string(text), "STANDIN="+standIn, "PATH="+standIn+":"+os.Getenv("PATH"))
	out, err := run.CombinedOutput()
	if exit := new(exec.ExitError); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != -1) {
		w.Fatalf("%v: %s", err, out)
	}
	return err != nil
}

// gitThatKills returns a directory with a stand-in for git, which counts its starts. At the start whose
// number is in the file limit, it kills its parent, if that is the process whose id is in the file pid.
func gitThatKills(t *testing.T) (dir string) {
	testenv.Need(t, "git")
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	script := fmt.Sprintf(`#!/bin/sh
echo x >>%[1]s/count
if [ "$(wc -l <%[1]s/count)" -eq "$(cat %[1]s/limit)" ] && [ "$(cat %[1]s/pid)" = "$PPID" ]; then
	kill -KILL "$PPID"
	exit 1
fi
exec %[2]s "$@"
`, dir, git)
	if err := os.WriteFile(filepath.Join(dir, "git"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAContainerThatPushesDuringASyncWins(t *testing.T) {
	for _, row := range []struct {
		moved bool // whether the sync's refs have moved when the container pushes
		want  string
		waits int
	}{
		{moved: false, want: "x", waits: 1},
		{moved: true, want: "x"},
	} {
		w := history(t)
		w.set(w.forge, "refs/heads/topic", "a")
		w.sync()
		w.set(w.forge, "refs/heads/main", "b")
		w.set(w.forge, "refs/heads/topic", "c")
		s := w.settings()
		pushed := false
		s.Gate.Record = func(moved bool, _ []Change) error {
			if moved == row.moved && !pushed {
				pushed = true
				w.set(w.gate, "refs/heads/main", "x")
			}
			return nil
		}
		d, err := Open(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		done, err := d.Sync(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := w.at(w.gate, "refs/heads/main"); got != row.want || len(done.Waits) != row.waits {
			t.Errorf("main is %s, waits: %v", got, done.Waits)
		}
		if got := w.at(w.gate, "refs/heads/topic"); got != "c" {
			t.Errorf("topic is %s", got)
		}
		w.nothingIncoming()
	}
}

// both is a testing.TB that fails through the property check. Its other methods are the test's.
type both struct {
	testing.TB
	rapid *rapid.T
}

func (b both) Errorf(format string, a ...any) { b.rapid.Helper(); b.rapid.Fatalf(format, a...) }
func (b both) Fatalf(format string, a ...any) { b.rapid.Helper(); b.rapid.Fatalf(format, a...) }
func (b both) Fatal(a ...any)                 { b.rapid.Helper(); b.rapid.Fatal(a...) }
func (b both) Helper()                        { b.rapid.Helper() }
