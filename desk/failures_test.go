package desk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

// reachable reports whether a repository has a commit in the history of any ref.
func (w *world) reachable(repo, name string) bool {
	w.Helper()
	return strings.Contains(w.git("--git-dir", repo, "rev-list", "--all"), w.id(name))
}

func TestAReleaseThatIsKilledLosesNothing(t *testing.T) {
	const topic = "refs/heads/topic"
	standIn := gitThatKills(t)
	for n, killedOne := 1, true; killedOne; n++ {
		w := history(t)
		w.set(w.forge, topic, "z")
		w.set(w.gate, topic, "x")
		killedOne = w.killedAt(standIn, n, killed{Settings: w.settings(), Do: "release", Ref: topic})

		upstream := w.at(w.forge, topic)
		desk := filepath.Join(w.desks, "demo.git")
		if upstream != "z" && upstream != "x" {
			t.Errorf("killed at %d: upstream has %q", n, upstream)
		}
		if upstream == "x" && !w.reachable(desk, "z") {
			t.Errorf("killed at %d: what upstream had is lost", n)
		}
		if got := w.at(w.gate, topic); got != "x" {
			t.Errorf("killed at %d: the gate has %q", n, got)
		}

		// The next release does what the killed one has not done. Then there is nothing to sync.
		o := w.offer(topic, topic)
		if err := o.Release(t.Context(), true, t.Output()); err != nil && !errors.Is(err, ErrNothing) {
			t.Errorf("after a release killed at %d: %v", n, err)
		}
		if got := w.at(w.forge, topic); got != "x" {
			t.Errorf("after a release killed at %d: upstream has %q", n, got)
		}
		if w.sync(); w.at(w.gate, topic) != "x" || !w.reachable(desk, "z") {
			t.Errorf("after a release killed at %d: a sync has lost something", n)
		}
	}
}

func TestARestoreThatIsKilledLosesNothing(t *testing.T) {
	const topic = "refs/heads/topic"
	standIn := gitThatKills(t)
	for n, killedOne := 1, true; killedOne; n++ {
		w := history(t)
		w.set(w.forge, topic, "b")
		w.sync()
		w.set(w.forge, topic, "z")
		w.sync()
		killedOne = w.killedAt(standIn, n, killed{Settings: w.settings(), Do: "restore", Ref: topic})

		is := w.at(w.gate, topic)
		if is != "z" && is != "b" {
			t.Errorf("killed at %d: the gate has %q", n, is)
		}
		for _, name := range []string{"b", "z"} {
			if !w.reachable(w.gate, name) {
				t.Errorf("killed at %d: %s is lost", n, name)
			}
		}
		if is == "b" {
			continue
		}
		if _, err := w.settings().Gate.Restore(t.Context(), topic); err != nil || w.at(w.gate, topic) != "b" {
			t.Errorf("after a restore killed at %d: %v", n, err)
		}
	}
}

// gitThatLies makes git put what is pushed to a repository into a copy of that repository instead, and
// report success. honest ends that.
func (w *world) gitThatLies(repo string) (honest func()) {
	w.Helper()
	git, err := exec.LookPath("git")
	if err != nil {
		w.Fatal(err)
	}
	dir := w.TempDir()
	liesCopy := filepath.Join(dir, "copy.git")
	if out, err := exec.Command("cp", "-r", repo, liesCopy).CombinedOutput(); err != nil {
		w.Fatalf("%v: %s", err, out)
	}
	script := fmt.Sprintf(`#!/bin/sh
for last; do :; done
case " $* " in
*" receive-pack "*) [ "$last" != %s ] || exec %[2]s receive-pack %[3]s ;;
esac
exec %[2]s "$@"
`, repo, git, liesCopy)
	if err := os.WriteFile(filepath.Join(dir, "git"), []byte(script), 0o700); err != nil {
		w.Fatal(err)
	}
	path := os.Getenv("PATH")
	os.Setenv("PATH", dir+":"+path)
	honest = func() { os.Setenv("PATH", path) }
	w.Cleanup(honest)
	return honest
}

