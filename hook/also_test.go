package hook

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/store"
)

// Flags and annotations decide on the projects in a container's entry.
func TestAContainerMayHaveOtherProjectsBesideItsOwn(t *testing.T) {
	many := func(number int) string {
		var names []string
		for i := range number {
			names = append(names, fmt.Sprint("lib", i))
		}
		return strings.Join(names, ",")
	}
	byName, some := []string{"refs/heads/{project}/{task}/*"}, []string{"demo", "tools*"}
	for _, row := range []struct {
		name        string
		settings    Settings
		annotations []string
		also        store.Also
		limits      store.Limits
		err         string // empty: it starts
	}{
		{name: "none"},
		{name: "annotations without a name", annotations: []string{ReadAnnotation, "", WriteAnnotation, " ,"}},
		{name: "to read", annotations: []string{ReadAnnotation, "lib"}, also: store.Also{"lib": "read"}},
		{name: "to write", annotations: []string{WriteAnnotation, "tools"}, also: store.Also{"tools": "write"}},
		{name: "both, with commas and spaces", annotations: []string{ReadAnnotation, "lib, docs  a,,b ", WriteAnnotation, "tools x"},
			also: store.Also{"lib": "read", "docs": "read", "a": "read", "b": "read", "tools": "write", "x": "write"}},
		{name: "as many as there may be", annotations: []string{ReadAnnotation, many(31), WriteAnnotation, "tools"}, also: manyAlso(31)},
		{name: "one more", annotations: []string{ReadAnnotation, many(32), WriteAnnotation, "tools"}, err: "at most 32"},

		{name: "admitted to be written, and so to be read", settings: Settings{AllowProjects: some}, annotations: []string{ReadAnnotation, "tools1", WriteAnnotation, "tools2"},
			also: store.Also{"tools1": "read", "tools2": "write"}},
		{name: "admitted to be read", settings: Settings{AllowProjects: some, AllowReads: []string{"x", "lib?"}}, annotations: []string{ReadAnnotation, "lib1 x"},
			also: store.Also{"lib1": "read", "x": "read"}},
		{name: "admitted only to be read, not to be written", settings: Settings{AllowProjects: some, AllowReads: []string{"lib"}}, annotations: []string{WriteAnnotation, "lib"},
			err: `annotation terok.write: project "lib" is not among those that are admitted by --allow-project`},
		{name: "admitted not even to be read", settings: Settings{AllowProjects: some, AllowReads: []string{"lib"}}, annotations: []string{ReadAnnotation, "lib2"},
			err: `annotation terok.read: project "lib2" is not among those that are admitted for reading by --allow-read or --allow-project`},
		{name: "its own project is admitted only to be read", settings: Settings{AllowProjects: some, AllowReads: []string{"lib"}}, annotations: []string{ProjectAnnotation, "lib"},
			err: `project "lib" is not among those that are admitted by --allow-project`},

		{name: "its own to be read", annotations: []string{ReadAnnotation, "lib,demo"}, err: `project "demo" is the container's own`},
		{name: "its own to be written", annotations: []string{WriteAnnotation, "demo"}, err: `project "demo" is the container's own`},
		{name: "one twice", annotations: []string{ReadAnnotation, "lib lib"}, err: `project "lib" is named twice`},
		{name: "one to be read and written", annotations: []string{ReadAnnotation, "lib", WriteAnnotation, "lib"}, err: `annotation terok.write: project "lib" is named twice`},
		{name: "all", annotations: []string{ReadAnnotation, "*"}, err: `annotation terok.read: "*" is refused`},
		{name: "a path", annotations: []string{WriteAnnotation, "../lib"}, err: `annotation terok.write: "../lib" is refused`},
		{name: "names with another separator", annotations: []string{ReadAnnotation, "lib\tdocs"}, err: `annotation terok.read: "lib\tdocs" is refused`},
		{name: "a misspelled annotation", annotations: []string{"terok.reads", "lib"}, err: `annotation "terok.reads" is not known`},

		{name: "one to be read, and the operator allows only reading", settings: Settings{Access: "read"}, annotations: []string{ReadAnnotation, "lib"},
			also: store.Also{"lib": "read"}, limits: store.Limits{ReadOnly: true}},
		{name: "one to be written, but the operator allows only reading", settings: Settings{Access: "read"}, annotations: []string{WriteAnnotation, "tools"},
			err: "annotation terok.write: the container's access is read: use terok.read"},
		{name: "one to be written by a container that only reads", annotations: []string{WriteAnnotation, "tools", AccessAnnotation, "read"},
			err: "annotation terok.write: the container's access is read: use terok.read"},
		{name: "one to be written, and the operator allows append", settings: Settings{Access: "append"}, annotations: []string{WriteAnnotation, "tools", ReadAnnotation, "lib"},
			also: store.Also{"lib": "read", "tools": "write"}, limits: store.Limits{AppendOnly: true}},

		{name: "push patterns for its own project only", settings: Settings{Push: byName}, annotations: []string{ReadAnnotation, "lib"},
			also: store.Also{"lib": "read"}, limits: store.Limits{Push: [][]string{{"refs/heads/demo/1/*"}}}},
		{name: "push patterns for each project that may be written", settings: Settings{Push: byName}, annotations: []string{WriteAnnotation, "tools", PushAnnotation, "refs/heads/{project}/**,refs/tags/{task}"},
			also: store.Also{"tools": "write"}, limits: store.Limits{Push: [][]string{{"refs/heads/{project}/1/*"}, {"refs/heads/{project}/**", "refs/tags/1"}}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, hashed := range []bool{false, true} {
				s := row.settings
				s.Hashed = hashed
				s.EnvDir = filepath.Join(t.TempDir(), "env")
				s.Tokens.Path = filepath.Join(t.TempDir(), "tokens.json")
				must(t, s.Check())
				state := map[string]any{"id": "c1"}
				annotated(row.annotations...)(state)

				_, err := s.Prestart(strings.NewReader(jsonOf(t, state)))
				entries, entriesErr := s.Tokens.Entries()
				must(t, entriesErr)
				if row.err != "" {
					if !errors.Is(err, ErrRefused) || !strings.Contains(Detail(err)+WayOut(err), row.err) || len(entries) != 0 {
						t.Errorf("%d entries; no refusal with %q: %s%s", len(entries), row.err, Detail(err), WayOut(err))
					}
					continue
				}
				must(t, err)
				if len(entries) != 1 {
					t.Fatalf("%d entries", len(entries))
				}
				if diff := cmp.Diff(row.also, entries[0].Also); diff != "" {
					t.Errorf("other projects (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(row.limits, entries[0].Limits); diff != "" {
					t.Errorf("limits (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func manyAlso(number int) store.Also {
	also := store.Also{"tools": "write"}
	for i := range number {
		also[fmt.Sprint("lib", i)] = "read"
	}
	return also
}

func TestTheEnvFileNamesTheOtherProjects(t *testing.T) {
	const own = "CODE_REPO=" + gate + "/demo.git\n"
	for name, row := range map[string]struct {
		also   store.Also
		limits store.Limits
		want   string
	}{
		"none":                 {nil, store.Limits{}, "TEROK_ACCESS=write\nGIT_"},
		"to read":              {store.Also{"lib": "read", "docs": "read"}, store.Limits{}, "TEROK_ACCESS=write\nTEROK_READ=docs,lib\nGIT_"},
		"to write":             {store.Also{"tools": "write"}, store.Limits{}, "TEROK_ACCESS=write\nTEROK_WRITE=tools\nGIT_"},
		"both":                 {store.Also{"tools": "write", "lib": "read"}, store.Limits{AppendOnly: true}, "TEROK_ACCESS=append\nTEROK_READ=lib\nTEROK_WRITE=tools\nGIT_"},
		"patterns for its own": {store.Also{"tools": "write"}, store.Limits{Push: [][]string{{"refs/heads/{project}/*"}}}, "TEROK_ACCESS=write\nTEROK_PUSH=refs/heads/demo/*\nTEROK_WRITE=tools\nGIT_"},
	} {
		want := request{Grant: someRequest.Grant, Limits: row.limits, Also: row.also}
		files, err := Settings{GateURL: gate}.files(want, someToken, someContainer, nil)
		must(t, err)
		if !strings.Contains(string(files[0].content), own+row.want) {
			t.Errorf("%s: gate.env is\n%s", name, files[0].content)
		}
	}
}

// podman kube generate adds /NAME to each annotation of the container NAME.
func TestInAPodEachContainerHasItsOwnOtherProjects(t *testing.T) {
	storage := t.TempDir()
	must(t, os.WriteFile(filepath.Join(storage, "containers.json"), []byte(`[{"id": "c1", "names": ["pod-web"]}]`), 0o600))
	annotations, err := ofContainer(map[string]string{
		ReadAnnotation: "all", ReadAnnotation + "/web": "lib", ReadAnnotation + "/db": "secrets", WriteAnnotation + "/web": "tools", WriteAnnotation + "/db": "dumps",
	}, func() (string, error) { return nameInStorage("c1", storage) })
	must(t, err)
	also, err := Settings{}.also(annotations, "demo")
	must(t, err)
	if diff := cmp.Diff(store.Also{"lib": "read", "tools": "write"}, also); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
