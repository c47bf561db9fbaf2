package store_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

var must = testenv.Must

const someToken = "terok-g-0123456789abcdef0123456789abcdef"

// reader returns a Reader of a token file with this content, and a function that puts a file with
// other content into its place.
func reader(t *testing.T, content string) (r *store.Reader, replace func(content string)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens.json")
	replace = func(content string) {
		t.Helper()
		write(t, path+".new", content)
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	replace(content)
	return store.File{Path: path}.Reader(func(error) {}), replace
}

// entry is the token file's text for one entry.
func entry(key, value string) string { return fmt.Sprintf("{%q: %s}\n", key, value) }

func hashed(token string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(token))) }

func TestWhichEntriesCount(t *testing.T) {
	for name, row := range map[string]struct {
		key, value, token string
		want              bool
	}{
		"as the first Python program writes it":     {someToken, `{"project": "demo", "task": "1"}`, someToken, true},
		"as a later Python program writes it":       {someToken, `{"scope": "demo", "task": "1"}`, someToken, true},
		"by the token's hash":                       {hashed(someToken), `{"project": "demo", "task": "1"}`, someToken, true},
		"the hash is no token":                      {hashed(someToken), `{"project": "demo", "task": "1"}`, hashed(someToken), false},
		"a hash in capitals":                        {"sha256:" + fmt.Sprintf("%X", sha256.Sum256([]byte(someToken))), `{"project": "demo", "task": "1"}`, someToken, false},
		"half a hash":                               {hashed(someToken)[:40], `{"project": "demo", "task": "1"}`, someToken, false},
		"another token":                             {someToken, `{"project": "demo", "task": "1"}`, someToken + "0", false},
		"no token":                                  {"", `{"project": "demo", "task": "1"}`, "", false},
		"no project":                                {someToken, `{"task": "1"}`, someToken, false},
		"no object":                                 {someToken, `"demo"`, someToken, false},
		"a limit":                                   {someToken, `{"limited": {"project": "demo", "access": "read"}, "task": "1"}`, someToken, true},
		"a limit of an unknown kind":                {someToken, `{"limited": {"project": "demo", "access": "write", "until": "noon"}}`, someToken, false},
		"an access of an unknown kind":              {someToken, `{"limited": {"project": "demo", "access": "admin"}}`, someToken, false},
		"no access":                                 {someToken, `{"limited": {"project": "demo"}}`, someToken, false},
		"push is a string and not a list":           {someToken, `{"limited": {"project": "demo", "access": "write", "push": "refs/heads/a"}}`, someToken, false},
		"a push to null":                            {someToken, `{"limited": {"project": "demo", "access": "write", "push": null}}`, someToken, false},
		"other projects":                            {someToken, `{"project": "demo", "task": "1", "also": {"lib": "read"}}`, someToken, true},
		"other projects of an unknown kind":         {someToken, `{"project": "demo", "task": "1", "also": {"lib": "admin"}}`, someToken, true},
		"a limit with other projects":               {someToken, `{"limited": {"project": "demo", "access": "read", "also": {"lib": "read"}}, "task": "1"}`, someToken, true},
		"a limit with others of an unknown kind":    {someToken, `{"limited": {"project": "demo", "access": "read", "also": {"lib": "admin"}}, "task": "1"}`, someToken, false},
		"a limit that is null":                      {someToken, `{"limited": null, "project": "demo"}`, someToken, false},
		"a name that Basic credentials cannot have": {"a:b", `{"project": "demo", "task": "1"}`, "a:b", false},
		"limited and unlimited":                     {someToken, `{"limited": {"project": "demo", "access": "read"}, "project": "demo"}`, someToken, false},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := reader(t, entry(row.key, row.value))
			pass, ok := r.Find(row.token)
			if ok != row.want {
				t.Fatalf("the token counts: %v", ok)
			}
			if ok && (pass.Project != "demo" || pass.Task != "1" || pass.Fingerprint != store.Token(someToken).Fingerprint()) {
				t.Errorf("the token is read as %+v", pass)
			}

			// A reader of all entries comes to the same result.
			entries, err := store.File{Path: r.Path()}.Entries()
			if err != nil {
				t.Fatal(err)
			}
			counts := len(entries) == 1 && entries[0].Is(someToken) && entries[0].State().Counts()
			if row.token == someToken && counts != row.want {
				t.Errorf("by the state of %+v, the token counts: %v", entries, counts)
			}
		})
	}
}

