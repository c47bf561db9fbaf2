package store

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// seeds are contents of token files, good and bad.
var seeds = []string{
	``, `null`, `[]`, `"x"`, `1`, `{`, `{}`, " {}\n", `{} {}`, `{"a":1}`, "\xef\xbb\xbf{}",
	`{"terok-g-0123456789abcdef0123456789abcdef":{"project":"p","task":"1"}}`,
	`{"terok-g-0123456789abcdef0123456789abcdef":{"scope":"p","task":"1","more":[1.0e400,-0,{"x":null}]}}`,
	`{"a":{"project":"p"},"a":{"project":"q"},"b":{"project":"p","project":"q"}}`,
	`{"` + "\xff" + `":"` + "\xfe" + `","\ud800":"\udc00","<&>":"` + "\u2028" + `"}`,
	`{"` + "\xff" + `":"1","\ud800":"2","` + "\ufffd" + `":"3","\ud800":"4","` + "\xfe" + `":"5"}`,
	`{"":"0","` + "\xff" + `":"1","\ud800":"2"}`,
	`{"x":{"project":"p","process":{"machine":"m","boot":"b","pid_ns":"pid:[1]","time_ns":"","pid":1,"start":2}}}`,
	`{"x":{"project":"p","process":{"pid":-1}},"y":{"project":"p","process":[]},"z":{"project":null,"scope":"s"}}`,
	// These are in the canonical form, or nearly so.
	"{\n  \"a\": {\n    \"project\": \"p\",\n    \"task\": \"1\"\n  },\n  \"b\": {\n    \"scope\": \"p\",\n    \"n\": 10\n  }\n}\n",
	"{\n  \"a\": {\n    \"project\": \"p\",\n    \"container\": \"fuzzed\",\n    \"created\": \"2026-01-02T03:04:05.678Z\",\n    \"process\": {\n" +
		"      \"machine\": \"m\",\n      \"boot\": \"b\",\n      \"pid_ns\": \"pid:[1]\",\n      \"time_ns\": \"\",\n      \"pid\": 1,\n" +
		"      \"start\": 18446744073709551615,\n      \"inode\": 7\n    },\n    \"x\": {\n      \"y\": {\n        \"z\": 0\n      }\n    }\n  }\n}\n",
	"{\n  \"a\": {\n    \"limited\": {\n      \"project\": \"p\",\n      \"access\": \"write\",\n      \"push\": [\n        [\n          \"refs/*\",\n" +
		"          \"x\"\n        ],\n        [\n          \"y\"\n        ]\n      ]\n    },\n    \"task\": \"1\",\n    \"container\": \"fuzzed\"\n  }\n}\n",
	"{\n  \"a\": {\n    \"limited\": {\n      \"project\": \"p\",\n      \"access\": \"read\"\n    },\n    \"project\": \"q\"\n  }\n}\n",
	"{\n  \"a\": {\n    \"limited\": {\n      \"project\": \"p\",\n      \"access\": \"all\"\n    }\n  },\n  \"b\": {\n    \"limited\": 1\n  }\n}\n",
	"{\n  \"a\": {\n    \"project\": \"p\",\n    \"gate\": {\n      \"listen\": \"127.0.0.1:9418\",\n      \"withheld\": true\n    },\n    \"x\": false\n  }\n}\n",
	"{\n  \"a\": {\n    \"project\": \"p\",\n    \"gate\": {\n      \"listen\": \"127.0.0.1:1\",\n      \"withheld\": false,\n      \"services\": {\n        \"llm\": \"127.0.0.1:2\"\n      }\n    }\n  }\n}\n",
	"{\n  \"a\": {\n    \"project\": \"p\",\n    \"gate\": trues,\n    \"gate\": 1\n  }\n}\n",
	"{\n  \"a\": {\n    \"project\": \"p\",\n    \"also\": {\n      \"lib\": \"read\"\n    },\n    \"container\": \"fuzzed\"\n  }\n}\n",
	"{\n  \"a\": {\n    \"also\": 1,\n    \"project\": \"p\",\n    \"also\": {\n      \"lib\": \"all\"\n    }\n  }\n}\n",
	"{\n  \"a\": {\n    \"limited\": {\n      \"project\": \"p\",\n      \"access\": \"append\",\n      \"push\": [\n        [\n          \"refs/{project}\"\n" +
		"        ]\n      ],\n      \"also\": {\n        \"lib\": \"read\",\n        \"tools\": \"write\"\n      }\n    },\n    \"container\": \"fuzzed\"\n  }\n}\n",
	"{\n  \"a\": {\n    \"limited\": {\n      \"project\": \"p\",\n      \"access\": \"read\",\n      \"also\": {\n        \"b\": \"read\",\n        \"a\": \"read\"\n      }\n    }\n  }\n}\n",
	"{\n  \"a\": {\n    \"limited\": {\n      \"project\": \"p\",\n      \"access\": \"read\",\n      \"also\": {\n        \"p\": \"read\"\n      }\n    }\n  }\n}\n",
	"{\n  \"a\": {\n    \"project\": \"\\u0070\",\n    \"n\": 01\n  }\n}\n",
	"{\n  \"a\": {\n    \"project\": \"p\",\n    \"project\": 7\n  },\n  \"a\": {\n    \"x\": \"\x7f\t\"\n  }\n}",
	"{\n  \"a\": {\n    \"process\": {\n      \"pid\": 18446744073709551616,\n      \"pid\": 1\n    }\n  }\n}",
}

