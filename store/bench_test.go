package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// BenchmarkIssue measures a container's start while many others run.
func BenchmarkIssue(b *testing.B) {
	for _, live := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("live=%d", live), func(b *testing.B) {
			f := withTokens(b, live, ourselves(b))
			token, err := NewToken()
			if err != nil {
				b.Fatal(err)
			}
			e := Entry{Token: token, Grant: Grant{Project: "demo", Task: "1"}, Container: fmt.Sprintf("%064x", 1)}
			for b.Loop() {
				if revoked, err := f.Issue(e); err != nil || len(revoked) != 1 {
					b.Fatalf("revoked %d, error %v", len(revoked), err)
				}
			}
		})
	}
}

// BenchmarkSweep measures a sweep that finds no dead process.
func BenchmarkSweep(b *testing.B) {
	for _, live := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("live=%d", live), func(b *testing.B) {
			f := withTokens(b, live, ourselves(b))
			for b.Loop() {
				if revoked, err := f.Sweep(); err != nil || len(revoked) != 0 {
					b.Fatalf("revoked %d, error %v", len(revoked), err)
				}
			}
		})
	}
}

// BenchmarkEach measures what list, verify and package watch do: reading every entry.
func BenchmarkEach(b *testing.B) {
	for _, tokens := range []int{10, 1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("tokens=%d", tokens), func(b *testing.B) {
			f := withTokens(b, tokens, elsewhere(b))
			b.ReportAllocs()
			for b.Loop() {
				seen := 0
				if err := f.Each(func(Entry) { seen++ }); err != nil || seen != tokens {
					b.Fatalf("%d seen, error %v", seen, err)
				}
			}
		})
	}
}

// BenchmarkEdit measures a container's stop without reading and writing the file.
func BenchmarkEdit(b *testing.B) {
	for _, tokens := range []int{10, 1000, 10_000, 100_000} {
		canonical := canonicalContent(b, tokens, elsewhere(b))
		forms := map[string][]byte{"canonical": canonical}
		if tokens <= 10_000 {
			var compact bytes.Buffer
			if err := json.Compact(&compact, canonical); err != nil {
				b.Fatal(err)
			}
			forms["other"] = compact.Bytes()
		}

		id := fmt.Sprintf("%064x", tokens/2+1)
		for form, content := range forms {
			b.Run(fmt.Sprintf("tokens=%d/form=%s", tokens, form), func(b *testing.B) {
				b.SetBytes(int64(len(content)))
				b.ReportAllocs()

				for b.Loop() {
					made, err := edit{fate: func(it *item) fate {
						if string(it.container) == id {
							return goes
						}
						return it.sweepFate()
					}}.apply(content)
					if err != nil || len(made.gone) != 1 {
						b.Fatalf("%d gone, error %v", len(made.gone), err)
					}
				}
			})
		}
	}
}

// BenchmarkLife measures how long it takes to judge one living process: in full, and at a
// glance.
func BenchmarkLife(b *testing.B) {
	p := ourselves(b)
	b.Run("in full", func(b *testing.B) {
		for b.Loop() {
			if p.Life() != Alive {
				b.Fatal("we are not alive")
			}
		}
	})
	b.Run("at a glance", func(b *testing.B) {
		for b.Loop() {
			if _, sure := p.glance(); sure {
				b.Fatal("a glance is sure, although it cannot tell that we are alive")
			}
		}
	})
}

// withTokens returns a token file with this many tokens, each of a container of its own. All are
// tied to one process, since it takes as long to judge one process as another.
func withTokens(b *testing.B, tokens int, process *Process) File {
	b.Helper()
	f := File{Path: filepath.Join(b.TempDir(), "tokens.json")}
	if err := os.WriteFile(f.Path, canonicalContent(b, tokens, process), 0o600); err != nil {
		b.Fatal(err)
	}
	return f
}

// canonicalContent returns the content of a token file as withTokens makes it, in the canonical
// form.
func canonicalContent(b *testing.B, tokens int, process *Process) []byte {
	b.Helper()
	var members [][]byte
	for i := range tokens {
		token, err := NewToken()
		if err != nil {
			b.Fatal(err)
		}
		text, err := Entry{Token: token, Grant: Grant{Project: "demo", Task: "1"}, Container: fmt.Sprintf("%064x", i+1), Process: process}.member()
		if err != nil {
			b.Fatal(err)
		}
		members = append(members, text)
	}
	return append(append([]byte("{\n  "), bytes.Join(members, []byte(",\n  "))...), "\n}\n"...)
}

func ourselves(b testing.TB) *Process {
	b.Helper()
	p, err := ProcessOf(os.Getpid())
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// elsewhere is a process that cannot be judged from here.
func elsewhere(b *testing.B) *Process {
	b.Helper()
	p := ourselves(b)
	p.Machine, p.Boot = strings.Repeat("0", 32), "4f63a9b4-4d69-4f2a-9d0c-7d3c1d0f8a11"
	return p
}

// BenchmarkReader measures a gate's first request after the token file's times have changed. The
// gate reads the file again, and finds the same content.
func BenchmarkReader(b *testing.B) {
	for _, tokens := range []int{1, 1000, 20_000} {
		b.Run(fmt.Sprintf("tokens=%d", tokens), func(b *testing.B) {
			f := withTokens(b, tokens, ourselves(b))
			r := f.Reader(func(err error) { b.Error(err) })
			for i := 0; b.Loop(); i++ {
				stamp := time.Unix(1700000000, int64(i))
				if err := os.Chtimes(f.Path, stamp, stamp); err != nil {
					b.Fatal(err)
				}
				if _, ok := r.Find("another"); ok {
					b.Fatal("a token is found that the file does not have")
				}
			}
		})
	}
}