func TestATokenIsFoundByItsKeyHoweverTheFileNamesIt(t *testing.T) {
	key := store.Token(someToken).Key()
	if again := store.Token(key).Key(); key != hashed(someToken) || again != key {
		t.Fatalf("the key is %s, and the key of that key is %s", key, again)
	}
	for _, inTheFile := range []string{someToken, hashed(someToken)} {
		r, _ := reader(t, entry(inTheFile, `{"project": "demo", "task": "1"}`))
		if pass, ok := r.FindKey(key); !ok || pass.Project != "demo" {
			t.Errorf("as %.8s..., the key finds %+v", inTheFile, pass)
		}
		if _, ok := r.FindKey(hashed("another")); ok {
			t.Error("another key is found")
		}
	}
}

func TestATokenOfADeadProcessIsRefusedBeforeASweep(t *testing.T) {
	needMachineID(t)
	f := tokenFile(t)
	for token, process := range map[string]*store.Process{
		"alive": living(t), "dead": ended(t), "another boot's": ofAnotherBoot(t), "without a process": nil,
	} {
		e := store.Entry{Token: store.Token(token), Grant: store.Grant{Project: "demo", Task: "1"}, Process: process}
		if err := f.Put(e); err != nil {
			t.Fatal(err)
		}
	}
	r := f.Reader(func(error) {})
	for token, want := range map[string]bool{"alive": true, "dead": false, "another boot's": false, "without a process": true} {
		if _, ok := r.Find(token); ok != want {
			t.Errorf("the token that is %s is found: %v", token, ok)
		}
	}
}

func TestEveryReplacementIsSeenAtOnce(t *testing.T) {
	with := entry(someToken, `{"project": "demo", "task": "1"}`)
	// Both contents have the same length, and a new file often has the inode of an earlier one.
	without := entry("terok-g-ffffffffffffffffffffffffffffffff", `{"project": "demo", "task": "1"}`)
	r, replace := reader(t, without)
	for i := range 200 {
		if _, ok := r.Find(someToken); ok {
			t.Fatalf("replacement %d: a token is found that the file does not have", i)
		}
		replace(with)
		if _, ok := r.Find(someToken); !ok {
			t.Fatalf("replacement %d: a token is not found that the file has", i)
		}
		replace(without)
	}
}

func TestAFileThatCannotBeReadAllowsNothingAndIsReportedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	var reports []error
	r := store.File{Path: path}.Reader(func(err error) { reports = append(reports, err) })

	find := func(want bool) {
		t.Helper()
		for range 3 {
			if _, ok := r.Find(someToken); ok != want {
				t.Errorf("the token is found: %v", ok)
			}
		}
	}

	find(false)

	write(t, path, entry(someToken, `{"project": "demo"}`))
	find(true)

	write(t, path, entry(someToken, `{"project": "demo"}`)[1:])
	find(false)

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	find(false)

	if len(reports) != 4 || reports[1] != nil {
		t.Fatalf("reports are %q", reports)
	}
	wantError(t, reports[0], path, "does not exist")
	wantError(t, reports[2], path, "byte ")
	wantError(t, reports[3], path, "does not exist")
}

// ends waits until the context is done and returns its cause.
func ends(t *testing.T, valid context.Context) error {
	t.Helper()
	select {
	case <-valid.Done():
		return context.Cause(valid)
	case <-time.After(20 * time.Second):
		t.Fatal("the context does not end")
		return nil
	}
}

// Uses of a token for demo.
var (
	fetchDemo = store.Use{Project: "demo"}
	pushDemo  = store.Use{Project: "demo", Push: true}
	useLLM    = store.Use{Service: "llm", Listen: "127.0.0.1:1"}
)

