package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/store"
)

func TestWhichTokensAChangeRevokes(t *testing.T) {
	needMachineID(t)
	alive, err := store.ProcessOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}

	dead, unknown := *alive, *alive
	dead.Boot = "of an earlier boot"
	unknown.Machine, unknown.Boot = "another machine", "its boot"

	// An entry reads "<name> <project>/<task> <container> <process>", "-" for none.
	entry := func(line string) store.Entry {
		words := strings.Fields(line)
		project, task, _ := strings.Cut(words[1], "/")
		e := store.Entry{Token: tokenNamed(words[0]), Grant: store.Grant{Project: project, Task: task}}
		if words[2] != "-" {
			e.Container = words[2]
		}
		e.Process = map[string]*store.Process{"alive": alive, "dead": &dead, "unknown": &unknown}[words[3]]
		return e
	}
	issue := func(line string) func(store.File) ([]store.Entry, error) {
		return func(f store.File) ([]store.Entry, error) { return f.Issue(entry(line)) }
	}
	stopped := func(id string) func(store.File) ([]store.Entry, error) {
		return func(f store.File) ([]store.Entry, error) { return revokeContainer(f, id) }
	}
	revoke := func(project, task string) func(store.File) ([]store.Entry, error) {
		return func(f store.File) ([]store.Entry, error) { return f.RevokeTokenForTask(project, task) }
	}

	for _, row := range []struct {
		name   string
		have   []string
		change func(store.File) ([]store.Entry, error)
		gone   string
		left   string
	}{
		{
			"a new token joins the others",
			[]string{"a demo/1 c1 alive", "b demo/2 - -"},
			issue("new demo/1 c2 alive"),
			"", "a b new",
		},
		{
			"a new token replaces its container's earlier ones, dead or not",
			[]string{"a demo/1 c1 alive", "b demo/1 c1 unknown", "c demo/1 c1 dead", "d other/9 c1 -"},
			issue("new demo/1 c1 alive"),
			"a b c d", "new",
		},
		{
			"a new token sweeps the dead and no others",
			[]string{"a demo/1 c1 alive", "b demo/1 c2 unknown", "c demo/1 c3 dead", "d demo/1 c4 -", "e demo/1 - dead"},
			issue("new demo/1 c5 alive"),
			"c e", "a b d new",
		},
		{
			"a new token of no container replaces none",
			[]string{"a demo/1 - -", "b demo/1 - alive", "c demo/1 c1 -"},
			issue("new demo/1 - -"),
			"", "a b c new",
		},
		{
			"a token issued again replaces its earlier entry",
			[]string{"a demo/1 c1 alive", "b demo/1 c2 alive"},
			issue("a demo/2 c1 alive"),
			"a", "a b",
		},
		{
			"a container that stops loses its tokens",
			[]string{"a demo/1 c1 unknown", "b demo/1 c1 -", "c demo/1 c1 dead", "d demo/2 c1 -"},
			stopped("c1"),
			"a b c d", "",
		},
		{
			"a late poststop spares the token of the container's next life",
			[]string{"a demo/1 c1 dead", "b demo/1 c1 alive", "c demo/1 c1 -"},
			stopped("c1"),
			"a c", "b",
		},
		{
			"other containers of the same task keep theirs",
			[]string{"a demo/1 c1 -", "b demo/1 c2 alive", "c demo/1 c3 unknown", "d demo/1 c4 -", "e demo/1 - -"},
			stopped("c1"),
			"a", "b c d e",
		},
		{
			"a container that stops sweeps the dead of all",
			[]string{"a demo/1 c2 dead", "b other/2 c3 dead", "c demo/1 - dead", "d demo/1 c4 unknown"},
			stopped("c1"),
			"a b c", "d",
		},
		{
			"a container's id is compared whole and by case",
			[]string{"a demo/1 c1 -", "b demo/1 c10 -", "c demo/1 C1 -", "d demo/1 xc1 -"},
			stopped("c1"),
			"a", "b c d",
		},
		{
			"an empty container id matches no token, even if the token has no container",
			[]string{"a demo/1 - -", "b demo/1 - unknown", "c demo/1 - dead"},
			stopped(""),
			"c", "a b",
		},
		{
			"every token of a task is revoked, of any container",
			[]string{"a demo/1 c1 alive", "b demo/1 - -", "c demo/1 c2 dead", "d demo/2 c1 -", "e other/1 c1 -", "f demo/1 c3 unknown"},
			revoke("demo", "1"),
			"a b c f", "d e",
		},
		{
			"revoking a task sweeps no other",
			[]string{"a demo/1 c1 dead"},
			revoke("demo", "2"),
			"", "a",
		},
		{
			"a star revokes no project but the one of that name",
			[]string{"a demo/1 - -"},
			revoke("*", "1"),
			"", "a",
		},
		{
			"a sweep revokes the dead and no others",
			[]string{"a demo/1 c1 dead", "b demo/1 - dead", "c demo/1 c1 alive", "d demo/1 c1 unknown", "e demo/1 c1 -", "f demo/1 - -"},
			store.File.Sweep,
			"a b", "c d e f",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := tokenFile(t)
			fill(t, f, row.have, entry)

			revoked, err := row.change(f)
			if err != nil {
				t.Fatal(err)
			}
			if got := names(revoked); got != row.gone {
				t.Errorf("revoked %q, want %q", got, row.gone)
			}

			entries, err := f.Entries()
			if err != nil {
				t.Fatal(err)
			}
			if got := names(entries); got != row.left {
				t.Errorf("left %q, want %q", got, row.left)
			}
		})
	}
}

