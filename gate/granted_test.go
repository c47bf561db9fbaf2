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

// containerToken has the hook issue a token, as for a container with these annotations
// where it is installed with these flags. The project is demo, the task 7.
func (h *house) containerToken(t *testing.T, flags []string, annotations map[string]string) (token string) {
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
	must(t, err)
	return string(out.Token)
}

// What flags and annotations leave of a token, from the hook to real git's terminal. Each
// kind of ref is one that the flag's patterns match, or the annotation's, or both, or
// neither.
func TestWhatEveryCombinationOfFlagsAndAnnotationsAllows(t *testing.T) {
	flagLists := map[string][]string{"refs": {"--push", "refs/heads/agent/**", "--push", "refs/tags/{project}/*"}}
	flagLists["read"] = []string{"--access", "read"}
	flagLists["read and refs"] = append(flagLists["read"], flagLists["refs"]...)
	annotationLists := map[string]map[string]string{
		"refs":          {hook.PushAnnotation: "refs/heads/*/7/*,refs/tags/v1"},
		"read":          {hook.AccessAnnotation: "read"},
		"read and refs": {hook.AccessAnnotation: "read", hook.PushAnnotation: "refs/heads/*/7/*"},
	}
	const both, flags, annotations, neither = "agent/7/", "agent/8/", "other/7/", "other/8/"
	anything := []string{both, flags, annotations, neither}
	const flagPatterns, annotationPatterns = "refs/heads/agent/**, refs/tags/demo/*", "refs/heads/*/7/*, refs/tags/v1"
	readOnly := []string{"the token may fetch and not push"}
	only := func(patterns string) []string {
		return []string{"[remote rejected] ", "REF", "(the token may push to " + patterns + ")"}
	}
	for _, row := range []struct {
		flags, annotations string
		pushes             []string // to branches whose names begin so
		says               []string // the terminal, of a push to REF that is refused
	}{
		{"", "", anything, nil},
		{"", "refs", []string{both, annotations}, only(annotationPatterns)},
		{"", "read", nil, readOnly},
		{"", "read and refs", nil, readOnly},
		{"refs", "", []string{both, flags}, only(flagPatterns)},
		{"refs", "refs", []string{both}, only(flagPatterns + " that is also " + annotationPatterns)},
		{"refs", "read", nil, readOnly},
		{"refs", "read and refs", nil, readOnly},
		{"read", "", nil, readOnly},
		{"read", "refs", nil, readOnly},
		{"read", "read", nil, readOnly},
		{"read", "read and refs", nil, readOnly},
		{"read and refs", "", nil, readOnly},
		{"read and refs", "refs", nil, readOnly},
		{"read and refs", "read", nil, readOnly},
		{"read and refs", "read and refs", nil, readOnly},
	} {
		for _, hashed := range []bool{false, true} {
			t.Run(fmt.Sprintf("flags=%s/annotations=%s/hashed=%v", row.flags, row.annotations, hashed), func(t *testing.T) {
				t.Parallel()
				h := open(t, gate.Settings{})
				demo := h.demo(t, "demo", 3)
				for _, kind := range anything {
					for _, name := range []string{"moved", "forced", "deleted"} {
						git(t, demo, "update-ref", "refs/heads/"+kind+name, "main~1")
					}
				}
				args := flagLists[row.flags]
				if hashed {
					args = append([]string{"--hashed"}, args...)
				}
				token := h.containerToken(t, args, annotationLists[row.annotations])
				work := filepath.Join(h.dir, "work")
				git(t, h.dir, "clone", "--quiet", h.url(token, "demo"), work)
				git(t, work, "fetch", "--quiet", "origin", neither+"moved")

				before := git(t, demo, "for-each-ref")
				refused := 0
				refuse := func(ref string, refspecs ...string) {
					t.Helper()
					refused++
					said := gitFails(t, work, append([]string{"push", "origin"}, refspecs...)...)
					for _, words := range row.says {
						if words = strings.ReplaceAll(words, "REF", ref); !strings.Contains(said, words) {
							t.Errorf("git push %q does not say %q, but\n%s", refspecs, words, said)
						}
					}
				}
				var allowed []string
				for _, kind := range anything {
					each := []string{"main:refs/heads/" + kind + "created", "main:" + kind + "moved", "+main~2:" + kind + "forced", ":" + kind + "deleted"}
					if slices.Contains(row.pushes, kind) {
						allowed = append(allowed, each...)
						continue
					}
					for i, name := range []string{"created", "moved", "forced", "deleted"} {
						refuse(kind+name, each[i])
					}
				}
				if row.pushes != nil && len(row.pushes) < len(anything) {
					refuse("main", append(allowed, "+main~1:main")...)
				}
				if after := git(t, demo, "for-each-ref"); after != before {
					t.Errorf("what is refused moves:\n%s", after)
				}
				h.trailed(t, trail.Refused, refused)

				if allowed != nil {
					git(t, work, append([]string{"push", "--quiet", "origin"}, allowed...)...)
				}
				main := git(t, demo, "rev-parse", "main")
				for _, kind := range row.pushes {
					for name, want := range map[string]string{"created": main, "moved": main, "forced": git(t, demo, "rev-parse", "main~2"), "deleted": ""} {
						if is := git(t, demo, "for-each-ref", "--format=%(objectname)", "refs/heads/"+kind+name); is != want {
							t.Errorf("%s%s is at %q, not %q", kind, name, is, want)
						}
					}
				}
			})
		}
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
