package store

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAPatternIsARefNameWithStarsForParts(t *testing.T) {
	for _, row := range []struct {
		pattern, ref string
		want         bool
	}{
		{"refs/heads/main", "refs/heads/main", true},
		{"refs/heads/main", "refs/heads/main2", false},
		{"refs/heads/main", "refs/heads/main/2", false},
		{"refs/heads/main", "refs/heads", false},
		{"refs/heads/*", "refs/heads/main", true},
		{"refs/heads/*", "refs/heads/agent/1", false},
		{"refs/heads/*", "refs/heads/", false},
		{"refs/heads/*", "refs/heads", false},
		{"refs/*/main", "refs/heads/main", true},
		{"refs/*/main", "refs/heads/x/main", false},
		{"refs/heads/agent/**", "refs/heads/agent/1", true},
		{"refs/heads/agent/**", "refs/heads/agent/1/2/3", true},
		{"refs/heads/agent/**", "refs/heads/agent", false},
		{"refs/heads/agent/**", "refs/heads/agents/1", false},
		{"refs/heads/agent/**", "refs/heads/agent/", false},
		{"**", "refs/heads/main", true},
		// Any other star stands for itself, and git allows no star in a ref's name.
		{"refs/heads/agent-*", "refs/heads/agent-1", false},
		{"refs/**/main", "refs/heads/main", false},
		{"", "", false},
		{"", "refs/heads/main", false},
	} {
		if got := matchRef(row.pattern, row.ref); got != row.want {
			t.Errorf("%q matches %q: %v", row.pattern, row.ref, got)
		}
	}
}

func TestAPushMatchesOnePatternOfEachList(t *testing.T) {
	for _, row := range []struct {
		limited, ref string
		want         bool
	}{
		{`{"project": "demo", "access": "write"}`, "refs/heads/main", true},
		{`{"project": "demo", "access": "read"}`, "refs/heads/main", false},
		{`{"project": "demo", "access": "read", "push": [["**"]]}`, "refs/heads/main", false},
		{`{"project": "demo", "access": "write", "push": []}`, "refs/heads/main", true},
		{`{"project": "demo", "access": "write", "push": [[]]}`, "refs/heads/main", false},
		{`{"project": "demo", "access": "write", "push": [["refs/heads/a", "refs/heads/b"]]}`, "refs/heads/b", true},
		{`{"project": "demo", "access": "write", "push": [["refs/heads/a", "refs/heads/b"]]}`, "refs/heads/c", false},
		{`{"project": "demo", "access": "write", "push": [["refs/heads/**"], ["refs/*/a"]]}`, "refs/heads/a", true},
		{`{"project": "demo", "access": "write", "push": [["refs/heads/**"], ["refs/*/a"]]}`, "refs/heads/b", false},
		{`{"project": "demo", "access": "write", "push": [["refs/heads/**"], ["refs/*/a"]]}`, "refs/tags/a", false},
	} {
		_, limits, _, ok := parseLimited(json.RawMessage(row.limited))
		if !ok {
			t.Errorf("%s is not understood", row.limited)
		}
		if got := limits.MayPush(row.ref); got != row.want {
			t.Errorf("%s may push %s: %v", row.limited, row.ref, got)
		}
	}
}

func TestAPatternThatIsIssuedIsAFullRefName(t *testing.T) {
	for _, row := range []struct{ pattern, err string }{
		{"refs/heads/main", ""},
		{"refs/heads/*", ""},
		{"refs/*/main", ""},
		{"refs/**", ""},
		{"refs/heads/agent/**", ""},
		{"refs/heads/v1.2_a-b+c@d=e#7", ""},
		{"", "not a full ref name"},
		{"main", "not a full ref name"},
		{"heads/main", "not a full ref name"},
		{"/refs/heads/main", "not a full ref name"},
		{"refs", "not a full ref name"},
		{"**", "not a full ref name"},
		{"*/heads/main", "not a full ref name"},
		{"refs/", "empty"},
		{"refs//main", "empty"},
		{"refs/heads/", "empty"},
		{"refs/heads/a*", "a whole part"},
		{"refs/**/main", "a whole part"},
		{"refs/heads/***", "a whole part"},
		{"refs/heads/a b", "use letters"},
		{"refs/heads/a,b", "use letters"},
		{"refs/heads/{task}", "use letters"},
		{"refs/heads/{project}/**", ""},
		{"refs/tags/v-{project}-{project}", ""},
		{"refs/{project}*", "a whole part"},
		{"{project}/heads/main", "not a full ref name"},
		{"refs/heads/{{project}}", "use letters"},
		{"refs/heads/?", "use letters"},
		{"refs/heads/a\nb", "use letters"},
		{`refs/heads/"`, "use letters"},
		{"refs/heads/<a>", "use letters"},
		{"refs/heads/é", "use letters"},
		{"refs/heads/" + strings.Repeat("a", 389), ""},
		{"refs/heads/" + strings.Repeat("a", 390), "longer than 400 bytes"},
	} {
		err := CheckPattern(row.pattern)
		if (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
			t.Errorf("%.40q: the error is not %q but %v", row.pattern, row.err, err)
		}
	}
}

