package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok-gate-hook/store"
)

func TestACorruptTokenFileIsSetAsideAndNothingElseIs(t *testing.T) {
	f := tokenFile(t)
	write(t, f.Path, "half of it {")
	if _, err := f.Entries(); !errors.Is(err, store.ErrCorrupt) {
		t.Fatalf("Entries does not say that the file is corrupt: %v", err)
	}
	aside, err := f.SetAside()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(aside, f.Path+".corrupt-") || contentOf(t, aside) != "half of it {" {
		t.Errorf("the file is now %s", aside)
	}
	if _, err := f.CreateToken("demo", "1"); err != nil {
		t.Errorf("no token can be issued after that: %v", err)
	}

	check := untouched(t, f.Path)
	if aside, err := f.SetAside(); err == nil {
		t.Errorf("a file in order was set aside as %s", aside)
	}
	check(t)
}

func TestATemporaryFileIsALeftoverOnlyWhileNoWriterIsAtWork(t *testing.T) {
	f := withOneToken(t)
	f.LockTimeout = 30 * time.Millisecond
	leftover := filepath.Join(filepath.Dir(f.Path), ".tokens.json.terok-gate-hook")

	look := func(remove bool, want string) {
		t.Helper()
		if path, err := f.Leftover(remove); path != want || err != nil {
			t.Errorf("left over is %q, %v; want %q", path, err, want)
		}
	}

	look(false, "")
	write(t, leftover, "{")

	release := hold(t, f.Path+".lock")
	if _, err := f.Leftover(true); err == nil {
		t.Error("no error, although a writer holds the lock and the file is the writer's")
	}

	release()
	look(false, leftover)
	look(true, leftover)
	if _, err := os.Lstat(leftover); err == nil {
		t.Error("the leftover is still there")
	}
	look(true, "")
}
