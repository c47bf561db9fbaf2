package store_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

func mtimeOf(t *testing.T, path string) time.Time {
	t.Helper()
	return time.Unix(statOf(t, path).Mtim.Unix())
}

// laterEveryTime replaces the token file n times and checks that the gate server would
// notice each replacement: no modification time comes twice.
func laterEveryTime(t *testing.T, dir string, n int) {
	t.Helper()
	f := store.File{Path: filepath.Join(dir, "tokens.json")}
	grant := store.Grant{Project: "demo", Task: "1"}
	issue(t, f, store.Entry{Token: tokenNamed("first"), Grant: grant})
	last := mtimeOf(t, f.Path)
	for i := range n {
		if i%2 == 0 {
			issue(t, f, store.Entry{Token: tokenNamed("a"), Grant: grant, Container: "c1"})
		} else if revoked, _, err := f.RevokeContainer("c1"); err != nil || len(revoked) != 1 {
			t.Fatalf("revoked %v, error %v", revoked, err)
		}
		mtime := mtimeOf(t, f.Path)
		if !mtime.After(last) {
			t.Fatalf("replacement %d: %v is not later than %v", i+1, mtime, last)
		}
		last = mtime
	}
}

func TestEachOfAThousandReplacementsIsLaterThanTheOneBefore(t *testing.T) {
	t.Run("in the directory for temporary files", func(t *testing.T) { laterEveryTime(t, t.TempDir(), 1000) })
	t.Run("on tmpfs", func(t *testing.T) {
		testenv.NeedRoot(t)
		if !inside(t, privateMounts) {
			return
		}
		dir := t.TempDir()
		mount(t, "tmpfs", dir, "tmpfs", 0, "")
		laterEveryTime(t, dir, 1000)
	})
	t.Run("on ext4 that keeps whole seconds", func(t *testing.T) {
		testenv.NeedRoot(t)
		if !inside(t, privateMounts) {
			return
		}
		laterEveryTime(t, wholeSeconds(t), 1000)
	})
}

// wholeSeconds mounts an ext4 with inodes of 128 bytes, which have room for seconds
// only, to the year 2038.
func wholeSeconds(t *testing.T) string {
	t.Helper()
	memory, dir := t.TempDir(), t.TempDir()
	mount(t, "tmpfs", memory, "tmpfs", 0, "")

	image := filepath.Join(memory, "image")
	write(t, image, "")
	if err := os.Truncate(image, 8<<20); err != nil {
		t.Fatal(err)
	}

	run(t, "mkfs.ext4", "-q", "-F", "-I", "128", image)
	if out, err := exec.Command(testenv.Tool(t, "mount"), "-o", "loop", image, dir).CombinedOutput(); err != nil {
		testenv.Cannot(t, "no file can be mounted as a disk: %v: %s", err, bytes.TrimSpace(out))
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })

	probe := filepath.Join(dir, "probe")
	write(t, probe, "")
	if err := os.Chtimes(probe, time.Time{}, time.Unix(1_700_000_000, 999_999_999)); err != nil {
		t.Fatal(err)
	}
	if got := mtimeOf(t, probe); !got.Equal(time.Unix(1_700_000_000, 0)) {
		t.Fatalf("the file system keeps %v, not whole seconds", got)
	}
	if err := os.Remove(probe); err != nil {
		t.Fatal(err)
	}

	return dir
}

func TestAReplacementIsLaterThanTheOldFileWhateverTimeTheOldOneHas(t *testing.T) {
	for _, row := range []struct {
		name string
		time time.Time // of the file that is replaced
	}{
		{"in a second", time.Now().Add(time.Second)},
		{"in an hour", time.Now().Add(time.Hour)},
		{"the year 2100", time.Date(2100, 1, 2, 3, 4, 5, 999_999_999, time.UTC)},
		{"the past", time.Unix(0, 0)},
		{"before 1970", time.Unix(-1000, 5)},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := withOneToken(t)
			if err := os.Chtimes(f.Path, row.time, row.time); err != nil {
				t.Fatal(err)
			}
			before := mtimeOf(t, f.Path)
			if !before.Equal(row.time) {
				testenv.Cannot(t, "needs a file system that keeps %v, not %v", row.time, before)
			}

			now := time.Now()
			for range 3 {
				if _, err := f.CreateToken("demo", "1"); err != nil {
					t.Fatal(err)
				}
				after := mtimeOf(t, f.Path)
				if !after.After(before) || after.Before(now.Truncate(time.Microsecond)) {
					t.Errorf("the time was %v and is %v", before, after)
				}
				before = after
			}
		})
	}
}

// The file's time comes from a clock that was wrong.
func TestADifferentTimeIsSetWhereNoLaterOneExists(t *testing.T) {
	testenv.NeedRoot(t)
	if !inside(t, privateMounts) {
		return
	}
	f := store.File{Path: filepath.Join(wholeSeconds(t), "tokens.json")}
	last := time.Unix(1<<31-1, 0) // the last time that the file system can store
	for name, change := range changesOf("c1") {
		issue(t, f, store.Entry{Token: tokenNamed("a"), Grant: store.Grant{Project: "demo", Task: "1"}, Container: "c1"})
		if err := os.Chtimes(f.Path, last, last); err != nil {
			t.Fatal(err)
		}
		now := time.Now().Truncate(time.Second)
		if err := change(f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if after := mtimeOf(t, f.Path); after.Before(now) || after.After(time.Now()) {
			t.Errorf("after %s the file's time is %v, not now", name, after)
		}
	}
	laterEveryTime(t, filepath.Dir(f.Path), 10)
}
