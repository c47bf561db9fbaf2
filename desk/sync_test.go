package desk

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Upstream's history is a, b, c; x and y are containers' commits on a and b; z is
// upstream's other commit on a.
func history(t *testing.T) *world {
	w := newWorld(t)
	w.commit("a")
	w.commit("b", "a")
	w.commit("c", "b")
	w.commit("x", "a")
	w.commit("y", "b")
	w.commit("z", "a")
	for _, repo := range []string{w.forge, w.gate} {
		w.set(repo, "refs/heads/main", "a")
	}
	return w
}

func TestSyncIsAThreeWayMergeOfRefs(t *testing.T) {
	const none = ""
	for _, row := range []struct {
		name                 string
		origin, last, gate   string
		wantGate, wantLast   string
		kept                 string // the old tip, if it is kept
		waits                bool
		resetGate, resetKept string // after --reset, for refs that do not move by themselves
	}{
		{name: "nobody has it", origin: none, last: none, gate: none},
		{name: "both have the same", origin: "b", last: "a", gate: "b", wantGate: "b", wantLast: "b"},
		{name: "both have the same, for the first time", origin: "b", gate: "b", wantGate: "b", wantLast: "b"},
		{name: "both have deleted it", last: "b"},

		{name: "upstream has made it", origin: "b", wantGate: "b", wantLast: "b"},
		{name: "containers have deleted it", origin: "b", last: "b", wantGate: "b", wantLast: "b"},
		{name: "containers have deleted it, upstream has moved", origin: "c", last: "b", wantGate: "c", wantLast: "c"},

		{name: "upstream is ahead", origin: "c", last: "b", gate: "b", wantGate: "c", wantLast: "c"},
		{name: "upstream went back", origin: "a", last: "b", gate: "b", wantGate: "a", wantLast: "a", kept: "b"},
		{name: "upstream went elsewhere", origin: "z", last: "b", gate: "b", wantGate: "z", wantLast: "z", kept: "b"},
		{name: "upstream is gone", last: "b", gate: "b", kept: "b"},

		{name: "containers are ahead", origin: "b", last: "b", gate: "y", wantGate: "y", wantLast: "b", resetGate: "b", resetKept: "y"},
		{name: "containers went back", origin: "b", last: "b", gate: "a", wantGate: "a", wantLast: "b", resetGate: "b", resetKept: "a"},
		{name: "containers' own", gate: "y", wantGate: "y", resetKept: "y"},

		{name: "no record, upstream is ahead", origin: "c", gate: "b", wantGate: "c", wantLast: "c"},
		{name: "no record, the gate is ahead", origin: "b", gate: "c", wantGate: "c", waits: true, resetGate: "b", resetKept: "c"},
		{name: "no record, both are ahead", origin: "c", gate: "y", wantGate: "y", waits: true, resetGate: "c", resetKept: "y"},

		{name: "both have moved", origin: "c", last: "b", gate: "y", wantGate: "y", wantLast: "b", waits: true, resetGate: "c", resetKept: "y"},
		{name: "upstream is gone, containers are ahead", last: "b", gate: "y", wantGate: "y", wantLast: "b", waits: true, resetKept: "y"},
	} {
		for _, ref := range []string{"refs/heads/topic", "refs/tags/v1"} {
			t.Run(row.name+" "+ref, func(t *testing.T) {
				w := history(t)
				w.set(w.forge, ref, row.last)
				w.set(w.gate, ref, row.last)
				w.sync()
				w.set(w.forge, ref, row.origin)
				w.set(w.gate, ref, row.gate)

				// A second sync finds nothing to do.
				for range 2 {
					done := w.sync()
					checkRefs(w, ref, row.wantGate, row.wantLast, row.kept)
					waits := slices.ContainsFunc(done.Waits, func(c Change) bool { return c.Ref == ref })
					if waits != row.waits {
						t.Errorf("waits: %v", done.Waits)
					}
				}
				if done := w.sync(); len(done.Moved) > 0 {
					t.Errorf("a sync with nothing new has moved %v", done.Moved)
				}

				if row.resetGate == "" && row.resetKept == "" {
					return
				}
				w.sync(ref)
				checkRefs(w, ref, row.resetGate, row.resetGate, row.resetKept)
			})
		}
	}
}

func checkRefs(w *world, ref, gate, last, kept string) {
	w.Helper()
	if is := w.at(w.gate, ref); is != gate {
		w.Errorf("the gate has %q, want %q", is, gate)
	}
	if is := w.at(w.open().Path(), lastPrefix+ref[len("refs/"):]); is != last {
		w.Errorf("last is %q, want %q", is, last)
	}
	var want []string
	if kept != "" {
		want = []string{kept}
	}
	if diff := cmp.Diff(want, w.kept(ref)); diff != "" {
		w.Errorf("kept (-want +got):\n%s", diff)
	}
	w.nothingIncoming()
}

func TestADeskThatIsGoneIsMadeAnewAndForcesNothing(t *testing.T) {
	w := history(t)
	w.set(w.forge, "refs/heads/topic", "b")
	w.sync()
	w.set(w.forge, "refs/heads/topic", "z")
	if err := Remove(w.desks, "demo"); err != nil {
		t.Fatal(err)
	}

	done := w.sync()
	checkRefs(w, "refs/heads/topic", "b", "", "")
	if len(done.Waits) != 1 || done.Waits[0].Ref != "refs/heads/topic" {
		t.Errorf("waits: %v", done.Waits)
	}
}

