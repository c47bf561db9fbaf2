package gate_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/hook"
	"terok-gate-hook/internal/trail"
)

// containerToken lets a hook with these flags issue a token for a container with these annotations.
// The project is demo, the task 7.
func (h *harness) containerToken(t *testing.T, flags []string, annotations map[string]string) (token string) {
	t.Helper()
	token, err := h.tryContainerToken(t, flags, annotations)
	must(t, err)
	return token
}

func (h *harness) tryContainerToken(t *testing.T, flags []string, annotations map[string]string) (token string, err error) {
	t.Helper()
	settings, _, err := hook.ParseArgs(append([]string{"prestart"}, flags...))
	must(t, err)
	must(t, settings.Check())
	settings.Tokens, settings.EnvDir = h.tokens, filepath.Join(h.dir, "env")
	all := map[string]string{hook.ProjectAnnotation: "demo", hook.TaskAnnotation: "7"}
	for name, value := range annotations {
		all[name] = value
	}
	state, err := json.Marshal(map[string]any{"id": "c1", "annotations": all})
	must(t, err)
	out, err := settings.Prestart(strings.NewReader(string(state)))
	return string(out.Token), err
}

// combination is what a token can be limited by. A field is empty if that limit is not given.
type combination struct {
	access, refs             string // flags
	narrowAccess, narrowRefs string // annotations
	hashed                   bool
}

func combinations() (all []combination) {
	for _, access := range []string{"", "write", "append", "read"} {
		for _, refs := range []string{"", "refs/heads/agent/**, refs/tags/{project}/*"} {
			for _, narrowAccess := range []string{"", "read", "append", "write", "none"} {
				for _, narrowRefs := range []string{"", "refs/heads/*/{task}/*, refs/tags/v1"} {
					for _, hashed := range []bool{false, true} {
						all = append(all, combination{access, refs, narrowAccess, narrowRefs, hashed})
					}
				}
			}
		}
	}
	return all
}

func (c combination) flags() (flags []string) {
	if c.access != "" {
		flags = append(flags, "--access", c.access)
	}
	if c.refs != "" {
		for _, pattern := range strings.Split(c.refs, ", ") {
			flags = append(flags, "--push", pattern)
		}
	}
	if c.hashed {
		flags = append(flags, "--hashed")
	}
	return flags
}

func (c combination) annotations() map[string]string {
	annotations := map[string]string{}
	if c.narrowAccess != "" {
		annotations[hook.AccessAnnotation] = c.narrowAccess
	}
	if c.narrowRefs != "" {
		annotations[hook.PushAnnotation] = strings.ReplaceAll(c.narrowRefs, ", ", ",")
	}
	return annotations
}

// Beginnings of branches' names. Each is matched by the patterns of both the flag and the
// annotation, of only one of them, or of neither.
const byBoth, byFlag, byAnnotation, byNeither = "agent/7/", "agent/8/", "other/7/", "other/8/"

var anything = []string{byBoth, byFlag, byAnnotation, byNeither}

// allows returns to which branches one may push, and what is said of the others. If starts is
// false, there is no token, since the annotation asks for an access other than read and append.
func (c combination) allows() (branches []string, says string, starts bool) {
	if c.narrowAccess != "" && c.narrowAccess != "read" && c.narrowAccess != "append" {
		return nil, "", false
	}
	filled := strings.NewReplacer("{project}", "demo", "{task}", "7").Replace
	switch {
	case c.access == "read" || c.narrowAccess == "read":
		return nil, "the token may fetch and not push", true
	case c.refs != "" && c.narrowRefs != "":
		either := strings.NewReplacer(", ", " or ")
		return []string{byBoth}, filled("(the token may push to refs that match both (" + either.Replace(c.refs) + ") and (" + either.Replace(c.narrowRefs) + "))"), true
	case c.refs != "":
		return []string{byBoth, byFlag}, filled("(the token may push to " + c.refs + ")"), true
	case c.narrowRefs != "":
		return []string{byBoth, byAnnotation}, filled("(the token may push to " + c.narrowRefs + ")"), true
	}
	return anything, "", true
}

// appends reports whether the token may only add to what there is.
func (c combination) appends() bool { return c.access == "append" || c.narrowAccess == "append" }