func TestAContextEndsWhenItsUseIsNoLongerAllowed(t *testing.T) {
	with := entry(someToken, `{"project": "demo", "task": "1", "also": {"lib": "write"}, "gate": {"listen": "127.0.0.1:2", "withheld": false, "services": {"llm": "127.0.0.1:1"}}}`)
	for name, row := range map[string]struct {
		now  string
		use  store.Use
		want error
	}{
		"revoked":                     {"{}", fetchDemo, store.ErrRevoked},
		"the file is corrupt":         {"{", fetchDemo, store.ErrRevoked},
		"another project's now":       {entry(someToken, `{"project": "other", "task": "1"}`), fetchDemo, store.ErrRevoked},
		"another container's now":     {entry(someToken, `{"project": "demo", "task": "1", "container": "c2"}`), fetchDemo, store.ErrRevoked},
		"no entry that counts at all": {entry(someToken, `{"task": "1"}`), fetchDemo, store.ErrRevoked},
		"limits that make no sense":   {entry(someToken, `{"limited": {"project": "demo", "access": "all"}, "task": "1"}`), fetchDemo, store.ErrRevoked},
		"a push, now read only":       {entry(someToken, `{"limited": {"project": "demo", "access": "read"}, "task": "1"}`), pushDemo, store.ErrReadOnly},
		"a push, now append only":     {entry(someToken, `{"limited": {"project": "demo", "access": "append"}, "task": "1"}`), pushDemo, store.ErrChanged},
		"a push to fewer refs":        {entry(someToken, `{"limited": {"project": "demo", "access": "write", "push": [["refs/heads/a"]]}, "task": "1"}`), pushDemo, store.ErrChanged},
		"a project that was dropped":  {entry(someToken, `{"project": "demo", "task": "1"}`), store.Use{Project: "lib"}, store.ErrNotTheirs},
		"a service that was dropped":  {entry(someToken, `{"project": "demo", "task": "1"}`), useLLM, store.ErrNoService},
		"a service listens elsewhere": {entry(someToken, `{"project": "demo", "task": "1", "gate": {"listen": "127.0.0.1:2", "withheld": false, "services": {"llm": "127.0.0.1:3"}}}`), useLLM, store.ErrNoService},
		"a project to read only now":  {entry(someToken, `{"project": "demo", "task": "1", "also": {"lib": "read"}}`), store.Use{Project: "lib", Push: true}, store.ErrReadOnlyHere},
	} {
		t.Run(name, func(t *testing.T) {
			r, replace := reader(t, with)
			pass, _ := r.Find(someToken)
			valid, release := r.While(t.Context(), pass, row.use)
			defer release()
			replace(row.now)
			if err := ends(t, valid); !errors.Is(err, row.want) {
				t.Errorf("it ends because %v", err)
			}
			if err := r.Still(pass, row.use); !errors.Is(err, row.want) {
				t.Errorf("it may go on: %v", err)
			}
		})
	}
}

func TestAContextOutlastsChangesThatDoNotAffectItsUse(t *testing.T) {
	for name, row := range map[string]struct {
		now string
		use store.Use
	}{
		"another token, and more keys in the entry": {fmt.Sprintf(`{"another": {"project": "x"}, %q: {"task":"1", "project":"demo", "scope":"demo", "note": 1}}`, someToken), pushDemo},
		"another project":         {entry(someToken, `{"project": "demo", "task": "1", "also": {"lib": "read"}}`), pushDemo},
		"a fetch that is limited": {entry(someToken, `{"limited": {"project": "demo", "access": "read"}, "task": "1"}`), fetchDemo},
	} {
		t.Run(name, func(t *testing.T) {
			r, replace := reader(t, entry(someToken, `{"project": "demo", "task": "1"}`))
			pass, _ := r.Find(someToken)
			valid, release := r.While(t.Context(), pass, row.use)
			defer release()
			replace(row.now)
			if err := r.Still(pass, row.use); err != nil || valid.Err() != nil {
				t.Errorf("it ended: %v", err)
			}
		})
	}
}

func TestAContextEndsWhenTheTokensProcessDies(t *testing.T) {
	cmd := helper(t, "wait")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}

	f := tokenFile(t)
	issue(t, f, store.Entry{Token: someToken, Grant: store.Grant{Project: "demo", Task: "1"}, Process: describe(t, cmd.Process.Pid)})
	r := f.Reader(func(error) {})
	pass, ok := r.Find(someToken)
	if !ok {
		t.Fatal("the token is not found")
	}

	valid, release := r.While(t.Context(), pass, fetchDemo)
	defer release()

	stdin.Close() // the process ends, and stays a zombie
	if err := ends(t, valid); !errors.Is(err, store.ErrDied) {
		t.Errorf("the context ends because %v", err)
	}

	_ = cmd.Wait()
	valid, release = r.While(t.Context(), pass, fetchDemo)
	defer release()
	if err := ends(t, valid); !errors.Is(err, store.ErrDied) {
		t.Errorf("a context that began after the death ends because %v", err)
	}
}

func TestManyReadersOfAFileThatChanges(t *testing.T) {
	with := entry(someToken, `{"project": "demo", "task": "1"}`)
	r, replace := reader(t, with)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				if pass, ok := r.Find(someToken); ok {
					_, release := r.While(t.Context(), pass, fetchDemo)
					release()
				}
			}
		})
	}
	for range 100 {
		replace("{}")
		replace(with)
	}
	all.Wait()
	if _, ok := r.Find(someToken); !ok {
		t.Error("the token is not found")
	}
}