func TestATokenIssuedAgainHasItsNewGrant(t *testing.T) {
	f := tokenFile(t)
	for _, task := range []string{"1", "2"} {
		issue(t, f, store.Entry{Token: tokenNamed("a"), Grant: store.Grant{Project: "demo", Task: task}})
	}
	if entries, err := f.Entries(); err != nil || len(entries) != 1 || entries[0].Task != "2" {
		t.Errorf("entries %+v, error %v", entries, err)
	}
}

// fill writes each entry into a file of its own, and puts the contents of these files together in
// f. Issue would sweep and replace entries, and would refuse an entry of a dead process.
func fill(t *testing.T, f store.File, lines []string, entry func(string) store.Entry) {
	t.Helper()
	var members []string
	for _, line := range lines {
		one := tokenFile(t)
		if err := one.Put(entry(line)); err != nil {
			t.Fatal(err)
		}
		members = append(members, strings.TrimSuffix(strings.TrimPrefix(contentOf(t, one.Path), "{"), "}\n"))
	}
	write(t, f.Path, "{"+strings.Join(members, ",")+"}")
}

// names turns tokens of tokenNamed into their names.
func names(entries []store.Entry) string {
	var found []string
	for _, e := range entries {
		var name []byte
		digits := strings.TrimLeft(strings.TrimPrefix(string(e.Token), "terok-g-"), "0")
		fmt.Sscanf(digits, "%x", &name)
		found = append(found, string(name))
	}
	slices.Sort(found)
	return strings.Join(found, " ")
}

func TestRevokingAnAbsentTokenTouchesNothing(t *testing.T) {
	f := tokenFile(t)
	issue(t, f, store.Entry{Token: tokenNamed("a"), Grant: store.Grant{Project: "demo", Task: "1"}, Container: "c1"})
	check := untouched(t, f.Path)
	for range 2 {
		for name, revoke := range revocations {
			if revoked, err := revoke(f, "c2", "2"); err != nil || len(revoked) > 0 {
				t.Errorf("%s: revoked %v, error %v", name, revoked, err)
			}
		}
	}
	check(t)
}

func TestRevokingTwiceIsNoError(t *testing.T) {
	for name, revoke := range revocations {
		if name == "Sweep" {
			continue // there is nothing to sweep
		}
		f := tokenFile(t)
		issue(t, f, store.Entry{Token: tokenNamed("a"), Grant: store.Grant{Project: "demo", Task: "1"}, Container: "c1"})
		for i, want := range []string{"a", "", ""} {
			revoked, err := revoke(f, "c1", "1")
			if err != nil || names(revoked) != want {
				t.Errorf("%s, time %d: revoked %q, error %v; want %q", name, i+1, names(revoked), err, want)
			}
		}
	}
}

func TestRevokingWithoutATokenFileMakesNone(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"tokens.json", "gate/tokens.json"} {
		f := store.File{Path: filepath.Join(dir, path)}
		for name, revoke := range revocations {
			if revoked, err := revoke(f, "c1", "1"); err != nil || len(revoked) > 0 {
				t.Errorf("%s: %s: revoked %v, error %v", path, name, revoked, err)
			}
		}
		if entries, err := f.Entries(); err != nil || len(entries) > 0 {
			t.Errorf("%s: Entries: %v, error %v", path, entries, err)
		}
	}
	if left := namesIn(t, dir); len(left) > 0 {
		t.Errorf("the directory holds %v", left)
	}
}