// FuzzTokenFile compares the store with encoding/json. If encoding/json rejects a file, or the file
// is not an object, the store rejects the file and leaves it alone. Otherwise, the file means the
// same after a change, except for our own entry and earlier ones of its container.
func FuzzTokenFile(f *testing.F) {
	for _, seed := range seeds {
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
			entry, ok := value.(map[string]any)
			if !ok || entry["container"] != "fuzzed" || strings.Contains(token, "\ufffd") {
				continue
			}

			limited, _ := json.Marshal(entry["limited"])
			_, _, _, isEntry := parseLimited(limited)
			for _, key := range []string{"project", "scope"} {
				_, is := entry[key].(string)
				isEntry = isEntry || is
			}
			if isEntry {
				delete(want, token)
			}
		}

		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%q became %q (-want +got):\n%s", content, after, diff)
		}
	})
}

// object returns what encoding/json makes of a JSON object, with numbers as they are written.
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

// FuzzCanonicalForm compares the fast reader of a token file with the plain one, which
// uses encoding/json: they agree on every file that the fast one accepts.
func FuzzCanonicalForm(f *testing.F) {
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}

	f.Fuzz(func(t *testing.T, content []byte) {
		items := func(got *[]item) func(*item) {
			return func(it *item) { *got = append(*got, *it) }
		}

		var canonical, plain []item
		s := &canonicalScanner{text: content}
		members, ok := s.scan(items(&canonical))
		if !ok {
			return
		}

		if _, err := scanPlain(content, items(&plain)); err != nil {
			t.Fatalf("the fast reader accepts %q, which is not a JSON object: %v", content, err)
		}
		if diff := cmp.Diff(plain, canonical, cmp.AllowUnexported(item{}, member{})); diff != "" {
			t.Fatalf("%q (-plain +canonical):\n%s", content, diff)
		}

		for i, m := range members {
			if diff := cmp.Diff(canonical[i], *s.again(m), cmp.AllowUnexported(item{}, member{})); diff != "" {
				t.Fatalf("%q, read again (-first +again):\n%s", content, diff)
			}
		}

		for _, it := range canonical {
			if it.limited == nil {
				continue
			}
			var want limitedJSON
			if err := json.Unmarshal(it.limited, &want); err != nil {
				t.Fatal(err)
			}

			project, limits, also, ok := parseLimited(it.limited)
			if diff := cmp.Diff(&want, limits.of(project, also)); !ok || diff != "" {
				t.Fatalf("%q (-plain +canonical):\n%s", it.limited, diff)
			}
		}

		// Revoking a token removes its entry and changes no other.
		for at := range canonical {
			token := canonical[at].token
			made, err := edit{fate: func(it *item) fate {
				if bytes.Equal(it.token, token) {
					return goes
				}
				return stays
			}}.apply(content)
			if err != nil {
				t.Fatal(err)
			}
			if made.content == nil {
				continue // the last value of this key is not an entry, so nothing is revoked
			}

			want, _ := object(content)
			delete(want, string(token))
			got, ok := object(bytes.Join(made.content, nil))
			if diff := cmp.Diff(want, got); !ok || diff != "" {
				t.Fatalf("%q less %q (-want +got):\n%s", content, token, diff)
			}
		}
	})
}
