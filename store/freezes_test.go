package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// forDemoAndLib returns a token file with a token of container c1 for demo and lib, and the path of
// its file of freezes, which does not exist yet.
func forDemoAndLib(t *testing.T) (f store.File, freezes string) {
	t.Helper()
	f = tokenFile(t)
	issue(t, f, store.Entry{
		Token: someToken, Grant: store.Grant{Project: "demo", Task: "1"}, Container: "c1", Also: store.Also{"lib": store.AccessWrite},
	})
	return f, filepath.Join(filepath.Dir(f.Path), store.FreezesName)
}

func TestWhatIsFrozen(t *testing.T) {
	for name, row := range map[string]struct {
		content   string
		demo, lib error
	}{
		"nothing":              {`{}`, nil, nil},
		"nothing named":        {`{"containers": {}, "projects": []}`, nil, nil},
		"others":               {`{"containers": {"c2": "", "": ""}, "projects": ["demo2", "dem", "zoo"]}`, nil, nil},
		"a name that is an id": {`{"containers": {"c2": "c1"}}`, nil, nil},
		"everything":           {`{"all": true}`, store.ErrFrozen, store.ErrFrozen},
		"its container":        {`{"containers": {"c1": "web"}}`, store.ErrFrozen, store.ErrFrozen},
		"its own project":      {`{"projects": ["zoo", "demo"]}`, store.ErrFrozen, store.ErrFrozen},
		"its other project":    {`{"projects": ["lib"]}`, nil, store.ErrFrozen},

		"no content":     {``, store.ErrFreezesWrong, store.ErrFreezesWrong},
		"null":           {`null`, store.ErrFreezesWrong, store.ErrFreezesWrong},
		"a list":         {`[]`, store.ErrFreezesWrong, store.ErrFreezesWrong},
		"half an object": {`{"projects": ["zoo"]`, store.ErrFreezesWrong, store.ErrFreezesWrong},
		"two objects":    {`{} {}`, store.ErrFreezesWrong, store.ErrFreezesWrong},
		"an unknown key": {`{"tasks": ["1"]}`, store.ErrFreezesWrong, store.ErrFreezesWrong},
		"another type":   {`{"projects": "zoo"}`, store.ErrFreezesWrong, store.ErrFreezesWrong},
	} {
		t.Run(name, func(t *testing.T) {
			f, freezes := forDemoAndLib(t)
			r := f.Reader(func(error) {})
			before, ok := r.Find(someToken)
			if !ok {
				t.Fatal("the token is not valid")
			}
			write(t, freezes, row.content)

			for project, want := range map[string]error{"demo": row.demo, "lib": row.lib} {
				use := store.Use{Project: project, Push: true}
				pass, ok := r.Find(someToken)
				if _, err := pass.For(use); !ok || !errors.Is(err, want) {
					t.Errorf("in %s: %v, %v", project, ok, err)
				}
				if err := r.Still(before, use); !errors.Is(err, want) {
					t.Errorf("what was begun in %s: %v", project, err)
				}
			}

			// After a thaw, the token allows what it allowed before.
			must(t, os.Remove(freezes))
			if err := r.Still(before, pushDemo); err != nil {
				t.Errorf("thawed: %v", err)
			}
		})
	}
}

func TestNothingIsServedIfTheFileOfFreezesIsNotTheOperators(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, path string){
		"others can write it":    func(t *testing.T, path string) { must(t, os.Chmod(path, 0o602)) },
		"its group can write it": func(t *testing.T, path string) { must(t, os.Chmod(path, 0o620)) },
		"another user's": func(t *testing.T, path string) {
			testenv.NeedRoot(t)
			must(t, os.Chown(path, 12345, -1))
		},
		"a directory": func(t *testing.T, path string) {
			must(t, os.Remove(path))
			must(t, os.Mkdir(path, 0o700))
		},
		"a symbolic link": func(t *testing.T, path string) {
			must(t, os.Rename(path, path+".real"))
			must(t, os.Symlink(path+".real", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, freezes := forDemoAndLib(t)
			write(t, freezes, "{}")
			var reports []error
			r := f.Reader(func(err error) { reports = append(reports, err) })
			pass, _ := r.Find(someToken)
			valid, release := r.While(t.Context(), pass, fetchDemo)
			defer release()

			spoil(t, freezes)
			if err := ends(t, valid); !errors.Is(err, store.ErrFreezesWrong) {
				t.Errorf("it ends because %v", err)
			}
			if err := r.Still(pass, fetchDemo); !errors.Is(err, store.ErrFreezesWrong) {
				t.Errorf("it may go on: %v", err)
			}
			if len(reports) != 1 || !errors.Is(reports[0], store.ErrFreezesWrong) {
				t.Errorf("reports are %q", reports)
			}

			edit := func(all *store.Freezes) bool { return all.SetProject("zoo", true) }
			if err := f.EditFreezes(edit); err == nil {
				t.Error("the file is replaced")
			}
		})
	}
}

func TestFreezesChangeNoEntryAndAreEditedOneAfterTheOther(t *testing.T) {
	f, _ := forDemoAndLib(t)
	before, err := os.ReadFile(f.Path)
	must(t, err)

	edit := func(project string, frozen bool) {
		if err := f.EditFreezes(func(all *store.Freezes) bool { return all.SetProject(project, frozen) }); err != nil {
			t.Error(err)
		}
	}
	each := func(frozen bool) {
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() { edit(fmt.Sprintf("p%d", i), frozen) })
		}
		all.Wait()
	}

	each(true)
	if freezes, err := f.Freezes(); err != nil || len(freezes.Projects) != 16 {
		t.Errorf("frozen are %+v, %v", freezes, err)
	}
	each(false)
	if freezes, err := f.Freezes(); err != nil || len(freezes.Projects) != 0 {
		t.Errorf("frozen are %+v, %v", freezes, err)
	}

	after, err := os.ReadFile(f.Path)
	must(t, err)
	if string(after) != string(before) {
		t.Errorf("the token file was\n%s\nand is\n%s", before, after)
	}
}

func TestTenThousandFreezesAreReadOnce(t *testing.T) {
	f, _ := forDemoAndLib(t)
	must(t, f.EditFreezes(func(all *store.Freezes) bool {
		for i := range 10_000 {
			all.SetContainer(fmt.Sprintf("%064x", i), "name", true)
		}
		return true
	}))
	r := f.Reader(func(error) {})
	pass, _ := r.Find(someToken)
	if _, err := pass.For(pushDemo); err != nil {
		t.Error(err)
	}

	testenv.Eventually(t, "asking makes fewer than 30 allocations", func() bool {
		return testing.AllocsPerRun(10, func() { _ = r.Still(pass, pushDemo) }) < 30
	})
}
