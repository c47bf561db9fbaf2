package faults

import (
	"slices"
	"testing"
)

// A token that the container does not have is limited and hashed like any other.
func TestAWithheldTokenIsLimitedAndHashedToo(t *testing.T) {
	const read, push, elsewhere = "git ls-remote $CODE_REPO", "git -C /run/demo push origin main:agent/1", "git -C /run/demo push origin main:other"
	for _, row := range []struct {
		name    string
		flags   []string
		does    []string
		refused []string
	}{
		{"neither", nil, []string{read, push, elsewhere}, nil},
		{"hashed", []string{"--hashed"}, []string{read, push, elsewhere}, nil},
		{"read only", []string{"--access", "read"}, []string{read}, []string{push, elsewhere}},
		{"pushes to some refs", []string{"--push", "refs/heads/agent/**"}, []string{read, push}, []string{elsewhere}},
		{"hashed, pushes to some refs", []string{"--hashed", "--push", "refs/heads/agent/**"}, []string{read, push}, []string{elsewhere}},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := newHouse(t, 2)
			c := h.attached(t, append([]string{"--withhold-token"}, row.flags...)...)
			must(t, c.does("git clone --quiet $CODE_REPO /run/demo"))

			entries, err := readTokens(h.tokens)
			must(t, err)
			if len(entries) != 1 {
				t.Fatalf("there are %d entries", len(entries))
			}
			for key := range entries {
				if hashed := !aToken.MatchString(key); hashed != slices.Contains(row.flags, "--hashed") {
					t.Errorf("the key of its entry is hashed: %v", hashed)
				}
			}

			for _, script := range row.does {
				if err := c.does(script); err != nil {
					t.Error(err)
				}
			}
			for _, script := range row.refused {
				if c.does(script) == nil {
					t.Errorf("the container may do %s", script)
				}
			}
		})
	}
}
