package desk

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func (w *world) offer(ref, to string) *Offer {
	w.Helper()
	o, err := w.open().Offer(w.Context(), ref, to)
	if err != nil {
		w.Fatal(err)
	}
	return o
}

// shown returns all that an offer shows.
func (w *world) shown(o *Offer) string {
	w.Helper()
	var out strings.Builder
	for _, show := range []error{o.Log(w.Context(), &out, nil), o.Diff(w.Context(), &out), o.Lost(w.Context(), &out)} {
		if show != nil {
			w.Fatal(show)
		}
	}
	return out.String()
}

func TestReviewNamesWhatUpstreamLacks(t *testing.T) {
	w := history(t)
	w.set(w.forge, "refs/heads/main", "b")
	w.sync()
	w.set(w.gate, "refs/heads/agent", "x")
	w.set(w.gate, "refs/heads/main", "y")
	w.set(w.gate, "refs/heads/old", "a")

	got, err := w.open().Review(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if got[i].Time.IsZero() {
			t.Errorf("%s has no time", got[i].Ref)
		}
		got[i].Time = got[0].Time
	}
	want := []Branch{
		{Ref: "refs/heads/agent", Commit: w.id("x"), Base: "refs/heads/main", Ahead: 1, Behind: 1, Author: "A", Subject: "commit x", Time: got[0].Time},
		{Ref: "refs/heads/main", Commit: w.id("y"), Base: "refs/heads/main", Ahead: 1, Author: "A", Subject: "commit y", Time: got[0].Time},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("review (-want +got):\n%s", diff)
	}

	// The desk drops the branches that the gate no longer has.
	w.set(w.gate, "refs/heads/agent", "")
	if _, err := w.open().Review(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := w.git("--git-dir", w.open().Path(), "for-each-ref", "--format=%(objectname)", gatePrefix); strings.Contains(left, w.id("x")) || !strings.Contains(left, w.id("y")) {
		t.Errorf("of the gate's branches, the desk has: %s", left)
	}
}

func TestReleaseCreatesAndFastForwards(t *testing.T) {
	for _, row := range []struct {
		name, upstream, gate string // the commits of a branch, in upstream and in the gate
		force                bool
		want                 string // upstream's branch afterwards
		err                  error
	}{
		{name: "a new branch", gate: "x", want: "x"},
		{name: "forward", upstream: "b", gate: "y", want: "y"},
		{name: "nothing to do", upstream: "b", gate: "b", want: "b", err: ErrNothing},
		{name: "upstream is ahead", upstream: "c", gate: "b", want: "c", err: ErrBehind},
		{name: "upstream went elsewhere", upstream: "z", gate: "x", want: "z", err: ErrBehind},
		{name: "forced", upstream: "z", gate: "x", force: true, want: "x"},
		{name: "forced without need", upstream: "b", gate: "y", force: true, want: "y"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := history(t)
			w.set(w.forge, "refs/heads/topic", row.upstream)
			w.set(w.gate, "refs/heads/topic", row.gate)

			o := w.offer("refs/heads/topic", "refs/heads/topic")
			var said strings.Builder
			if err := o.Release(t.Context(), row.force, &said); !errors.Is(err, row.err) {
				t.Errorf("release: %v, want %v", err, row.err)
			}
			if got := w.at(w.forge, "refs/heads/topic"); got != row.want {
				t.Errorf("upstream has %s, want %s", got, row.want)
			}
			if row.err != nil {
				return
			}

			// Nothing is left for sync to do, and containers that go on are ahead.
			w.set(w.gate, "refs/heads/topic", "c")
			if done := w.sync(); len(done.Moved)+len(done.Waits) > 0 {
				t.Errorf("after the release, a sync has to do: %v", done)
			}
			if row.upstream == "z" && row.force {
				if kept := w.git("--git-dir", w.open().Path(), "for-each-ref", "--format=%(objectname)", keptPrefix); kept != w.id("z") {
					t.Errorf("the desk keeps %q of what upstream lost", kept)
				}
				if shown := w.shown(o); !strings.Contains(shown, "commit "+w.id("z")) {
					t.Errorf("what upstream loses is not shown:\n%s", shown)
				}
			}
		})
	}
}

func TestReleaseToAnotherBranch(t *testing.T) {
	w := history(t)
	w.set(w.forge, "refs/heads/main", "b")
	w.set(w.gate, "refs/heads/agent", "y")
	o := w.offer("refs/heads/agent", "refs/heads/main")
	if err := o.Release(t.Context(), false, t.Output()); err != nil {
		t.Fatal(err)
	}
	if got := w.at(w.forge, "refs/heads/main"); got != "y" {
		t.Errorf("upstream's main is %s", got)
	}
}

