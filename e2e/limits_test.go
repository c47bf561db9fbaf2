package e2e

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/store"
)

// Podman passes on the limits in the hooks' flags and in annotations unchanged. (Package
// gate tests their effect on git.)
func TestAContainersTokenIsLimitedByFlagsAndAnnotations(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		e = e.withOwnTokens(t).withHooks(t, hookFlags{prestart: []string{"--push", "refs/heads/{task}/**", "--hashed"}}, nil)
		push := "terok.push=refs/heads/*/a,refs/tags/**"
		if !podmanIs(t, 5, 0) {
			push = asCSV(push)
		}

		c := e.create(t, append(annotations("demo", "7"), "--annotation", push, "--annotation", "terok.access=read")...)
		l := c.start(t)
		file := store.File{Path: e.tokenFile}
		entries, err := file.Entries()
		if err != nil || len(entries) != 1 {
			t.Fatalf("entries: %+v, %v", entries, err)
		}

		entry := entries[0]
		want := store.Limits{ReadOnly: true, Push: [][]string{{"refs/heads/7/**"}, {"refs/heads/*/a", "refs/tags/**"}}}
		if diff := cmp.Diff(want, entry.Limits); diff != "" {
			t.Errorf("limits (-want +got):\n%s", diff)
		}
		if entry.Project != "demo" || entry.Container != c.id || entry.Token == store.Token(l.token) || !entry.Is(store.Token(l.token)) {
			t.Errorf("the container's token has the entry %+v", entry)
		}

		c.podman(t, "stop", "--time", "0", c.id)
		if entries, err := file.Entries(); err != nil || len(entries) > 0 {
			t.Errorf("left are %+v, %v", entries, err)
		}
	})
}
