package gate_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

// freeze changes what is frozen.
func (h *harness) freeze(t *testing.T, edit func(*store.Freezes) (changed bool)) {
	t.Helper()
	must(t, h.tokens.EditFreezes(edit))
}

func (h *harness) freezesPath() string {
	return filepath.Join(filepath.Dir(h.tokens.Path), store.FreezesName)
}

// changes are changes of rights that end the permission for a transfer in lib. The token of the
// transfer is for demo, and may write to lib until then.
var changes = map[string]struct {
	make     func(t *testing.T, h *harness)
	says     error
	pushOnly bool // a fetch goes on
}{
	"its container is frozen": {func(t *testing.T, h *harness) {
		h.freeze(t, func(f *store.Freezes) bool { return f.SetContainer("c1", "web", true) })
	}, store.ErrFrozen, false},
	"the project is frozen": {func(t *testing.T, h *harness) {
		h.freeze(t, func(f *store.Freezes) bool { return f.SetProject("lib", true) })
	}, store.ErrFrozen, false},
	"the token's project is frozen": {func(t *testing.T, h *harness) {
		h.freeze(t, func(f *store.Freezes) bool { return f.SetProject("demo", true) })
	}, store.ErrFrozen, false},
	"everything is frozen": {func(t *testing.T, h *harness) {
		h.freeze(t, func(f *store.Freezes) bool { f.All = true; return true })
	}, store.ErrFrozen, false},
	"the file of freezes breaks": {func(t *testing.T, h *harness) {
		must(t, replaceFile(h.freezesPath(), []byte("{")))
	}, store.ErrFreezesWrong, false},
	"the project is dropped": {func(t *testing.T, h *harness) {
		h.change(t, func(r *store.Rights) { delete(r.Also, "lib") })
	}, store.ErrNotTheirs, false},
	"the project may only be read": {func(t *testing.T, h *harness) {
		h.change(t, func(r *store.Rights) { r.Also["lib"] = store.AccessRead })
	}, store.ErrReadOnlyHere, true},
	"the token may only read": {func(t *testing.T, h *harness) {
		h.change(t, func(r *store.Rights) { r.Limits.ReadOnly = true })
	}, store.ErrReadOnly, true},
}

// change changes the rights of container c1.
func (h *harness) change(t *testing.T, edit func(*store.Rights)) {
	t.Helper()
	changed, err := h.tokens.ChangeRights("c1", func(r *store.Rights) error { edit(r); return nil })
	must(t, err)
	if len(changed) != 1 {
		t.Fatalf("changed: %+v", changed)
	}
}

// forLib issues a token of container c1 for demo that may write to lib.
func (h *harness) forLib(t *testing.T) (token string) {
	t.Helper()
	drawn, err := store.NewToken()
	must(t, err)
	_, err = h.tokens.Issue(store.Entry{
		Token: drawn, Grant: store.Grant{Project: "demo", Task: "task-1"}, Container: "c1", Also: store.Also{"lib": store.AccessWrite},
	})
	must(t, err)
	return string(drawn)
}

// inEveryChange tries a transfer that each of the changes cuts. It tries this with the repository at
// the gate h, which judges the token, and with the repository at another gate. The transfer must end
// within the time that the gate promises. On a busy machine, inEveryChange tries it again for a
// while.
func inEveryChange(t *testing.T, push bool, try func(t *testing.T, h, repos *harness, token string, change func(), says error) (took time.Duration)) {
	const promised = 100 * time.Millisecond
	for name, change := range changes {
		if change.pushOnly && !push {
			continue
		}
		for where, open := range map[string]func(t *testing.T) (h, repos *harness){
			"here": func(t *testing.T) (h, repos *harness) {
				h = open(t, gate.Settings{})
				return h, h
			},
			"elsewhere": func(t *testing.T) (h, repos *harness) {
				f := openFleet(t, gate.Settings{}, gate.Settings{})
				return f.host, f.repos
			},
		} {
			t.Run(name+", "+where, func(t *testing.T) {
				best := testenv.AWhile
				for began := time.Now(); best > promised && !t.Failed(); {
					t.Run("", func(t *testing.T) {
						h, repos := open(t)
						token := h.forLib(t)
						best = min(best, try(t, h, repos, token, func() { change.make(t, h) }, change.says))
					})
					if best > promised && time.Since(began) > testenv.AWhile {
						t.Fatalf("it takes %v, at best", best)
					}
				}
			})
		}
	}
}

func TestACloneThatIsNoLongerAllowedIsCut(t *testing.T) {
	inEveryChange(t, false, func(t *testing.T, h, repos *harness, token string, change func(), says error) time.Duration {
		lib := repos.bare(t, "lib")
		git(t, lib, "update-ref", "refs/heads/main", borrow(t, lib))
		clone := command(h.dir, "clone", "--quiet", "--bare", h.url(token, "lib"), "clone")
		took := cutShort(t, repos, clone, func() bool {
			return sizeOf(h.dir+"/clone/objects/pack/tmp_pack_*") > 10<<20
		}, change)
		if clone.Wait() == nil {
			t.Error("the client takes what it has for the whole")
		}
		if event := h.trailed(t, trail.Cut, 1)[0]; event.Error != says.Error() || event.Container != "c1" || event.Bytes < 10<<20 {
			t.Errorf("the trail has %+v", event)
		}
		if out := gitFails(t, h.dir, "ls-remote", h.url(token, "lib")); !strings.Contains(out, "remote: "+says.Error()) {
			t.Errorf("git says %s", out)
		}
		return took
	})
}

