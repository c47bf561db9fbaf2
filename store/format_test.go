package store_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/store"
)

func TestATokenIsWrittenAsTheOtherProgramsReadIt(t *testing.T) {
	created := time.Date(2024, 5, 6, 9, 8, 7, 654_321_000, time.FixedZone("CEST", 7200))
	for _, row := range []struct {
		name  string
		entry store.Entry
		want  string
	}{
		{
			name: "of a container",
			entry: store.Entry{
				Token:     "terok-g-0123456789abcdef0123456789abcdef",
				Grant:     store.Grant{Project: "demo", Task: "1"},
				Scope:     true,
				Container: "c0ffee",
				Created:   created,
				Process:   &store.Process{Machine: "m", Boot: "b", PIDNS: "pid:[1]", TimeNS: "time:[2]", PID: 7, Start: 1 << 60},
			},
			want: `{
  "terok-g-0123456789abcdef0123456789abcdef": {
    "project": "demo",
    "task": "1",
    "scope": "demo",
    "container": "c0ffee",
    "created": "2024-05-06T07:08:07.654Z",
    "process": {
      "machine": "m",
      "boot": "b",
      "pid_ns": "pid:[1]",
      "time_ns": "time:[2]",
      "pid": 7,
      "start": 1152921504606846976
    }
  }
}
`,
		},
		{
			name: "of a container with services of the host",
			entry: store.Entry{
				Token:     "terok-g-0123456789abcdef0123456789abcdef",
				Grant:     store.Grant{Project: "demo", Task: "1"},
				Scope:     true,
				Container: "c0ffee",
				Created:   created,
				Gate:      &store.Attached{Listen: "127.0.0.1:9418", Services: map[string]string{"llm": "127.0.0.1:4000", "db": "127.0.0.1:5432"}},
			},
			want: `{
  "terok-g-0123456789abcdef0123456789abcdef": {
    "project": "demo",
    "task": "1",
    "scope": "demo",
    "container": "c0ffee",
    "created": "2024-05-06T07:08:07.654Z",
    "gate": {
      "listen": "127.0.0.1:9418",
      "withheld": false,
      "services": {
        "db": "127.0.0.1:5432",
        "llm": "127.0.0.1:4000"
      }
    }
  }
}
`,
		},
		{
			name: "of a container in whose network the gate is",
			entry: store.Entry{
				Token:     "terok-g-0123456789abcdef0123456789abcdef",
				Grant:     store.Grant{Project: "demo", Task: "1"},
				Scope:     true,
				Container: "c0ffee",
				Created:   created,
				Gate:      &store.Attached{Listen: "127.0.0.1:9418", Withheld: true, Network: 1<<63 + 1},
			},
			want: `{
  "terok-g-0123456789abcdef0123456789abcdef": {
    "project": "demo",
    "task": "1",
    "scope": "demo",
    "container": "c0ffee",
    "created": "2024-05-06T07:08:07.654Z",
    "gate": {
      "listen": "127.0.0.1:9418",
      "withheld": true,
      "network": 9223372036854775809
    }
  }
}
`,
		},
		{
			name: "of no container, as the tests of the original Python programs expect it",
			entry: store.Entry{
				Token: "terok-g-0123456789abcdef0123456789abcdef",
				Grant: store.Grant{Project: "demo", Task: "1"},
			},
			want: `{
  "terok-g-0123456789abcdef0123456789abcdef": {
    "project": "demo",
    "task": "1"
  }
}
`,
		},
		{
			name: "limited, in a form that other gates do not take for an unlimited token",
			entry: store.Entry{
				Token:     "terok-g-0123456789abcdef0123456789abcdef",
				Grant:     store.Grant{Project: "demo", Task: "1"},
				Limits:    store.Limits{Push: [][]string{{"refs/heads/agent/**", "refs/tags/*"}, {"refs/heads/*"}}},
				Container: "c0ffee",
				Created:   created,
			},
			want: `{
  "terok-g-0123456789abcdef0123456789abcdef": {
    "limited": {
      "project": "demo",
      "access": "write",
      "push": [
        [
          "refs/heads/agent/**",
          "refs/tags/*"
        ],
        [
          "refs/heads/*"
        ]
      ]
    },
    "task": "1",
    "container": "c0ffee",
    "created": "2024-05-06T07:08:07.654Z"
  }
}
`,
		},
		{
			name: "for several projects, of which other gates serve only the token's own",
			entry: store.Entry{
				Token:     "terok-g-0123456789abcdef0123456789abcdef",
				Grant:     store.Grant{Project: "demo", Task: "1"},
				Also:      store.Also{"tools": "write", "lib": "read"},
				Scope:     true,
				Container: "c0ffee",
				Created:   created,
			},
			want: `{
  "terok-g-0123456789abcdef0123456789abcdef": {
    "project": "demo",
    "task": "1",
    "scope": "demo",
    "also": {
      "lib": "read",
      "tools": "write"
    },
    "container": "c0ffee",
    "created": "2024-05-06T07:08:07.654Z"
  }
}
`,
		},
		{
			name: "limited, for several projects, of which other gates serve none",
			entry: store.Entry{
				Token:     "terok-g-0123456789abcdef0123456789abcdef",
				Grant:     store.Grant{Project: "demo", Task: "1"},
				Limits:    store.Limits{AppendOnly: true, Push: [][]string{{"refs/heads/{project}/*"}}},
				Also:      store.Also{"tools": "write", "lib": "read"},
				Container: "c0ffee",
				Created:   created,
			},
			want: `{
  "terok-g-0123456789abcdef0123456789abcdef": {
    "limited": {
      "project": "demo",
      "access": "append",
      "push": [
        [
          "refs/heads/{project}/*"
        ]
      ],
      "also": {
        "lib": "read",
        "tools": "write"
      }
    },
    "task": "1",
    "container": "c0ffee",
    "created": "2024-05-06T07:08:07.654Z"
  }
}
`,
		},
		{
			name: "hashed, read only",
			entry: store.Entry{
				Token:  "sha256:7b0b4d9ae8ad35f4ac4e8ff5f2dd31e6ca4ec9c9cd4be9ffa0a0a5be2ea4f9e1",
				Grant:  store.Grant{Project: "demo", Task: "1"},
				Limits: store.Limits{ReadOnly: true},
			},
			want: `{
  "sha256:7b0b4d9ae8ad35f4ac4e8ff5f2dd31e6ca4ec9c9cd4be9ffa0a0a5be2ea4f9e1": {
    "limited": {
      "project": "demo",
      "access": "read"
    },
    "task": "1"
  }
}
`,
		},
		{
			name: "of no container, with a scope for later Python gates",
			entry: store.Entry{
				Token: "terok-g-0123456789abcdef0123456789abcdef",
				Grant: store.Grant{Project: "demo", Task: "1"},
				Scope: true,
			},
			want: `{
  "terok-g-0123456789abcdef0123456789abcdef": {
    "project": "demo",
    "task": "1",
    "scope": "demo"
  }
}
`,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := tokenFile(t)
			issue(t, f, row.entry)
			if diff := cmp.Diff(row.want, contentOf(t, f.Path)); diff != "" {
				t.Errorf("file (-want +got):\n%s", diff)
			}
			got, err := f.Entries()
			if err != nil {
				t.Fatal(err)
			}
			want := row.entry
			want.Created = want.Created.Truncate(time.Millisecond)
			if diff := cmp.Diff([]store.Entry{want}, got); diff != "" {
				t.Errorf("read again (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheLastTokenLeavesAnEmptyObject(t *testing.T) {
	f := tokenFile(t)
	issue(t, f, store.Entry{Token: tokenNamed("a"), Grant: store.Grant{Project: "demo", Task: "1"}})
	if _, err := f.RevokeTokenForTask("demo", "1"); err != nil {
		t.Fatal(err)
	}
	if got := contentOf(t, f.Path); got != "{}\n" {
		t.Errorf("the file holds %q", got)
	}
}

// changes are the calls that issue or revoke tokens. Each of them changes a token file that holds
// the entry from changed().
var changes = map[string]func(store.File) error{
	"CreateToken": func(f store.File) error {
		_, err := f.CreateToken("demo", "2")
		return err
	},
	"Issue": func(f store.File) error {
		_, err := f.Issue(store.Entry{Token: tokenNamed("b"), Grant: store.Grant{Project: "demo", Task: "2"}, Container: "c1"})
		return err
	},
	"Revoke": func(f store.File) error {
		_, err := f.Revoke(func(e store.Entry) bool { return e.Token == tokenNamed("changed") })
		return err
	},
	"RevokeContainer": func(f store.File) error {
		_, _, err := f.RevokeContainer("c1")
		return err
	},
	"RevokeTokenForTask": func(f store.File) error {
		_, err := f.RevokeTokenForTask("demo", "1")
		return err
	},
	"Sweep": func(f store.File) error {
		_, err := f.Sweep()
		return err
	},
}

// changed returns an entry that every change takes away: of container c1, project demo and task 1,
// with a process of an earlier boot.
func changed(t *testing.T) string {
	t.Helper()
	needMachineID(t)
	process, err := json.Marshal(ofAnotherBoot(t))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`%q: {"project": "demo", "task": "1", "container": "c1", "process": %s}`,
		string(tokenNamed("changed")), process)
}

func TestEntriesOfOtherProgramsSurviveEveryChange(t *testing.T) {
	own := changed(t)
	for _, row := range []struct {
		name   string
		member string // without white space
	}{
		{name: "an entry of the orchestrator", member: `"terok-g-00000000000000000000000000000001":{"project":"p","task":"t"}`},
		{name: "an entry of a later gate", member: `"terok-g-00000000000000000000000000000001":{"scope":"p","task":"t"}`},
		{name: "other projects that we do not understand", member: `"x":{"project":"p","also":{"lib":"admin","tools":["write"]}},"y":{"project":"p","also":"lib"}`},
		{name: "limits with other projects that we do not understand", member: `"x":{"limited":{"project":"p","access":"read","also":{"lib":7}},"task":"t"}`},
		{name: "keys that we do not know", member: `"x":{"project":"p","task":"t","expires":1700000000,"by":"me"}`},
		{name: "our keys in other types", member: `"x":{"project":"p","task":7,"container":["c1"],"created":false,"process":"p"}`},
		{name: "our keys in another case", member: `"x":{"Project":"demo","Task":"1","Container":"c1"}`},
		{name: "the order of keys", member: `"x":{"z":1,"project":"p","a":2}`},
		{name: "a key that comes twice", member: `"x":{"project":"p","k":1,"k":2}`},
		{name: "numbers that no float64 holds", member: `"x":{"a":123456789012345678901234567890,"b":1e999,"c":0.1000000000000000055511151231257827,"d":-0}`},
		{name: "nested values", member: `"x":{"a":[{"b":[[],{},[null,true,"s"]]}]}`},
		{name: "nesting", member: `"x":` + strings.Repeat(`[`, 500) + strings.Repeat(`]`, 500)},
		{name: "a string", member: `"x":"demo"`},
		{name: "a number", member: `"x":7`},
		{name: "true", member: `"x":true`},
		{name: "null", member: `"x":null`},
		{name: "an array", member: `"x":[]`},
		{name: "an object without a project", member: `"x":{}`},
		{name: "an empty key", member: `"":{"project":"p"}`},
		{name: "a key of spaces", member: `"  ":{"project":"p"}`},
		{name: "a key with a quote, a backslash and a line end", member: `"a\"b\\c\nd":{"project":"p"}`},
		{name: "a key like a token", member: `"terok-g-":{"project":"p"}`},
		{name: "a token in capitals", member: `"TEROK-G-0123456789ABCDEF0123456789ABCDEF":{"project":"p"}`},
		{name: "HTML characters", member: `"<a href='x'>&amp;</a>":{"project":"<&>"}`},
		{name: "non-ASCII", member: `"ключ 鍵 🔑":{"project":"проект 🚀"}`},
		{name: "escapes in values", member: `"x":{"project":"\u00e9\/\ud83d\udd11"}`},
		{name: "escapes in keys", member: `"\u043a\u043b\/\ud83d\udd11":{"project":"p"}`},
		{name: "line separators of JavaScript", member: `"a\u2028b\u2029c":{"project":"\u2028"}`},
		{name: "half a surrogate pair in a value", member: `"x":{"project":"\ud800"}`},
		// Python escapes what it cannot encode; two such keys are two entries.
		{name: "half a surrogate pair in a key", member: `"\ud800":1,"\udc00":2`},
		{name: "keys that are not UTF-8", member: "\"\xfe\":1,\"\xff\":2"},
		{name: "the replacement character in a key", member: "\"\ufffd\":1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			for name, change := range changes {
				f := tokenFile(t)
				write(t, f.Path, "{"+row.member+","+own+"}")
				before := statOf(t, f.Path).Ino

				if err := change(f); err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				if statOf(t, f.Path).Ino == before {
					t.Errorf("%s changed nothing", name)
				}

				var got bytes.Buffer
				if err := json.Compact(&got, []byte(contentOf(t, f.Path))); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if !strings.Contains(got.String(), row.member) {
					t.Errorf("%s: the file is without\n%s\nnow:\n%s", name, row.member, &got)
				}
			}
		})
	}
}

func TestValuesOfOtherProgramsKeepTheirBytes(t *testing.T) {
	for _, value := range []string{
		`{ "project" :"p",
	"more": [1,  2]
			}`,
		`{"project":"p","more":[{}, [ ], ""]}`,
		"{\r\n\t\"project\": \"p\"\r\n}",
		`"\u00e9\/"`,
	} {
		for name, change := range changes {
			f := tokenFile(t)
			write(t, f.Path, "{\"x\": "+value+", "+changed(t)+"}")
			if err := change(f); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := contentOf(t, f.Path); !strings.Contains(got, `"x": `+value) {
				t.Errorf("%s: %q is now\n%s", name, value, got)
			}
		}
	}
}

// A value of 12 kB that nests 6,000 deep would grow to 72 MB if it were indented again.
func TestADeepValueDoesNotGrow(t *testing.T) {
	const depth = 6000
	f := tokenFile(t)
	write(t, f.Path, `{"x": `+strings.Repeat("[", depth)+strings.Repeat("]", depth)+`}`)
	for range 3 {
		if _, err := f.CreateToken("demo", "1"); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := f.Entries(); err != nil || len(entries) != 3 {
		t.Errorf("%d entries, error %v", len(entries), err)
	}
	if size := len(contentOf(t, f.Path)); size > 2*depth+1000 {
		t.Errorf("the file has grown to %d bytes", size)
	}
}

// encoding/json reads 10,000 levels. A change makes no value deeper, so the file can be read again.
func TestTheDeepestReadableFileCanBeChangedAgainAndAgainAndADeeperOneCannot(t *testing.T) {
	const most = 10_000 // the file's own object is one
	for _, row := range []struct {
		depth int
		fails string
	}{{most - 1, ""}, {most, "exceeded max depth"}} {
		f := tokenFile(t)
		write(t, f.Path, `{"x": `+strings.Repeat("[", row.depth)+strings.Repeat("]", row.depth)+`}`)
		before := contentOf(t, f.Path)
		for range 2 {
			_, err := f.CreateToken("demo", "1")
			if row.fails != "" {
				wantError(t, err, f.Path, row.fails)
			} else if err != nil {
				t.Errorf("%d levels in the object: %v", row.depth, err)
			}
		}
		if row.fails != "" && contentOf(t, f.Path) != before {
			t.Errorf("%d levels in the object: the file was changed", row.depth)
		}
	}
}

func TestAFileThatWouldBeTooLargeToReadIsNotWritten(t *testing.T) {
	const most = 64 << 20
	f := store.File{Path: filepath.Join(memory(t), "tokens.json")}
	write(t, f.Path, `{"x": "`+strings.Repeat("a", most-20)+`"}`)
	before := statOf(t, f.Path)
	_, err := f.CreateToken("demo", "1")
	wantError(t, err, f.Path, fmt.Sprintf("more than %d bytes", most), "revoke tokens first")
	if after := statOf(t, f.Path); after.Ino != before.Ino || after.Mtim != before.Mtim {
		t.Error("the file was changed")
	}
	if _, err := f.Entries(); err != nil {
		t.Errorf("the file can no longer be read: %v", err)
	}
}

func TestTheFilesOwnOrderIsKept(t *testing.T) {
	for _, row := range []struct{ form, have, want string }{
		{
			"in the canonical form",
			"{\n  \"b\": {\n    \"project\": \"p\"\n  },\n  \"x\": {\n    \"project\": \"gone\"\n  },\n  \"a\": {\n    \"project\": \"p\"\n  }\n}\n",
			"{\n  \"b\": {\n    \"project\": \"p\"\n  },\n  \"a\": {\n    \"project\": \"p\"\n  }\n}\n",
		},
		{
			"in another form",
			`{"b": {"project": "p"}, "x": {"project": "gone"}, "a":1}`,
			"{\n  \"b\": {\"project\": \"p\"},\n  \"a\":1\n}\n",
		},
		// A reader may take all keys that are not Unicode for one key, and keep the last one. So
		// their order must not change.
		{
			"keys that are not Unicode",
			"{\"\": 0, \"\\ud800\": 1, \"\xff\": 2, \"x\": {\"project\": \"gone\"}, \"\\udc00\": 3, \"\\ud800\": 4}",
			"{\n  \"\": 0,\n  \"\\ud800\": 1,\n  \"\xff\": 2,\n  \"\\udc00\": 3,\n  \"\\ud800\": 4\n}\n",
		},
	} {
		t.Run(row.form, func(t *testing.T) {
			f := tokenFile(t)
			write(t, f.Path, row.have)
			if _, err := f.RevokeTokenForTask("gone", ""); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(row.want, contentOf(t, f.Path)); diff != "" {
				t.Errorf("file (-want +got):\n%s", diff)
			}
		})
	}
}

// As in Python, the last entry counts. If only the last were removed, the first would count, and a
// gate would accept the token again.
func TestTheLastOfTwoEntriesOfATokenCountsAndBothAreRevoked(t *testing.T) {
	const canonical = "{\n  \"x\": {\n    \"project\": %q\n  },\n  \"y\": {\n    \"project\": \"p\"\n  },\n  \"x\": {\n    \"project\": %q\n  }\n}\n"
	const other = `{"x": {"project": %q}, "y": {"project": "p"}, "\u0078": {"project": %q}}`
	for name, form := range map[string]string{"in the canonical form": canonical, "in another form": other} {
		t.Run(name, func(t *testing.T) {
			f := tokenFile(t)
			write(t, f.Path, fmt.Sprintf(form, "first", "last"))
			entries, err := f.Entries()
			if err != nil || len(entries) != 2 || entries[0].Project != "p" || entries[1].Project != "last" {
				t.Errorf("entries %v, error %v", entries, err)
			}

			check := untouched(t, f.Path)
			if revoked, err := f.RevokeTokenForTask("first", ""); err != nil || len(revoked) != 0 {
				t.Errorf("of the first: revoked %v, error %v", revoked, err)
			}
			check(t)

			if revoked, err := f.RevokeTokenForTask("last", ""); err != nil || len(revoked) != 1 || revoked[0].Project != "last" {
				t.Errorf("of the last: revoked %v, error %v", revoked, err)
			}
			if entries, err = f.Entries(); err != nil || len(entries) != 1 || entries[0].Token != "y" {
				t.Errorf("then: entries %v, error %v", entries, err)
			}
			if got := contentOf(t, f.Path); strings.Contains(got, "x") {
				t.Errorf("the file holds\n%s", got)
			}
		})
	}

	t.Run("a value that is no entry counts as well", func(t *testing.T) {
		f := tokenFile(t)
		write(t, f.Path, `{"x": {"project": "p"}, "x": 7}`)
		check := untouched(t, f.Path)
		if revoked, err := f.RevokeTokenForTask("p", ""); err != nil || len(revoked) != 0 {
			t.Errorf("revoked %v, error %v", revoked, err)
		}
		check(t)
	})
}

func TestEntriesOfEveryProgramAreRead(t *testing.T) {
	type entry struct {
		Project, Task, Container string
		Created                  bool
		Process                  *store.Process
		Limits                   store.Limits
		Gate                     *store.Attached
		Also                     store.Also
	}

	many := func(number int) (also string) {
		for i := range number {
			also += fmt.Sprintf(`, "p%d": "read"`, i)
		}
		return "{" + also[2:] + "}"
	}

	as32 := store.Also{}
	for i := range 32 {
		as32[fmt.Sprintf("p%d", i)] = "read"
	}

	for _, row := range []struct {
		name  string
		value string
		want  *entry // nil: not an entry
	}{
		{"project and task", `{"project": "p", "task": "t"}`, &entry{Project: "p", Task: "t"}},
		{"scope, if there is no project", `{"scope": "s", "task": "t"}`, &entry{Project: "s", Task: "t"}},
		{"project rather than scope", `{"scope": "s", "project": "p"}`, &entry{Project: "p"}},
		{"scope if project is null", `{"scope": "s", "project": null}`, &entry{Project: "s"}},
		{"scope if project is a number", `{"scope": "s", "project": 7}`, &entry{Project: "s"}},
		{"no task", `{"project": "p"}`, &entry{Project: "p"}},
		{"a task of another type", `{"project": "p", "task": 1}`, &entry{Project: "p"}},
		{"a wildcard is not ours to judge", `{"project": "*", "task": "../x"}`, &entry{Project: "*", Task: "../x"}},
		{"the last of two projects", `{"project": "a", "project": "b"}`, &entry{Project: "b"}},
		{"the keys project and scope in capitals are not read", `{"Project": "p", "SCOPE": "s"}`, nil},
		{"the key task in capitals is not read", `{"project": "p", "Task": "t"}`, &entry{Project: "p"}},
		{"the key project before the same key in capitals", `{"project": "p", "PROJECT": "q"}`, &entry{Project: "p"}},
		{"the key project after the same key in capitals", `{"PROJECT": "q", "project": "p"}`, &entry{Project: "p"}},
		{"the key container in capitals is not read", `{"project": "p", "CONTAINER": "c"}`, &entry{Project: "p"}},
		{"a container", `{"project": "p", "container": "c"}`, &entry{Project: "p", Container: "c"}},
		{"a container of another type", `{"project": "p", "container": {}}`, &entry{Project: "p"}},
		{"a time", `{"project": "p", "created": "2024-05-06T07:08:09+02:00"}`, &entry{Project: "p", Created: true}},
		{"a word instead of a time", `{"project": "p", "created": "yesterday"}`, &entry{Project: "p"}},
		{"a number instead of a time", `{"project": "p", "created": 1700000000}`, &entry{Project: "p"}},
		{"a process", `{"project": "p", "process": {"machine": "m", "pid": 7, "more": 1}}`, &entry{Project: "p", Process: &store.Process{Machine: "m", PID: 7}}},
		{"null instead of a process", `{"project": "p", "process": null}`, &entry{Project: "p"}},
		{"a number instead of a process", `{"project": "p", "process": 7}`, &entry{Project: "p"}},
		{"a process with a pid of another type is not read", `{"project": "p", "process": {"machine": "m", "pid": "7"}}`, &entry{Project: "p"}},
		{"a process with a pid out of range is not read", `{"project": "p", "process": {"machine": "m", "pid": 1e30}}`, &entry{Project: "p"}},
		{"read only", `{"limited": {"project": "p", "access": "read"}, "task": "t"}`, &entry{Project: "p", Task: "t", Limits: store.Limits{ReadOnly: true}}},
		{"append only", `{"limited": {"project": "p", "access": "append"}, "task": "t"}`, &entry{Project: "p", Task: "t", Limits: store.Limits{AppendOnly: true}}},
		{"pushes to some refs", `{"limited": {"push": [["refs/heads/a"], []], "access": "write", "project": "p"}}`,
			&entry{Project: "p", Limits: store.Limits{Push: [][]string{{"refs/heads/a"}, {}}}}},
		{"an unknown key in limits, which might be a limit", `{"limited": {"project": "p", "access": "read", "until": "noon"}}`, nil},
		{"other projects", `{"project": "p", "also": {"lib": "read", "tools": "write"}}`, &entry{Project: "p", Also: store.Also{"lib": "read", "tools": "write"}}},
		{"other projects beside a scope", `{"also": {"lib": "read"}, "scope": "p"}`, &entry{Project: "p", Also: store.Also{"lib": "read"}}},
		{"other projects in limits", `{"limited": {"also": {"lib": "read"}, "project": "p", "access": "append"}}`,
			&entry{Project: "p", Limits: store.Limits{AppendOnly: true}, Also: store.Also{"lib": "read"}}},
		{"other projects beside limits are not read", `{"limited": {"project": "p", "access": "append"}, "also": {"lib": "read"}}`,
			&entry{Project: "p", Limits: store.Limits{AppendOnly: true}}},
		{"the last access of another project that comes twice", `{"project": "p", "also": {"lib": "write", "lib": "read"}}`, &entry{Project: "p", Also: store.Also{"lib": "read"}}},
		{"as many other projects as there may be", `{"project": "p", "also": ` + many(32) + `}`, &entry{Project: "p", Also: as32}},
		{"too many other projects are not read", `{"project": "p", "also": ` + many(33) + `}`, &entry{Project: "p"}},
		{"no other projects if one has an access that we do not know", `{"project": "p", "also": {"lib": "read", "tools": "append"}}`, &entry{Project: "p"}},
		{"no other projects if one has a name that no project can have", `{"project": "p", "also": {"lib": "read", "*": "read"}}`, &entry{Project: "p"}},
		{"no other projects if one is the token's own", `{"project": "p", "also": {"lib": "read", "p": "read"}}`, &entry{Project: "p"}},
		{"a list instead of other projects", `{"project": "p", "also": ["lib"]}`, &entry{Project: "p"}},
		{"null instead of other projects", `{"project": "p", "also": null}`, &entry{Project: "p"}},
		{"the key also in capitals is not read", `{"project": "p", "ALSO": {"lib": "read"}}`, &entry{Project: "p"}},
		{"limits with too many other projects", `{"limited": {"project": "p", "access": "read", "also": ` + many(33) + `}}`, nil},
		{"limits with another project's access that we do not know", `{"limited": {"project": "p", "access": "read", "also": {"lib": "append"}}}`, nil},
		{"limits with the token's own project among the others", `{"limited": {"project": "p", "access": "write", "also": {"p": "read"}}}`, nil},
		{"limits with null for other projects", `{"limited": {"project": "p", "access": "write", "also": null}}`, nil},
		{"a limit without a project", `{"limited": {"access": "read"}}`, nil},
		{"project rather than limits, as other gates read it", `{"project": "q", "limited": {"project": "p", "access": "read"}}`, &entry{Project: "q"}},
		{"the gate in its network", `{"project": "p", "gate": {"listen": "127.0.0.1:1", "withheld": false, "more": 1}}`,
			&entry{Project: "p", Gate: &store.Attached{Listen: "127.0.0.1:1"}}},
		{"services of the host", `{"project": "p", "gate": {"listen": "127.0.0.1:1", "withheld": false, "services": {"llm": "127.0.0.1:2"}}}`,
			&entry{Project: "p", Gate: &store.Attached{Listen: "127.0.0.1:1", Services: map[string]string{"llm": "127.0.0.1:2"}}}},
		{"a list instead of services", `{"project": "p", "gate": {"listen": "127.0.0.1:1", "withheld": false, "services": ["llm"]}}`,
			&entry{Project: "p", Gate: &store.Attached{Listen: "127.0.0.1:1"}}},
		{"no services if one is a number", `{"project": "p", "gate": {"listen": "127.0.0.1:1", "withheld": false, "services": {"llm": "127.0.0.1:2", "db": 3}}}`,
			&entry{Project: "p", Gate: &store.Attached{Listen: "127.0.0.1:1"}}},
		{"a number instead of the gate in its network", `{"project": "p", "gate": 7}`, &entry{Project: "p"}},
		{"the gate in its network is not read without the key withheld", `{"project": "p", "gate": {"listen": "127.0.0.1:1"}}`, &entry{Project: "p"}},
		{"the gate in its network is not read from keys in capitals", `{"project": "p", "gate": {"LISTEN": "127.0.0.1:1", "withheld": true}}`, &entry{Project: "p"}},
		{"an empty object", `{}`, nil},
		{"null", `null`, nil},
		{"a string", `"project"`, nil},
		{"a number", `1`, nil},
		{"an array", `["project"]`, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := tokenFile(t)
			write(t, f.Path, `{"x": `+row.value+`}`)
			entries, err := f.Entries()
			if err != nil {
				t.Fatal(err)
			}

			var got *entry
			for _, e := range entries {
				if e.Token != "x" || got != nil {
					t.Errorf("more than token x: %+v", entries)
				}
				got = &entry{e.Project, e.Task, e.Container, !e.Created.IsZero(), e.Process, e.Limits, e.Gate, e.Also}
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("entry (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEntriesComeOldestFirst(t *testing.T) {
	f := tokenFile(t)
	write(t, f.Path, `{
		"c": {"project": "p", "created": "2024-01-03T00:00:00Z"},
		"a": {"project": "p", "created": "2024-01-02T00:00:00+09:00"},
		"b": {"project": "p", "created": "2024-01-02T00:00:00Z"},
		"d": {"project": "p"}}`)
	entries, err := f.Entries()
	if err != nil {
		t.Fatal(err)
	}
	var got string
	for _, e := range entries {
		got += string(e.Token)
	}
	if got != "dabc" {
		t.Errorf("the order is %s, not dabc", got)
	}
}

func TestAFileThatIsNotAJSONObjectIsNeitherReplacedNorTakenForEmpty(t *testing.T) {
	const whole = `{"terok-g-0123456789abcdef0123456789abcdef": {"project": "demo", "task": "1"}}`
	calls := map[string]func(store.File) error{
		"Entries": func(f store.File) error {
			_, err := f.Entries()
			return err
		},
	}
	for name, change := range changes {
		calls[name] = change
	}

	for _, row := range []struct {
		name    string
		content string
		byte    int
	}{
		{"empty", "", 0},
		{"white space", " \n\t ", 4},
		{"NULs, as after a crash", "\x00\x00\x00\x00", 1},
		{"null", "null", 0},
		{"null with a line end", "null\n", 0},
		{"a string", `"tokens"`, 8},
		{"a number", "12", 2},
		{"true", "true", 4},
		{"an array", "[]", 1},
		{"an array of objects", "[" + whole + "]", 1},
		{"cut off after the first brace", whole[:1], 1},
		{"cut off within a token", whole[:20], 20},
		{"cut off before the last brace", whole[:len(whole)-1], len(whole) - 1},
		{"two objects", whole + "{}", len(whole) + 1},
		{"rubbish after the object", whole + "\nx", len(whole) + 2},
		{"a comma too many", `{"x": 1,}`, 9},
		{"a comma too few", `{"x": 1 "y": 2}`, 9},
		{"single quotes", `{'x': 1}`, 2},
		{"a comment", "{} // tokens", 4},
		{"a number that Python writes and JSON does not know", `{"x": NaN}`, 7},
		{"a control character in a string", "{\"a\nb\": 1}", 4},
		{"a byte order mark", "\xef\xbb\xbf{}", 1},
		{"UTF-16", "\xff\xfe{\x00}\x00", 1},
		{"not JSON at all", "terok-g-0123456789abcdef0123456789abcdef demo 1\n", 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			for name, call := range calls {
				f := tokenFile(t)
				write(t, f.Path, row.content)
				check := untouched(t, f.Path)
				err := call(f)
				wantError(t, err, "token file "+f.Path, fmt.Sprintf("byte %d:", row.byte))
				check(t)
				if t.Failed() {
					t.Fatalf("the call was %s", name)
				}
			}
		})
	}
}
