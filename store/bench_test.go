package store_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"terok-gate-hook/store"
)

// BenchmarkIssue is a container's start, beside so many that run.
func BenchmarkIssue(b *testing.B) {
	for _, live := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("live=%d", live), func(b *testing.B) {
			f := withLive(b, live)
			token, err := store.NewToken()
			if err != nil {
				b.Fatal(err)
			}
			e := store.Entry{Token: token, Grant: store.Grant{Project: "demo", Task: "1"}, Container: fmt.Sprintf("%064x", 0)}
			for b.Loop() {
				if revoked, err := f.Issue(e); err != nil || len(revoked) != 1 {
					b.Fatalf("revoked %d, error %v", len(revoked), err)
				}
			}
		})
	}
}

// BenchmarkSweep finds nobody dead.
func BenchmarkSweep(b *testing.B) {
	for _, live := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("live=%d", live), func(b *testing.B) {
			f := withLive(b, live)
			for b.Loop() {
				if revoked, err := f.Sweep(); err != nil || len(revoked) != 0 {
					b.Fatalf("revoked %d, error %v", len(revoked), err)
				}
			}
		})
	}
}

// withLive is a token file with the tokens of so many containers whose process
// lives. It is this process for all: how long it takes to judge one is the same.
func withLive(b *testing.B, live int) store.File {
	b.Helper()
	f := store.File{Path: filepath.Join(b.TempDir(), "tokens.json")}
	process, err := store.ProcessOf(os.Getpid())
	if err != nil {
		b.Fatal(err)
	}
	entries := map[string]any{}
	for i := range live {
		token, err := store.NewToken()
		if err != nil {
			b.Fatal(err)
		}
		entries[string(token)] = map[string]any{
			"project": "demo", "task": "1", "scope": "demo", "container": fmt.Sprintf("%064x", i),
			"created": "2024-05-06T07:08:09.123Z", "process": process,
		}
	}
	content, err := json.MarshalIndent(entries, "", "  ")
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(f.Path, content, 0o600); err != nil {
		b.Fatal(err)
	}
	return f
}
