package store

import (
	"encoding/json"
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
		// A star is a part or nothing: git allows none in a ref's name.
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
		_, limits, ok := parseLimited(json.RawMessage(row.limited))
		if !ok {
			t.Errorf("%s is not understood", row.limited)
		}
		if got := limits.MayPush(row.ref); got != row.want {
			t.Errorf("%s may push %s: %v", row.limited, row.ref, got)
		}
	}
}
