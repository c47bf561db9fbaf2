package store_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/store"
)

// Depending on which entries go, the new content has 3,000 pieces (more than one system call
// writes), a few large pieces, or only a few bytes.
func TestALargeFileIsEditedLikeASmallOne(t *testing.T) {
	const entries = 3000 // 15 MB
	filler := strings.Repeat("x", 5<<10)

	// content returns a file of the entries for which left is true. Those for which goes is true
	// belong to the container that is revoked.
	content := func(goes, left func(i int) bool) string {
		var members []string
		for i := range entries {
			if !left(i) {
				continue
			}
			container := "stays"
			if goes(i) {
				container = "gone"
			}
			members = append(members, fmt.Sprintf("  \"t%d\": {\n    \"project\": \"p\",\n    \"container\": %q,\n    \"filler\": \"%s\"\n  }", i, container, filler))
		}
		if members == nil {
			return "{}\n"
		}
		return "{\n" + strings.Join(members, ",\n") + "\n}\n"
	}

	all := func(int) bool { return true }
	none := func(int) bool { return false }
	for _, row := range []struct {
		name string
		goes func(i int) bool
	}{
		{"the first", func(i int) bool { return i == 0 }},
		{"one in the middle", func(i int) bool { return i == entries/2 }},
		{"the last", func(i int) bool { return i == entries-1 }},
		{"every other", func(i int) bool { return i%2 == 0 }},
		{"all but the first", func(i int) bool { return i > 0 }},
		{"all", all},
	} {
		t.Run(row.name+" goes", func(t *testing.T) {
			f := store.File{Path: filepath.Join(memory(t), "tokens.json")}
			write(t, f.Path, content(row.goes, all))
			revoked, _, err := f.RevokeContainer("gone")
			if err != nil || len(revoked) == 0 {
				t.Fatalf("revoked %d, error %v", len(revoked), err)
			}

			want := content(none, func(i int) bool { return !row.goes(i) })
			if got := contentOf(t, f.Path); got != want {
				t.Errorf("the file has %d bytes, which are not the wanted %d bytes", len(got), len(want))
			}
			wantNames(t, f, "tokens.json", "tokens.json.lock")
		})
	}

	whole := content(none, all)
	for _, row := range []struct {
		name, content string
		fails         bool
	}{
		{"nothing goes", whole, false},
		{"its end is missing", whole[:len(whole)-3], true},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := store.File{Path: filepath.Join(memory(t), "tokens.json")}
			write(t, f.Path, row.content)
			check := untouched(t, f.Path)
			if _, _, err := f.RevokeContainer("nobody"); (err != nil) != row.fails {
				t.Errorf("error %v", err)
			}
			check(t)
		})
	}
}