func TestANameInTheWayIsNamedAndAResetClearsIt(t *testing.T) {
	w := history(t)
	w.sync()
	w.set(w.gate, "refs/heads/a", "x")
	w.set(w.forge, "refs/heads/a/b", "b")
	w.set(w.gate, "refs/heads/c/d", "y")
	w.set(w.forge, "refs/heads/c", "c")

	done := w.sync()
	want := []Change{
		{Ref: "refs/heads/a/b", New: w.id("b"), Why: "refs/heads/a is in the way: --reset refs/heads/a"},
		{Ref: "refs/heads/c", New: w.id("c"), Why: "refs/heads/c/d is in the way: --reset refs/heads/c/d"},
	}
	if diff := cmp.Diff(want, done.Waits); diff != "" {
		t.Errorf("waits (-want +got):\n%s", diff)
	}

	done = w.sync("refs/heads/a", "refs/heads/c/d")
	if len(done.Waits) > 0 {
		t.Errorf("waits: %v", done.Waits)
	}
	checkRefs(w, "refs/heads/a", "", "", "x")
	checkRefs(w, "refs/heads/a/b", "b", "b", "")
	checkRefs(w, "refs/heads/c/d", "", "", "y")
	checkRefs(w, "refs/heads/c", "c", "c", "")
}

func TestUpstreamMayRenameABranchToOneBelowIt(t *testing.T) {
	w := history(t)
	w.set(w.forge, "refs/heads/a", "b")
	w.git("--git-dir", w.forge, "symbolic-ref", "HEAD", "refs/heads/a")
	w.sync()
	w.set(w.forge, "refs/heads/a", "")
	w.set(w.forge, "refs/heads/a/b", "c")
	w.git("--git-dir", w.forge, "symbolic-ref", "HEAD", "refs/heads/a/b")

	w.sync()
	checkRefs(w, "refs/heads/a", "", "", "b")
	checkRefs(w, "refs/heads/a/b", "c", "c", "")
	if head := w.git("--git-dir", w.gate, "symbolic-ref", "HEAD"); head != "refs/heads/a/b" {
		t.Errorf("HEAD names %s", head)
	}
}

func TestASymbolicRefInTheGateMovesNothingElse(t *testing.T) {
	w := history(t)
	w.sync()
	w.git("--git-dir", w.gate, "symbolic-ref", "refs/heads/topic", "refs/heads/main")
	w.set(w.forge, "refs/heads/topic", "b")

	w.sync("refs/heads/topic")
	checkRefs(w, "refs/heads/topic", "b", "b", "")
	checkRefs(w, "refs/heads/main", "a", "a", "")
}

func TestASyncRemovesWhatAKilledSyncHadSent(t *testing.T) {
	w := history(t)
	w.set(w.gate, incomingPrefix+"0", "x")
	w.sync()
	w.nothingIncoming()
}

func TestASyncThatCannotBeRecordedMovesNothing(t *testing.T) {
	w := history(t)
	w.set(w.forge, "refs/heads/main", "b")
	s := w.settings()
	var events []string
	s.Gate.Record = func(moved bool, changes []Change) error {
		events = append(events, map[bool]string{false: "moving", true: "moved"}[moved]+" "+changes[0].Ref)
		if len(events) == 1 {
			return errors.New("the disk is full")
		}
		return nil
	}
	d, err := Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Sync(t.Context()); err == nil {
		t.Error("the sync has not failed")
	}
	checkRefs(w, "refs/heads/main", "a", "", "")

	if _, err := d.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkRefs(w, "refs/heads/main", "b", "b", "")
	want := []string{"moving refs/heads/main", "moving refs/heads/main", "moved refs/heads/main"}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Errorf("recorded (-want +got):\n%s", diff)
	}
}

func TestADeskIsForOneRepository(t *testing.T) {
	w := history(t)
	w.sync()
	s := w.settings()
	s.Gate.Path = w.forge
	if _, err := Open(t.Context(), s); err == nil {
		t.Error("the desk was opened for another repository")
	}
}

// Guards against: a desk that gets a file for each object, or a pack for each sync, and is never packed.
func TestADeskIsPacked(t *testing.T) {
	w := history(t)
	w.sync()
	desk := w.open().Path()
	w.git("--git-dir", desk, "config", "fetch.unpackLimit", "1")
	w.git("--git-dir", desk, "config", "gc.autoPackLimit", "2")
	for _, commit := range []string{"b", "c", "z", "y"} {
		w.set(w.forge, "refs/heads/main", commit)
		w.sync()
	}
	packs, err := filepath.Glob(filepath.Join(desk, "objects/pack/*.pack"))
	if err != nil || len(packs) == 0 || len(packs) > 2 {
		t.Errorf("the desk has %d packs, %v", len(packs), err)
	}
	w.git("--git-dir", desk, "fsck", "--strict")
	if is := w.at(w.gate, "refs/heads/main"); is != "y" {
		t.Errorf("main is %s", is)
	}
}