func TestWhatMovesBetweenShowingAndPushingIsNotReleased(t *testing.T) {
	w := history(t)
	w.set(w.gate, "refs/heads/topic", "y")
	w.set(w.forge, "refs/heads/topic", "b")

	o := w.offer("refs/heads/topic", "refs/heads/topic")
	w.set(w.gate, "refs/heads/topic", "c")
	if err := o.Release(t.Context(), true, t.Output()); !errors.Is(err, ErrMoved) {
		t.Errorf("release: %v", err)
	}
	if got := w.at(w.forge, "refs/heads/topic"); got != "b" {
		t.Errorf("upstream has %s", got)
	}

	for _, meanwhile := range []string{"c", "z", "a", ""} {
		w.set(w.forge, "refs/heads/topic", "b")
		w.set(w.gate, "refs/heads/topic", "y")
		o := w.offer("refs/heads/topic", "refs/heads/topic")
		w.set(w.forge, "refs/heads/topic", meanwhile)
		if err := o.Release(t.Context(), true, t.Output()); err == nil {
			t.Errorf("upstream moved to %q, and the release succeeded", meanwhile)
		}
		if got := w.at(w.forge, "refs/heads/topic"); got != meanwhile {
			t.Errorf("upstream moved to %q, and has %s", meanwhile, got)
		}
	}

	w.set(w.forge, "refs/heads/topic", "")
	o = w.offer("refs/heads/topic", "refs/heads/topic")
	w.set(w.forge, "refs/heads/topic", "b")
	if err := o.Release(t.Context(), true, t.Output()); err == nil {
		t.Error("upstream made the branch, and the release succeeded")
	}
	if got := w.at(w.forge, "refs/heads/topic"); got != "b" {
		t.Errorf("upstream has %s", got)
	}
}

func TestWhatTheForgeSaysIsText(t *testing.T) {
	w := history(t)
	w.set(w.gate, "refs/heads/topic", "y")
	hook := "#!/bin/sh\nprintf 'look: \\033]0;evil\\007 \\302\\233 at https://forge.example/pull/1\\n' >&2\n"
	if err := os.WriteFile(filepath.Join(w.forge, "hooks", "post-receive"), []byte(hook), 0o700); err != nil {
		t.Fatal(err)
	}

	var said strings.Builder
	if err := w.offer("refs/heads/topic", "refs/heads/topic").Release(t.Context(), false, &said); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said.String(), `look: \x1b]0;evil\a \u009b at https://forge.example/pull/1`) || strings.ContainsAny(said.String(), "\x1b\a\u009b") {
		t.Errorf("the forge said %q", said.String())
	}
}

func TestRestoreBringsBackWhatWasDeletedOrForced(t *testing.T) {
	w := history(t)
	w.set(w.forge, "refs/heads/topic", "b")
	w.sync()
	w.set(w.forge, "refs/heads/topic", "z")
	w.sync()
	w.set(w.forge, "refs/heads/topic", "")
	w.sync()
	gate := w.settings().Gate

	for _, want := range []string{"z", "b", "z"} { // what a restore replaces is kept, too
		c, err := gate.Restore(t.Context(), "refs/heads/topic")
		if err != nil {
			t.Fatal(err)
		}
		if got := w.at(w.gate, "refs/heads/topic"); got != want || c.New != w.id(want) {
			t.Errorf("the branch is %s, want %s: %v", got, want, c)
		}
	}

	if dropped, err := gate.Forget(t.Context(), "refs/heads/topic"); err != nil || len(dropped) != 1 {
		t.Errorf("forget: %v, %v", dropped, err)
	}
	if _, err := gate.Restore(t.Context(), "refs/heads/topic"); err == nil {
		t.Error("what was forgotten was restored")
	}
	if got := w.at(w.gate, "refs/heads/topic"); got != "z" {
		t.Errorf("the branch is %s", got)
	}
}

func TestExpireDropsOnlyTheTipsKeptBeforeATime(t *testing.T) {
	w := history(t)
	w.set(w.forge, "refs/heads/topic", "b")
	w.sync()
	w.set(w.forge, "refs/heads/topic", "")
	w.sync()
	gate := w.settings().Gate
	kept, err := gate.Kept(t.Context())
	if err != nil || len(kept) != 1 {
		t.Fatal(kept, err)
	}

	if dropped, err := gate.Expire(t.Context(), kept[0].Time); err != nil || len(dropped) > 0 {
		t.Errorf("dropped %v, %v", dropped, err)
	}
	if dropped, err := gate.Expire(t.Context(), kept[0].Time.Add(1)); err != nil || len(dropped) != 1 {
		t.Errorf("dropped %v, %v", dropped, err)
	}
	if left := w.kept("refs/heads/topic"); len(left) > 0 {
		t.Errorf("still kept: %v", left)
	}
}

// Guards against: messages of git that name a descriptor instead of the source, and a refusal that is printed
// twice.
func TestAReleaseToADirectorySaysOnceWhyItIsRefused(t *testing.T) {
	const why = "branch is currently checked out"
	w := history(t)
	w.set(w.gate, "refs/heads/agent", "x")
	s := w.settings()
	s.Source, s.Local = filepath.Join(t.TempDir(), "src"), true
	w.git("clone", "--quiet", w.forge, s.Source)

	release := func(to string) (string, error) {
		d, err := Open(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		o, err := d.Offer(t.Context(), "refs/heads/agent", to)
		if err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		err = o.Release(t.Context(), false, &said)
		return said.String(), err
	}
	if said, err := release("refs/heads/new"); err != nil || said != "" {
		t.Errorf("said %q, %v", said, err)
	}
	said, err := release("refs/heads/main")
	if err == nil || !strings.HasSuffix(err.Error(), "push to "+s.Source+": [remote rejected] ("+why+")") {
		t.Errorf("error: %v", err)
	}
	if !strings.Contains(said, "remote: error: refusing to update checked out branch") || strings.Contains(said, why) || strings.Contains(said, "fd::") {
		t.Errorf("said %q", said)
	}
}