func TestEmptyOverlongAndMalformedLimitsAreNotIssued(t *testing.T) {
	file := File{Path: filepath.Join(t.TempDir(), "tokens.json")}
	token, err := NewToken()
	if err != nil {
		t.Fatal(err)
	}
	of := func(number int) (list []string) {
		for i := range number {
			list = append(list, fmt.Sprintf("refs/heads/%d", i))
		}
		return list
	}
	for name, row := range map[string]struct {
		push [][]string
		err  string
	}{
		"no list":                          {nil, ""},
		"as many patterns as there may be": {[][]string{of(16), of(16)}, ""},
		"more patterns than there may be":  {[][]string{of(16), of(17)}, "a list has 17 patterns: at most 16 are allowed"},
		"a list of nothing":                {[][]string{{"refs/**"}, {}}, "a list of patterns is empty"},
		"an invalid pattern":               {[][]string{{"refs/**"}, {"main"}}, `pattern "main" is refused: not a full ref name`},
	} {
		_, err := file.Issue(Entry{Token: token, Grant: Grant{"demo", "1"}, Limits: Limits{Push: row.push}})
		if (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
			t.Errorf("%s: the error is not %q but %v", name, row.err, err)
		}
	}
}

func TestLimitsAreDescribedInWords(t *testing.T) {
	for _, row := range []struct {
		limits         Limits
		access, pushes string
		limited        bool
	}{
		{Limits{}, "write", "refs/heads/**, refs/tags/**, refs/notes/**", false},
		{Limits{ReadOnly: true}, "read", "nothing", true},
		{Limits{ReadOnly: true, Push: [][]string{{"refs/**"}}}, "read", "nothing", true},
		{Limits{AppendOnly: true}, "append", "refs/heads/**, refs/tags/**, refs/notes/**", true},
		{Limits{Push: [][]string{{"refs/heads/a", "refs/tags/*"}}}, "write", "refs/heads/a, refs/tags/*", true},
		{Limits{Push: [][]string{{"refs/heads/a"}, {"refs/heads/*", "refs/tags/*"}}}, "write", "refs that match both refs/heads/a and (refs/heads/* or refs/tags/*)", true},
		{Limits{Push: [][]string{{"refs/**"}, {"refs/heads/*", "refs/tags/*"}, {"refs/*/a"}}}, "write", "refs that match each of refs/**, (refs/heads/* or refs/tags/*), refs/*/a", true},
		{Limits{Push: [][]string{{}}}, "write", "nothing", true},
		{Limits{Push: [][]string{{"refs/heads/a"}, {}}}, "write", "nothing", true},
	} {
		if row.limits.Access() != row.access || row.limits.Pushes() != row.pushes || row.limits.Limited() != row.limited {
			t.Errorf("%+v: %s, %s, %v", row.limits, row.limits.Access(), row.limits.Pushes(), row.limits.Limited())
		}
	}
}

// The canonical form is fast to read, and every container's start waits until the file is read.
func TestIssuedEntriesAreInTheCanonicalForm(t *testing.T) {
	for _, limits := range []Limits{
		{}, {ReadOnly: true}, {AppendOnly: true}, {Push: [][]string{{"refs/heads/a"}}},
		{ReadOnly: true, Push: [][]string{{"refs/heads/a", "refs/tags/*"}, {"refs/heads/agent/**"}}},
	} {
		file := File{Path: filepath.Join(t.TempDir(), "tokens.json")}
		for _, container := range []string{"", "c1"} {
			for _, also := range []Also{nil, {"lib": AccessRead}, {"tools.x": AccessWrite, "lib": AccessRead, "lib-2": AccessRead}} {
				token, err := NewToken()
				if err != nil {
					t.Fatal(err)
				}
				e := Entry{Token: Token(token.Key()), Grant: Grant{"demo", "1"}, Limits: limits, Also: also}
				if container != "" {
					e.Container = fmt.Sprint(container, len(also))
				}

				if _, err := file.Issue(e); err != nil {
					t.Fatal(err)
				}
			}
		}

		content, err := os.ReadFile(file.Path)
		if err != nil {
			t.Fatal(err)
		}
		if x, err := scan(content, func() func(*item) { return func(*item) {} }); err != nil || x.canonical == nil || len(x.members) != 6 {
			t.Errorf("not 6 entries in the canonical form (error %v):\n%s", err, content)
		}
	}
}
