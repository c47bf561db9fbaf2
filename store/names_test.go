package store_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"terok-gate-hook/store"
)

var hostileNames = []struct{ kind, value string }{
	{"empty", ""},
	{"the gate's wildcard", "*"},
	{"a pattern", "dem?"},
	{"the directory itself", "."},
	{"the directory above", ".."},
	{"a hidden file", ".git"},
	{"an option", "-demo"},
	{"a long option", "--upload-pack=x"},
	{"an underscore first", "_demo"},
	{"a path", "a/b"},
	{"a root", "/"},
	{"a way out", "../../etc/passwd"},
	{"a way out, encoded", "%2e%2e%2f"},
	{"a backslash", `a\b`},
	{"a space", "a b"},
	{"a space first", " a"},
	{"a space last", "a "},
	{"a tab", "a\tb"},
	{"a double quote", `a"b`},
	{"a single quote", "a'b"},
	{"a backtick", "a`id`"},
	{"a substitution", "$(id)"},
	{"a variable", "$HOME"},
	{"a second command", "a;id"},
	{"a pipe", "a|id"},
	{"a line end", "a\nb"},
	{"a line end last", "a\n"},
	{"a carriage return", "a\rb"},
	{"a NUL", "a\x00b"},
	{"an escape sequence", "a\x1b[31mb"},
	{"a comment", "a#b"},
	{"an assignment", "a=b"},
	{"a query", "a?b"},
	{"a user name", "a@b"},
	{"a colon", "a:b"},
	{"a tilde", "~root"},
	{"non-ASCII", "café"},
	{"a letter of another alphabet", "дemo"},
	{"a digit of another alphabet", "٣"},
	{"a text direction", "a\u202eb"},
	{"a zero-width space", "a\u200bb"},
	{"129 characters", strings.Repeat("a", 129)},
	{"a megabyte", strings.Repeat("a", 1<<20)},
}

func TestHostileNamesAreNeverIssued(t *testing.T) {
	issues := map[string]func(f store.File, project, task string) error{
		"Issue": func(f store.File, project, task string) error {
			_, err := f.Issue(store.Entry{Token: tokenNamed("b"), Grant: store.Grant{Project: project, Task: task}, Container: "c1"})
			return err
		},
		"CreateToken": func(f store.File, project, task string) error {
			token, err := f.CreateToken(project, task)
			if err == nil {
				return nil
			}
			if len(token) > 0 && strings.Contains(err.Error(), string(token)) {
				return fmt.Errorf("the error shows the token")
			}
			return err
		},
	}

	names := append(hostileNames, struct{ kind, value string }{"not UTF-8", "a\xffb"})
	for _, name := range names {
		t.Run(name.kind, func(t *testing.T) {
			for call, issued := range issues {
				f := tokenFile(t)
				issue(t, f, store.Entry{Token: tokenNamed("a"), Grant: store.Grant{Project: "demo", Task: "1"}, Container: "c1"})
				check := untouched(t, f.Path)
				missing := store.File{Path: filepath.Join(t.TempDir(), "gate", "tokens.json")}

				for _, f := range []store.File{f, missing} {
					refusesSafely(t, issued(f, name.value, "1"), "project", name.value)
					refusesSafely(t, issued(f, "demo", name.value), "task", name.value)
				}
				check(t)
				if left := namesIn(t, filepath.Dir(filepath.Dir(missing.Path))); len(left) > 0 {
					t.Errorf("%s made %v", call, left)
				}
			}
		})
	}
}

// refusesSafely checks that the error says which of the two names is refused, and
// shows the value so that neither a log nor a terminal is misled.
func refusesSafely(t *testing.T, err error, which, value string) {
	t.Helper()
	wantError(t, err, which+` "`, "refused")
	if err == nil {
		return
	}
	for _, r := range err.Error() {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			t.Errorf("error %q holds %q", err, r)
		}
	}
	if len(err.Error()) > 250 {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
	if len(value) <= 16 && !strings.Contains(err.Error(), fmt.Sprintf("%q", value)) {
		t.Errorf("error %q does not quote %q", err, value)
	}
}

func TestOrdinaryNamesAreIssued(t *testing.T) {
	for _, name := range []string{
		"a", "Z", "0", "demo", "Demo-2.1_x", "a..b", "a.", "a-", "1.git",
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-",
		strings.Repeat("a", 128),
	} {
		f := tokenFile(t)
		issue(t, f, store.Entry{Token: tokenNamed("a"), Grant: store.Grant{Project: name, Task: name}})
		entries, err := f.Entries()
		if err != nil || len(entries) != 1 || entries[0].Project != name || entries[0].Task != name {
			t.Errorf("%q: entries %v, error %v", name, entries, err)
		}
	}
}

func quoteJSON(t *testing.T, s string) string {
	t.Helper()
	quoted, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(quoted)
}