// Each combination is tried from the hook to the output of real git.
func TestEveryCombinationOfFlagsAndAnnotationsAllowsWhatItStates(t *testing.T) {
	for _, c := range combinations() {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			t.Parallel()
			h := open(t, gate.Settings{})
			pushes, says, starts := c.allows()
			if !starts {
				if token, err := h.tryContainerToken(t, c.flags(), c.annotations()); err == nil || token != "" {
					t.Errorf("the container gets a token, with the error %v", err)
				}
				if entries, err := h.tokens.Entries(); len(entries) > 0 {
					t.Errorf("there are %d tokens, %v", len(entries), err)
				}
				return
			}

			demo := h.demo(t, "demo", 3)
			for _, kind := range anything {
				for _, name := range []string{"moved", "forced", "deleted"} {
					git(t, demo, "update-ref", "refs/heads/"+kind+name, "main~1")
				}
			}

			token := h.containerToken(t, c.flags(), c.annotations())
			work := filepath.Join(h.dir, "work")
			git(t, h.dir, "clone", "--quiet", h.url(token, "demo"), work)
			git(t, work, "fetch", "--quiet", "origin", byNeither+"moved")

			before := git(t, demo, "for-each-ref")
			refused := 0
			refuse := func(ref string, refspecs ...string) {
				t.Helper()
				refused++
				said := gitFails(t, work, append([]string{"push", "origin"}, refspecs...)...)
				words := []string{says}
				if pushes != nil {
					words = append(words, "[remote rejected] ", ref)
				}

				for _, words := range words {
					if !strings.Contains(said, words) {
						t.Errorf("git push %q does not say %q, but\n%s", refspecs, words, said)
					}
				}
			}
			refuseToAppend := func(ref, refspec string) {
				t.Helper()
				refused++
				if said := gitFails(t, work, "push", "origin", refspec); !strings.Contains(said, ref) || !strings.Contains(said, "must not be deleted or forced") {
					t.Errorf("git push %q says\n%s", refspec, said)
				}
			}

			var allowed []string
			for _, kind := range anything {
				each := []string{"main:refs/heads/" + kind + "created", "main:" + kind + "moved", "+main~2:" + kind + "forced", ":" + kind + "deleted"}

				if slices.Contains(pushes, kind) && c.appends() {
					allowed = append(allowed, each[:2]...)
					for i, name := range []string{"forced", "deleted"} {
						refuseToAppend(kind+name, each[2+i])
					}
					continue
				}
				if slices.Contains(pushes, kind) {
					allowed = append(allowed, each...)
					continue
				}
				for i, name := range []string{"created", "moved", "forced", "deleted"} {
					refuse(kind+name, each[i])
				}
			}

			if pushes != nil && len(pushes) < len(anything) {
				refuse("main", append(allowed, "+main~1:main")...)
			}
			if after := git(t, demo, "for-each-ref"); after != before {
				t.Errorf("refused pushes move refs:\n%s", after)
			}
			h.trailed(t, trail.Refused, refused)

			if allowed != nil {
				git(t, work, append([]string{"push", "--quiet", "origin"}, allowed...)...)
			}

			main := git(t, demo, "rev-parse", "main")
			for _, kind := range pushes {
				wanted := map[string]string{"created": main, "moved": main, "forced": git(t, demo, "rev-parse", "main~2"), "deleted": ""}
				if c.appends() {
					wanted["forced"], wanted["deleted"] = git(t, demo, "rev-parse", "main~1"), git(t, demo, "rev-parse", "main~1")
				}
				for name, want := range wanted {
					if is := git(t, demo, "for-each-ref", "--format=%(objectname)", "refs/heads/"+kind+name); is != want {
						t.Errorf("%s%s is at %q, not %q", kind, name, is, want)
					}
				}
			}
		})
	}
}

// Tags are refs like any other.
func TestTagsAreLimitedToo(t *testing.T) {
	h := open(t, gate.Settings{})
	h.demo(t, "demo", 1)
	token := h.containerToken(t, []string{"--push", "refs/heads/**", "--push", "refs/tags/v{task}"}, nil)
	work := filepath.Join(h.dir, "work")
	git(t, h.dir, "clone", "--quiet", h.url(token, "demo"), work)
	for _, tag := range []string{"v7", "v8"} {
		git(t, work, "tag", tag)
	}
	git(t, work, "push", "origin", "v7")
	if said := gitFails(t, work, "push", "origin", "v8"); !strings.Contains(said, "v8 -> v8 (the token may push to refs/heads/**, refs/tags/v7)") {
		t.Errorf("git says %s", said)
	}
	git(t, work, "branch", "allowed")
	said := gitFails(t, work, "push", "--mirror", "origin")
	for _, words := range []string{"allowed -> allowed (another ref of the push is refused)", "v8 -> v8 (the token may push to "} {
		if !strings.Contains(said, words) {
			t.Errorf("git does not say %q, but\n%s", words, said)
		}
	}
}