func TestALyingReceivePackOfTheGateIsNotBelieved(t *testing.T) {
	w := history(t)
	w.sync()
	w.set(w.forge, "refs/heads/main", "b")
	w.set(w.forge, "refs/heads/new", "c")

	honest := w.gitThatLies(w.gate)
	if done, err := w.open().Sync(t.Context()); err == nil {
		t.Errorf("a sync whose objects were not taken has done %v", done)
	}
	checkRefs(w, "refs/heads/main", "a", "a", "")
	checkRefs(w, "refs/heads/new", "", "", "")
	honest()
	w.sync()
	checkRefs(w, "refs/heads/main", "b", "b", "")
	checkRefs(w, "refs/heads/new", "c", "c", "")
}

func TestNothingIsLostIfAForgeLies(t *testing.T) {
	const agent = "refs/heads/agent"
	w := history(t)
	w.set(w.gate, agent, "x")

	// The forge takes pushes into a copy of its repository, and reports them as done.
	dir := t.TempDir()
	if out, err := exec.Command("cp", "-r", w.forge, filepath.Join(dir, "copy.git")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	forge := filepath.Join(dir, "forge")
	script := fmt.Sprintf(`#!/bin/sh
for last; do :; done
case $last in git-receive-pack*) exec git receive-pack %s/copy.git ;; esac
exec sh -c "git ${last#git-}"
`, dir)
	if err := os.WriteFile(forge, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_SSH_COMMAND", forge)
	t.Setenv("GIT_SSH_VARIANT", "ssh")
	s := w.settings()
	s.Source = "ssh://forge" + w.forge

	d, err := Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	o, err := d.Offer(t.Context(), agent, agent)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Release(t.Context(), false, t.Output()); err != nil {
		t.Fatal(err)
	}
	if got := w.at(w.forge, agent); got != "" {
		t.Fatalf("the forge has not lied: it has %s", got)
	}
	if _, err := d.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !w.reachable(w.gate, "x") {
		t.Error("the gate has lost a commit that the forge claimed to have taken")
	}
}

// onFullDisk runs a test with a small file system mounted at a directory. fill fills the file system
// until only as many bytes are left as free says.
func onFullDisk(t *testing.T, w *world, dir string, test func(fill func(free int64))) {
	t.Helper()
	testenv.NeedRoot(t)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
			runtime.Goexit()
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock it: the thread's mounts are its own
		check(unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS))
		check(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		check(os.MkdirAll(dir, 0o700))
		check(os.Rename(dir, dir+".before"))
		check(os.Mkdir(dir, 0o700))
		check(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m,mode=0700"))
		check(exec.Command("cp", "-a", dir+".before/.", dir).Run())

		filler := filepath.Join(dir, "filler")
		test(func(free int64) {
			t.Helper()
			var disk unix.Statfs_t
			_ = os.Remove(filler)
			check(unix.Statfs(dir, &disk))
			file, err := os.Create(filler)
			check(err)
			defer file.Close()
			if size := int64(disk.Bavail)*disk.Bsize - free; size > 0 {
				check(unix.Fallocate(int(file.Fd()), 0, 0, size))
			}
		})
	}()
	<-done
}

// fullness lists how many bytes are free at each try.
var fullness = []int64{0, 4 << 10, 8 << 10, 12 << 10, 16 << 10, 24 << 10, 32 << 10, 48 << 10, 64 << 10, 96 << 10, 128 << 10, 256 << 10, 4 << 20}

// untilThereIsSpace tries with more and more space until it succeeds. Each error must be one line.
func untilThereIsSpace(t *testing.T, fill func(int64), try func() error, check func()) {
	t.Helper()
	failures := 0
	for _, free := range fullness {
		fill(free)
		err := try()
		check()
		if err == nil {
			if failures == 0 {
				t.Error("the disk was never full")
			}
			return
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("more than a line: %v", err)
		}
		failures++
	}
	t.Error("it fails even with enough space")
}

func TestOnAFullDiskASyncDoesNothingOrAll(t *testing.T) {
	for _, where := range []string{"desk", "gate"} {
		t.Run(where, func(t *testing.T) {
			w := history(t)
			w.sync()
			w.set(w.forge, "refs/heads/main", "z")
			w.set(w.forge, "refs/heads/new", "c")
			dir := w.desks
			if where == "gate" {
				dir = w.gate
			}
			onFullDisk(t, w, dir, func(fill func(int64)) {
				try := func() error {
					d, err := Open(context.Background(), w.settings())
					if err == nil {
						_, err = d.Sync(context.Background())
					}
					return err
				}
				untilThereIsSpace(t, fill, try, func() {
					main, topic := w.at(w.gate, "refs/heads/main"), w.at(w.gate, "refs/heads/new")
					if main+topic != "a" && main+topic != "zc" || !w.reachable(w.gate, "a") {
						t.Errorf("main is %q, new is %q", main, topic)
					}
				})
				checkRefs(w, "refs/heads/main", "z", "z", "")
				checkRefs(w, "refs/heads/new", "c", "c", "")
			})
		})
	}
}

func TestOnAFullDiskAReleaseDoesNothingOrAll(t *testing.T) {
	const topic = "refs/heads/topic"
	w := history(t)
	w.set(w.forge, topic, "z")
	w.sync()
	w.set(w.gate, topic, "x")
	onFullDisk(t, w, w.desks, func(fill func(int64)) {
		try := func() error {
			d, err := Open(context.Background(), w.settings())
			if err != nil {
				return err
			}
			o, err := d.Offer(context.Background(), topic, topic)
			if err != nil {
				return err
			}
			if err := o.Release(context.Background(), true, t.Output()); !errors.Is(err, ErrNothing) {
				return err
			}
			return nil
		}
		untilThereIsSpace(t, fill, try, func() {
			upstream := w.at(w.forge, topic)
			if upstream == "x" && !w.reachable(filepath.Join(w.desks, "demo.git"), "z") || upstream != "x" && upstream != "z" {
				t.Errorf("upstream has %q, or the desk has lost what upstream had", upstream)
			}
		})
		if got := w.at(w.forge, topic); got != "x" {
			t.Errorf("upstream has %q", got)
		}
	})
}

func TestOnAFullDiskARestoreDoesNothingOrAll(t *testing.T) {
	const topic = "refs/heads/topic"
	w := history(t)
	w.set(w.forge, topic, "b")
	w.sync()
	w.set(w.forge, topic, "z")
	w.sync()
	onFullDisk(t, w, w.gate, func(fill func(int64)) {
		try := func() error {
			_, err := w.settings().Gate.Restore(context.Background(), topic)
			return err
		}
		untilThereIsSpace(t, fill, try, func() {
			for _, name := range []string{"b", "z"} {
				if !w.reachable(w.gate, name) {
					t.Errorf("%s is lost", name)
				}
			}
		})
		if got := w.at(w.gate, topic); got != "b" {
			t.Errorf("topic is %q", got)
		}
	})
}

func TestAFullDiskLeavesTheSourcesAsTheyWere(t *testing.T) {
	w := history(t)
	if err := Remember(w.desks, "demo", "https://example.com/demo"); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(SourcesFile(w.desks))
	if err != nil {
		t.Fatal(err)
	}
	onFullDisk(t, w, w.desks, func(fill func(int64)) {
		fill(0)
		if err := Remember(w.desks, "other", "https://example.com/other"); err == nil {
			t.Error("remembered on a full disk")
		}
		if after, err := os.ReadFile(SourcesFile(w.desks)); err != nil || string(after) != string(before) {
			t.Errorf("%s, %v", after, err)
		}
		fill(1 << 20)
		if err := Remember(w.desks, "other", "https://example.com/other"); err != nil {
			t.Error(err)
		}
	})
}