func TestAPushThatIsNoLongerAllowedIsCutAndMovesNothing(t *testing.T) {
	inEveryChange(t, true, func(t *testing.T, h, repos *harness, token string, change func(), says error) time.Duration {
		lib := repos.demo(t, "lib", 1)
		before := git(t, lib, "for-each-ref")
		work := filepath.Join(h.dir, "work.git")
		git(t, h.dir, "init", "--quiet", "--bare", work)
		git(t, work, "update-ref", "refs/heads/main", borrow(t, work))

		push := command(work, "push", "--quiet", "--force", h.url(token, "lib"), "main", "main:side")
		took := cutShort(t, repos, push, func() bool {
			return sizeOf(lib+"/objects/tmp_objdir-incoming-*/pack/tmp_pack_*") > 10<<20
		}, change)
		if event := h.trailed(t, trail.Cut, 1)[0]; event.Error != says.Error() || event.Refs != 0 {
			t.Errorf("the trail has %+v", event)
		}
		if after := git(t, lib, "for-each-ref"); after != before {
			t.Errorf("the refs were %s and are %s", before, after)
		}
		return took
	})
}

// The gate judges a clone by the right to fetch, and only a push by the right to push.
func TestACloneOutlastsARightToPush(t *testing.T) {
	h := open(t, gate.Settings{})
	token := h.forLib(t)
	lib := h.bare(t, "lib")
	git(t, lib, "update-ref", "refs/heads/main", borrow(t, lib))

	clone := command(h.dir, "clone", "--quiet", "--bare", h.url(token, "lib"), "clone")
	must(t, clone.Start())
	testenv.Eventually(t, "the clone is under way", func() bool {
		return sizeOf(h.dir+"/clone/objects/pack/tmp_pack_*") > 10<<20
	})
	h.change(t, func(r *store.Rights) {
		r.Limits.ReadOnly = true
		r.Also["lib"] = store.AccessRead
		r.Also["docs"] = store.AccessRead
	})
	if err := clone.Wait(); err != nil {
		t.Errorf("the clone ends with %v", err)
	}
}

func TestAfterAThawTheTokenHasWhatItHad(t *testing.T) {
	h := open(t, gate.Settings{})
	h.demo(t, "demo", 1)
	h.demo(t, "lib", 1)
	token := h.forLib(t)
	work := filepath.Join(h.dir, "work")
	git(t, h.dir, "clone", "--quiet", h.url(token, "lib"), work)
	before, err := readFile(h.tokens.Path)
	must(t, err)

	for i, freeze := range []func(f *store.Freezes, frozen bool) bool{
		func(f *store.Freezes, frozen bool) bool { return f.SetContainer("c1", "", frozen) },
		func(f *store.Freezes, frozen bool) bool { return f.SetProject("demo", frozen) },
		func(f *store.Freezes, frozen bool) bool { f.All = frozen; return true },
	} {
		h.freeze(t, func(f *store.Freezes) bool { return freeze(f, true) })
		branch := fmt.Sprintf("main:b%d", i)
		for _, args := range [][]string{{"push", "origin", branch}, {"fetch"}} {
			if out := gitFails(t, work, args...); !strings.Contains(out, "remote: frozen by the operator") {
				t.Errorf("git %q says %s", args, out)
			}
		}

		// The token of the same container's next start is frozen as well, and so is a new token for
		// demo.
		next := h.forLib(t)
		if i > 0 {
			next = h.issue(t, "demo")
		}
		if answer, text := h.request(t, "GET", "/demo.git/info/refs?service=git-upload-pack", next, ""); answer.StatusCode != http.StatusForbidden || !strings.Contains(text, "frozen") {
			t.Errorf("the next token is answered %d %s", answer.StatusCode, text)
		}

		must(t, replaceFile(h.tokens.Path, []byte(before)))
		h.freeze(t, func(f *store.Freezes) bool { return freeze(f, false) })
		git(t, work, "push", "--quiet", "origin", branch)
		git(t, work, "ls-remote", h.url(token, "demo"))
	}
}

// Guards against: a project is frozen at the very moment when a container starts, and the new token
// escapes the freeze.
func TestAFreezeReachesAContainerThatStartsAtThatMoment(t *testing.T) {
	h := open(t, gate.Settings{})
	h.demo(t, "demo", 1)
	for i := range 50 {
		must(t, os.RemoveAll(h.freezesPath()))
		issued := make(chan string, 1)
		go func() {
			token, err := store.NewToken()
			if err == nil {
				_, err = h.tokens.Issue(store.Entry{Token: token, Grant: store.Grant{Project: "demo", Task: "1"}, Container: fmt.Sprint(i)})
			}
			if err != nil {
				t.Error(err)
			}
			issued <- string(token)
		}()
		h.freeze(t, func(f *store.Freezes) bool { return f.SetProject("demo", true) })
		if answer, text := h.request(t, "GET", "/demo.git/info/refs?service=git-upload-pack", <-issued, ""); answer.StatusCode != http.StatusForbidden {
			t.Fatalf("answered %d %s", answer.StatusCode, text)
		}
	}
}
