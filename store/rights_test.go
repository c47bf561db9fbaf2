package store_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/store"
)

// Another program's key, a neighbour and the key "gate" are carried over, byte by byte.
func TestChangingRightsKeepsAllElse(t *testing.T) {
	const neighbour = `"other": {"project":"x",  "container": "c2"}`
	entry := func(fields string) string {
		return "{" + neighbour + ",\n  \"sha256:" + strings.Repeat("0", 64) + "\": {\n    " + fields + "\n  }\n}\n"
	}
	const rest = `"task": "1",
    "note": {
      "b": 1.50,
      "a": "\u00fc"
    },
    "container": "c1",
    "gate": {
      "listen": "127.0.0.1:9418",
      "withheld": true
    }`

	plain := entry(`"project": "demo",
    "scope": "demo",
    ` + rest)
	for name, row := range map[string]struct {
		edit func(*store.Rights)
		want string
	}{
		"another project": {func(r *store.Rights) { r.Also["lib"] = "read" }, entry(`"also": {
      "lib": "read"
    },
    "project": "demo",
    "scope": "demo",
    ` + rest)},
		"read only": {func(r *store.Rights) { r.Limits.ReadOnly = true; r.Also["lib"] = "write" }, entry(`"limited": {
      "project": "demo",
      "access": "read",
      "also": {
        "lib": "write"
      }
    },
    ` + rest)},
		"refs": {func(r *store.Rights) { r.Limits.Push = [][]string{{"refs/heads/x/*"}} }, entry(`"limited": {
      "project": "demo",
      "access": "write",
      "push": [
        [
          "refs/heads/x/*"
        ]
      ]
    },
    ` + rest)},
	} {
		t.Run(name, func(t *testing.T) {
			f := tokenFile(t)
			write(t, f.Path, plain)
			edit := func(edit func(*store.Rights)) {
				t.Helper()
				changed, err := f.ChangeRights("c1", func(r *store.Rights) error { edit(r); return nil })
				must(t, err)
				entries, err := f.Entries()
				must(t, err)
				if len(changed) != 1 || len(entries) != 2 {
					t.Fatalf("changed %+v of %+v", changed, entries)
				}
				if diff := cmp.Diff(changed[0].Limits, entries[1].Limits); diff != "" {
					t.Errorf("limits (-said +written):\n%s", diff)
				}
			}

			edit(row.edit)
			content, err := os.ReadFile(f.Path)
			must(t, err)
			if diff := cmp.Diff(row.want, string(content)); diff != "" {
				t.Errorf("the file (-want +have):\n%s", diff)
			}

			// And back: the same keys, if not in the same order.
			edit(func(r *store.Rights) { r.Limits, r.Also = store.Limits{}, store.Also{} })
			content, err = os.ReadFile(f.Path)
			must(t, err)
			if !strings.Contains(string(content), rest) || !strings.Contains(string(content), `"project": "demo"`) || !strings.Contains(string(content), `"scope": "demo"`) {
				t.Errorf("the file is\n%s", content)
			}
		})
	}
}

// A container that runs cannot be given a service: nothing listens for it in its network.
func TestServicesCanOnlyBeTakenAway(t *testing.T) {
	entry := func(services string) string {
		return `{
  "sha256:` + strings.Repeat("0", 64) + `": {
    "project": "demo",
    "scope": "demo",
    "task": "1",
    "container": "c1",
    "gate": {
      "listen": "127.0.0.1:9418",` + services + `
      "future": [],
      "withheld": true
    }
  }
}
`
	}
	f := tokenFile(t)
	before := entry(`
      "services": {"db": "127.0.0.1:5432", "llm": "127.0.0.1:4000"},`)
	write(t, f.Path, before)

	for _, row := range []struct {
		name string
		edit func(*store.Rights)
		want string // empty: it is refused
	}{
		{"another service", func(r *store.Rights) { r.Services["more"] = "127.0.0.1:1" }, ""},
		{"a service at another address", func(r *store.Rights) { r.Services["llm"] = "127.0.0.1:1" }, ""},
		{"without one service", func(r *store.Rights) { delete(r.Services, "llm") }, entry(`
      "services": {
        "db": "127.0.0.1:5432"
      },`)},
		{"without any service", func(r *store.Rights) { delete(r.Services, "db") }, entry("")},
	} {
		changed, err := f.ChangeRights("c1", func(r *store.Rights) error { row.edit(r); return nil })
		if refused := row.want == ""; (err != nil) != refused {
			t.Errorf("%s: %+v, %v", row.name, changed, err)
		}
		if row.want != "" {
			before = row.want
		}
		content, err := os.ReadFile(f.Path)
		must(t, err)
		if diff := cmp.Diff(before, string(content)); diff != "" {
			t.Errorf("%s: the file (-want +have):\n%s", row.name, diff)
		}
	}
}

func TestRightsThatMustNotBeIssuedChangeNothing(t *testing.T) {
	no := errors.New("no")
	for name, edit := range map[string]func(*store.Rights) error{
		"the caller says no": func(r *store.Rights) error { r.Limits.ReadOnly = true; return no },
		"a hostile name":     func(r *store.Rights) error { r.Also["../x"] = "read"; return nil },
		"its own project":    func(r *store.Rights) error { r.Also["demo"] = "read"; return nil },
		"an odd access":      func(r *store.Rights) error { r.Also["lib"] = "append"; return nil },
		"a bad pattern":      func(r *store.Rights) error { r.Limits.Push = [][]string{{"main"}}; return nil },
	} {
		t.Run(name, func(t *testing.T) {
			f, _ := forDemoAndLib(t)
			before, err := os.ReadFile(f.Path)
			must(t, err)
			if changed, err := f.ChangeRights("c1", edit); err == nil {
				t.Errorf("changed %+v", changed)
			}
			if after, err := os.ReadFile(f.Path); err != nil || string(after) != string(before) {
				t.Errorf("the file is\n%s", after)
			}
		})
	}
}