// revocations revoke the tokens of a container, or of project demo and a task.
var revocations = map[string]func(f store.File, container, task string) ([]store.Entry, error){
	"Revoke": func(f store.File, container, _ string) ([]store.Entry, error) {
		return f.Revoke(func(e store.Entry) bool { return e.Container == container })
	},
	"RevokeContainer": func(f store.File, container, _ string) ([]store.Entry, error) {
		return revokeContainer(f, container)
	},
	"RevokeTokenForTask": func(f store.File, _, task string) ([]store.Entry, error) {
		return f.RevokeTokenForTask("demo", task)
	},
	"Sweep": func(f store.File, _, _ string) ([]store.Entry, error) { return f.Sweep() },
}

func TestACreatedTokenLivesUntilItIsRevoked(t *testing.T) {
	f := tokenFile(t)
	token, err := f.CreateToken("demo", "1")
	if err != nil {
		t.Fatal(err)
	}

	if _, _, err := f.RevokeContainer("c1"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Sweep(); err != nil {
		t.Fatal(err)
	}

	entries, err := f.Entries()
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Fatalf("%d entries, want 1", len(entries))
	}
	if e := entries[0]; e.Token != token || e.Project != "demo" || e.Task != "1" || e.Container != "" || e.Process != nil {
		t.Errorf("entry %+v", e)
	}

	revoked, err := f.RevokeTokenForTask("demo", "1")
	if err != nil || len(revoked) != 1 || revoked[0].Token != token {
		t.Errorf("revoked %v, error %v", revoked, err)
	}
}

func TestEntriesOfOtherProgramsAreRevokedWhateverTheirProjectAndTask(t *testing.T) {
	for _, name := range hostileNames {
		f := tokenFile(t)
		write(t, f.Path, fmt.Sprintf(`{"x": {"project": %s, "task": %s}, "y": {"project": "demo", "task": "1"}}`,
			quoteJSON(t, name.value), quoteJSON(t, name.value)))
		revoked, err := f.RevokeTokenForTask(name.value, name.value)
		if err != nil || len(revoked) != 1 || revoked[0].Token != "x" {
			t.Errorf("%s: revoked %v, error %v", name.kind, revoked, err)
		}
	}
}

func TestOnlyWellFormedTokensAreIssued(t *testing.T) {
	for _, row := range []struct{ name, token string }{
		{"none", ""},
		{"a prefix", "terok-g-"},
		{"capitals", "terok-g-0123456789ABCDEF0123456789ABCDEF"},
		{"31 digits", "terok-g-0123456789abcdef0123456789abcde"},
		{"33 digits", "terok-g-0123456789abcdef0123456789abcdef0"},
		{"no prefix", "0123456789abcdef0123456789abcdef"},
		{"another prefix", "terok-h-0123456789abcdef0123456789abcdef"},
		{"a line end", "terok-g-0123456789abcdef0123456789abcde\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := tokenFile(t)
			_, err := f.Issue(store.Entry{Token: store.Token(row.token), Grant: store.Grant{Project: "demo", Task: "1"}})
			wantError(t, err, "token")
			if len(row.token) > 20 && err != nil && strings.Contains(err.Error(), row.token) {
				t.Errorf("error %q shows the token", err)
			}
			if left := namesIn(t, filepath.Dir(f.Path)); len(left) > 0 {
				t.Errorf("the directory holds %v", left)
			}
		})
	}
}

func TestNewTokensAreWellFormedAndDifferent(t *testing.T) {
	seen := map[store.Token]bool{}
	form := regexp.MustCompile(`^terok-g-[0-9a-f]{32}$`)
	for range 1000 {
		token, err := store.NewToken()
		if err != nil {
			t.Fatal(err)
		}
		if !form.MatchString(string(token)) {
			t.Fatalf("token %q", string(token))
		}
		if seen[token] {
			t.Fatal("the same token twice")
		}
		seen[token] = true
	}
}

