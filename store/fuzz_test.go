package store

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzTokenFile takes encoding/json as the judge: what it rejects, or is no object,
// we reject and leave alone; what it accepts comes out of a change meaning the same,
// our own entry aside.
func FuzzTokenFile(f *testing.F) {
	for _, seed := range []string{
		``, `null`, `[]`, `"x"`, `1`, `{`, `{}`, " {}\n", `{} {}`, `{"a":1}`, "\xef\xbb\xbf{}",
		`{"terok-g-0123456789abcdef0123456789abcdef":{"project":"p","task":"1"}}`,
		`{"terok-g-0123456789abcdef0123456789abcdef":{"scope":"p","task":"1","more":[1.0e400,-0,{"x":null}]}}`,
		`{"a":{"project":"p"},"a":{"project":"q"},"b":{"project":"p","project":"q"}}`,
		`{"` + "\xff" + `":"` + "\xfe" + `","\ud800":"\udc00","<&>":"` + "\u2028" + `"}`,
		`{"` + "\xff" + `":"1","\ud800":"2","` + "\ufffd" + `":"3","\ud800":"4","` + "\xfe" + `":"5"}`,
		`{"":"0","` + "\xff" + `":"1","\ud800":"2"}`,
		`{"x":{"project":"p","process":{"machine":"m","boot":"b","pid_ns":"pid:[1]","time_ns":"","pid":1,"start":2}}}`,
		`{"x":{"project":"p","process":{"pid":-1}},"y":{"project":"p","process":[]},"z":{"project":null,"scope":"s"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		file := File{Path: filepath.Join(t.TempDir(), "tokens.json")}
		if err := os.WriteFile(file.Path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		const ours = Token("terok-g-00000000000000000000000000000000")
		_, issueErr := file.Issue(Entry{Token: ours, Grant: Grant{Project: "fuzz", Task: "1"}, Container: "fuzzed"})
		after, err := os.ReadFile(file.Path)
		if err != nil {
			t.Fatal(err)
		}
		want, ok := object(content)
		if !ok {
			if issueErr == nil {
				t.Fatalf("issued into %q", content)
			}
			if !bytes.Equal(after, content) {
				t.Fatalf("%q was changed to %q", content, after)
			}
			return
		}
		if issueErr != nil {
			t.Fatalf("%q: %v", content, issueErr)
		}
		got, ok := object(after)
		if !ok {
			t.Fatalf("%q became %q", content, after)
		}
		if entry, ok := got[string(ours)].(map[string]any); !ok || entry["project"] != "fuzz" {
			t.Fatalf("our entry is missing in %q", after)
		}
		delete(got, string(ours))
		delete(want, string(ours))
		for token, value := range want { // an earlier token of the same container goes
			if entry, ok := value.(map[string]any); ok && entry["container"] == "fuzzed" {
				delete(want, token)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%q became %q (-want +got):\n%s", content, after, diff)
		}
	})
}

// object is what encoding/json makes of a JSON object, numbers as they are written.
func object(content []byte) (map[string]any, bool) {
	if !json.Valid(content) {
		return nil, false
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(content))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return nil, false
	}
	m, ok := v.(map[string]any)
	return m, ok
}
