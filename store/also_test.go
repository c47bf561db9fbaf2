package store_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/store"
)

// Each row is an entry, and what it allows in its own project demo, in lib, tools and other, and in
// a project without a name.
func TestWhatATokenForSeveralProjectsAllowsInEach(t *testing.T) {
	const several = `"also": {"lib": "read", "tools": "write"}`
	type allowed struct {
		access string
		pushes []string // of the refs below
	}
	refs := []string{"refs/heads/main", "refs/heads/demo/1", "refs/heads/tools/1", "refs/heads/{project}/1"}
	none := allowed{}
	everything := allowed{"write", refs}
	reads := allowed{"read", nil}

	for _, row := range []struct {
		name, entry                    string
		demo, lib, tools, other, empty allowed
	}{
		{"its own project alone", `{"project": "demo"}`, everything, none, none, none, none},
		{"without limits", `{"project": "demo", ` + several + `}`, everything, reads, everything, none, none},
		{"read only", `{"limited": {"project": "demo", "access": "read", ` + several + `}}`, reads, reads, reads, none, none},
		{"append only", `{"limited": {"project": "demo", "access": "append", ` + several + `}}`,
			allowed{"append", refs}, reads, allowed{"append", refs}, none, none},
		{"one branch of each", `{"limited": {"project": "demo", "access": "write", "push": [["refs/heads/main"]], ` + several + `}}`,
			allowed{"write", refs[:1]}, reads, allowed{"write", refs[:1]}, none, none},
		{"branches by the project's name", `{"limited": {"project": "demo", "access": "write", "push": [["refs/heads/{project}/*"]], ` + several + `}}`,
			allowed{"write", refs[1:2]}, reads, allowed{"write", refs[2:3]}, none, none},
		{"append only, by two lists of branches", `{"limited": {"project": "demo", "access": "append", "push": [["refs/heads/**"], ["refs/heads/main", "refs/heads/{project}/1"]], ` + several + `}}`,
			allowed{"append", refs[:2]}, reads, allowed{"append", []string{refs[0], refs[2]}}, none, none},
	} {
		t.Run(row.name, func(t *testing.T) {
			r, _ := reader(t, entry(someToken, row.entry))
			pass, ok := r.Find(someToken)
			if !ok {
				t.Fatal("the token does not count")
			}
			entries, err := store.File{Path: r.Path()}.Entries()
			if err != nil {
				t.Fatal(err)
			}

			for project, want := range map[string]allowed{"demo": row.demo, "lib": row.lib, "tools": row.tools, "other": row.other, "": row.empty} {
				limits, ok := pass.In(project)
				if ok != (want.access != "") {
					t.Errorf("in %q something is allowed: %v", project, ok)
				}
				if ok && limits.Access() != want.access {
					t.Errorf("in %q the access is %s, not %s", project, limits.Access(), want.access)
				}
				for _, ref := range refs {
					if may := ok && limits.MayPush(ref); may != slices.Contains(want.pushes, ref) {
						t.Errorf("in %q a push to %s is allowed: %v", project, ref, may)
					}
				}
				ofEntry, okToo := entries[0].In(project)
				if diff := cmp.Diff(limits, ofEntry); diff != "" || ok != okToo {
					t.Errorf("in %q, pass and entry differ (-pass +entry):\n%s", project, diff)
				}
			}
			if again, _ := r.Find(someToken); r.Still(pass, store.Use{Project: pass.Project}) != nil || !cmp.Equal(again.Limits, pass.Limits) {
				t.Error("asking has changed the pass")
			}
		})
	}
}

func TestOtherProjectsThatMakeNoSenseAreNotIssued(t *testing.T) {
	of := func(number int) store.Also {
		also := store.Also{}
		for i := range number {
			also[fmt.Sprint("p", i)] = store.AccessRead
		}
		return also
	}
	for name, row := range map[string]struct {
		also store.Also
		says string // empty: it is issued
	}{
		"as many as there may be": {of(32), ""},
		"one more":                {of(33), "at most 32"},
		"its own":                 {store.Also{"demo": "read"}, "the token's own"},
		"a wildcard":              {store.Also{"*": "read"}, "is refused"},
		"no name":                 {store.Also{"": "read"}, "empty"},
		"to append":               {store.Also{"lib": "append"}, "neither read nor write"},
		"without an access":       {store.Also{"lib": ""}, "neither read nor write"},
	} {
		t.Run(name, func(t *testing.T) {
			f := tokenFile(t)
			_, err := f.Issue(store.Entry{Token: tokenNamed("a"), Grant: store.Grant{Project: "demo", Task: "1"}, Also: row.also})
			if row.says != "" {
				wantError(t, err, row.says)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestProjectsAreListedByTheirAccess(t *testing.T) {
	also := store.Also{"z": "read", "a": "read", "m": "write"}
	if read, write := also.With("read"), also.With("write"); !slices.Equal(read, []string{"a", "z"}) || !slices.Equal(write, []string{"m"}) {
		t.Errorf("read %v, write %v", read, write)
	}
}

// Another program may write a key "also" that names no other project or is not understood. The
// entry counts, but only for its own project.
func TestATokenIsServedForItsOwnProjectWhateverItSaysOfOthers(t *testing.T) {
	for _, also := range []string{`7`, `null`, `"lib"`, `["lib"]`, `{}`, `{"lib": 1}`, `{"lib": "read", "../x": "read"}`} {
		r, _ := reader(t, entry(someToken, `{"project": "demo", "also": `+also+`}`))
		pass, ok := r.Find(someToken)
		_, own := pass.In("demo")
		_, others := pass.In("lib")
		if !ok || !own || others {
			t.Errorf("with %s it counts: %v; for its own project: %v; for another: %v", also, ok, own, others)
		}
	}
}

// A gate looks up the token's entry at every request.
func TestATokenForManyProjectsIsFoundAsCheaplyAsOne(t *testing.T) {
	var names []string
	for i := range 31 {
		names = append(names, fmt.Sprintf(`"lib%d": "read"`, i))
	}
	also := `"also": {` + strings.Join(append(names, `"tools": "write"`), ", ") + `}`

	cost := func(value, project string) float64 {
		r, _ := reader(t, entry(someToken, value))

		// A file that has just changed is read each time.
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(r.Path(), old, old); err != nil {
			t.Fatal(err)
		}
		if _, ok := r.Find(someToken); !ok {
			t.Fatal("the token does not count")
		}

		return testing.AllocsPerRun(100, func() {
			pass, ok := r.Find(someToken)
			if _, is := pass.In(project); !ok || !is {
				t.Error("the token is not for the project")
			}
		})
	}

	one := cost(`{"project": "demo", "task": "1"}`, "demo")
	for name, several := range map[string]float64{
		"its own":                cost(`{"project": "demo", "task": "1", `+also+`}`, "demo"),
		"one to read":            cost(`{"project": "demo", "task": "1", `+also+`}`, "lib7"),
		"one to write":           cost(`{"project": "demo", "task": "1", `+also+`}`, "tools"),
		"one of a limited token": cost(`{"limited": {"project": "demo", "access": "append", "push": [["refs/heads/{project}"]], `+also+`}, "task": "1"}`, "lib7"),
	} {
		if several > one {
			t.Errorf("%s: %v allocations, and %v for a token of one project", name, several, one)
		}
	}
}