func TestAFormattedTokenIsItsFingerprint(t *testing.T) {
	const token = store.Token("terok-g-0123456789abcdef0123456789abcdef")
	const want = "7c980395" // printf %s terok-g-... | sha256sum | cut -c -8
	entry := store.Entry{Token: token, Grant: store.Grant{Project: "demo", Task: "1"}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		for _, value := range []any{token, &entry, entry, []store.Entry{entry}, map[store.Token]int{token: 1}} {
			got := fmt.Sprintf(verb, value)
			if strings.Contains(got, "0123456789abcdef") {
				t.Errorf("%s of a %T shows the token: %s", verb, value, got)
			}
			if _, pointer := value.(*store.Entry); !pointer && !strings.Contains(got, want) {
				t.Errorf("%s of a %T does not show the fingerprint %s: %s", verb, value, want, got)
			}
		}
	}
	if diff := cmp.Diff(want, token.Fingerprint()); diff != "" {
		t.Errorf("fingerprint (-want +got):\n%s", diff)
	}
}

// Finding, revoking and replacing a token work on an entry of any form.
func TestATokenIsFoundWhateverTheFileHoldsOfIt(t *testing.T) {
	limited := store.Limits{Push: [][]string{{"refs/heads/agent/**"}}}

	for name, row := range map[string]struct {
		hashed bool
		limits store.Limits
	}{
		"the token":                {false, store.Limits{}},
		"its hash":                 {true, store.Limits{}},
		"the limited token":        {false, limited},
		"the limited token's hash": {true, limited},
	} {
		t.Run(name, func(t *testing.T) {
			for how, revoke := range map[string]func(store.File, store.Token) ([]store.Entry, error){
				"by the token": func(f store.File, token store.Token) ([]store.Entry, error) {
					return f.Revoke(func(e store.Entry) bool { return e.Is(token) })
				},
				"by project and task": func(f store.File, _ store.Token) ([]store.Entry, error) {
					return f.RevokeTokenForTask("demo", "1")
				},
				"by the container": func(f store.File, _ store.Token) ([]store.Entry, error) {
					revoked, _, err := f.RevokeContainer("c1")
					return revoked, err
				},
				"with the container's next token": func(f store.File, _ store.Token) ([]store.Entry, error) {
					return f.Issue(store.Entry{Token: tokenNamed("next"), Grant: store.Grant{Project: "next", Task: "1"}, Container: "c1"})
				},
			} {
				f := tokenFile(t)
				token := tokenNamed("one")
				e := store.Entry{Token: token, Grant: store.Grant{Project: "demo", Task: "1"}, Limits: row.limits, Container: "c1"}
				if row.hashed {
					e.Token = store.Token(token.Key())
				}
				issue(t, f, e)
				issue(t, f, store.Entry{Token: tokenNamed("other"), Grant: store.Grant{Project: "other", Task: "1"}})

				content := contentOf(t, f.Path)
				if held := strings.Contains(content, string(token)); held == row.hashed {
					t.Errorf("the file holds\n%s", content)
				}
				pass, ok := f.Reader(func(error) {}).Find(string(token))
				if !ok || pass.Project != "demo" || pass.Fingerprint != token.Fingerprint() || pass.Limits.Limited() != row.limits.Limited() {
					t.Errorf("a gate reads %+v", pass)
				}

				revoked, err := revoke(f, token)
				if err != nil || len(revoked) != 1 || !revoked[0].Is(token) || revoked[0].Token.Fingerprint() != token.Fingerprint() {
					t.Errorf("%s: revoked are %+v, %v", how, revoked, err)
				}
				entries, err := f.Entries()
				if err != nil || len(entries) == 0 || slices.ContainsFunc(entries, func(e store.Entry) bool { return e.Project == "demo" }) {
					t.Errorf("%s: left are %+v, %v", how, entries, err)
				}
			}
		})
	}
}

// A reader of a copied file gets the keys of hashed entries and no token.
func TestAKeyIsNotTheTokenThatItStandsFor(t *testing.T) {
	token := tokenNamed("one")
	key := store.Token(token.Key())
	hashed, plain := store.Entry{Token: key}, store.Entry{Token: token}
	if !hashed.Is(token) || !plain.Is(token) {
		t.Error("the token is not found")
	}
	if hashed.Is(key) || plain.Is(key) || hashed.Is(tokenNamed("other")) || plain.Is(tokenNamed("other")) {
		t.Error("a key or another token is taken for it")
	}
	if key.Key() != string(key) || key.Fingerprint() != token.Fingerprint() || fmt.Sprint(key) != token.Fingerprint() {
		t.Errorf("the key's key is %s, its fingerprint %s", key.Key(), key)
	}
	const almost = store.Token("sha256:0123")
	if e := (store.Entry{Token: almost}); !e.Is(almost) { // another program's token
		t.Error("what only begins like a key is not found")
	}
}
