package gate_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/trail"
)

// everyProtocol runs a test with versions 0 and 2 of git's protocol. Version 1 is like version 0.
func everyProtocol(t *testing.T, test func(t *testing.T, version string)) {
	for _, number := range []string{"0", "2"} {
		t.Run("protocol "+number, func(t *testing.T) { test(t, "protocol.version="+number) })
	}
}

func TestRealGitDoesEverythingThroughTheGate(t *testing.T) {
	everyProtocol(t, func(t *testing.T, version string) {
		h := open(t, gate.Settings{})
		demo := h.demo(t, "demo", 30)
		url := h.url(h.issue(t, "demo"), "demo")
		work := filepath.Join(h.dir, "work")
		in := func(args ...string) string { return git(t, work, append([]string{"-c", version}, args...)...) }
		there := func(args ...string) string { return git(t, demo, args...) }
		same := func(what, got, want string) {
			t.Helper()
			if got != want {
				t.Errorf("%s: %q, not %q", what, got, want)
			}
		}

		git(t, h.dir, "-c", version, "clone", "--quiet", url, work)
		same("the clone", in("rev-parse", "HEAD"), there("rev-parse", "main"))

		in("commit", "--quiet", "--allow-empty", "-m", "one")
		in("push", "--quiet", "origin", "main")
		same("after a push", there("rev-parse", "main"), in("rev-parse", "HEAD"))

		in("commit", "--quiet", "--amend", "--allow-empty", "-m", "another one")
		if out := gitFails(t, work, "-c", version, "push", "origin", "main"); !strings.Contains(out, "[rejected]") {
			t.Errorf("a push that needs force: %s", out)
		}
		in("push", "--quiet", "--force", "origin", "main")
		same("after a forced push", there("rev-parse", "main"), in("rev-parse", "HEAD"))

		in("tag", "-a", "-m", "one", "v1")
		in("push", "--quiet", "--follow-tags", "origin", "main", "HEAD:refs/heads/side")
		same("a tag", there("rev-parse", "v1"), in("rev-parse", "v1"))

		in("push", "--quiet", "--atomic", "origin", "HEAD:refs/heads/side-1", "HEAD~1:refs/heads/side-2", ":side")
		same("after an atomic push", there("for-each-ref", "--format=%(refname)", "refs/heads/side*"), "refs/heads/side-1\nrefs/heads/side-2")

		// A ref that cannot move keeps the other ref from moving.
		in("branch", "atomic")
		gitFails(t, work, "-c", version, "push", "--atomic", "origin", "atomic", "HEAD~3:main")
		same("after an atomic push in vain", there("for-each-ref", "refs/heads/atomic"), "")

		in("push", "--quiet", "origin", "--delete", "side-1")
		same("after a deletion", there("for-each-ref", "refs/heads/side-1"), "")

		there("tag", "v2", "main")
		in("fetch", "--quiet", "--tags", "origin")
		same("a fetched tag", in("rev-parse", "v2"), there("rev-parse", "v2"))

		git(t, h.dir, "-c", version, "clone", "--quiet", "--depth=3", url, "shallow")
		shallow := func(args ...string) string {
			return git(t, filepath.Join(h.dir, "shallow"), append([]string{"-c", version}, args...)...)
		}
		same("a shallow clone", shallow("rev-list", "--count", "HEAD"), "3")
		shallow("fetch", "--quiet", "--deepen=4")
		same("deepened", shallow("rev-list", "--count", "HEAD"), "7")
		shallow("commit", "--quiet", "--allow-empty", "-m", "two")
		shallow("push", "--quiet", "origin", "main")
		same("after a push from a shallow clone", there("rev-parse", "main"), shallow("rev-parse", "HEAD"))
		shallow("fetch", "--quiet", "--unshallow")
		same("the whole", shallow("rev-list", "--count", "HEAD"), there("rev-list", "--count", "main"))
		in("fetch", "--quiet")
		same("fetched", in("rev-parse", "origin/main"), there("rev-parse", "main"))

		git(t, h.dir, "-c", version, "clone", "--quiet", "--filter=blob:none", "--no-checkout", url, "partial")
		partial := filepath.Join(h.dir, "partial")
		missing := git(t, partial, "rev-list", "--objects", "--missing=print", "main")
		if !strings.Contains(missing, "\n?") {
			t.Errorf("a partial clone misses nothing: %s", missing)
		}
		same("a blob that is fetched when it is read", git(t, partial, "-c", version, "show", "main:file-1"), "21")

		git(t, h.dir, "-c", version, "clone", "--quiet", "--single-branch", "--branch=side-2", url, "single")
		same("a single branch", git(t, filepath.Join(h.dir, "single"), "for-each-ref", "--format=%(refname)", "refs/remotes"), "refs/remotes/origin/side-2")
		git(t, h.dir, "-c", version, "clone", "--quiet", "--single-branch", "--branch=v1", url, "tagged")
		same("a single tag", git(t, filepath.Join(h.dir, "tagged"), "for-each-ref", "refs/remotes"), "")

		git(t, h.dir, "-c", version, "clone", "--quiet", "--mirror", url, "mirror")
		mirror := filepath.Join(h.dir, "mirror")
		// All refs but those that the gate keeps, which no client sees.
		served := func() string {
			lines := strings.Split(there("for-each-ref"), "\n")
			return strings.Join(slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, "\trefs/terok/kept/") }), "\n")
		}
		same("a mirror", git(t, mirror, "for-each-ref"), served())
		git(t, mirror, "update-ref", "refs/notes/odd/one", "main")
		git(t, mirror, "update-ref", "-d", "refs/heads/atomic")
		git(t, mirror, "-c", version, "push", "--quiet", "--mirror", url)
		same("a pushed mirror", served(), git(t, mirror, "for-each-ref"))

		same("ls-remote", git(t, h.dir, "-c", version, "ls-remote", url, "refs/notes/odd/*"), there("rev-parse", "main")+"\trefs/notes/odd/one")
		there("fsck", "--strict")
	})
}

func TestAnEmptyRepositoryIsClonedAndPushedTo(t *testing.T) {
	everyProtocol(t, func(t *testing.T, version string) {
		h := open(t, gate.Settings{})
		demo := h.bare(t, "demo")
		url := h.url(h.issue(t, "demo"), "demo")
		git(t, h.dir, "-c", version, "clone", "--quiet", url, "work")
		work := filepath.Join(h.dir, "work")
		git(t, work, "commit", "--quiet", "--allow-empty", "-m", "one")
		git(t, work, "-c", version, "push", "--quiet", "origin", "HEAD:main")
		if got, want := git(t, demo, "rev-parse", "main"), git(t, work, "rev-parse", "HEAD"); got != want {
			t.Errorf("main is %s, not %s", got, want)
		}
	})
}

// The gate can tell the format only with protocol 2. Version 0 does not name it if there is no ref.
func TestAnEmptyRepositoryOfSHA256TellsItsFormat(t *testing.T) {
	h := open(t, gate.Settings{})
	h.bare(t, "demo", "--object-format=sha256")
	token := h.issue(t, "demo")
	_, text := h.request(t, "GET", "/demo.git/info/refs?service=git-upload-pack", token, "", "Git-Protocol: version=2")
	if !strings.Contains(text, "object-format=sha256") {
		t.Errorf("the gate says %q", text)
	}
	var major, minor int
	if _, err := fmt.Sscanf(git(t, h.dir, "version"), "git version %d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if major == 2 && minor < 41 {
		return // such a client ignores the format
	}
	git(t, h.dir, "-c", "protocol.version=2", "clone", "--quiet", h.url(token, "demo"), "work")
	if got := git(t, filepath.Join(h.dir, "work"), "rev-parse", "--show-object-format"); got != "sha256" {
		t.Errorf("the clone's format is %s", got)
	}
}

func TestARepositoryOfSHA256IsClonedAndPushedTo(t *testing.T) {
	everyProtocol(t, func(t *testing.T, version string) {
		h := open(t, gate.Settings{})
		demo := h.bare(t, "demo", "--object-format=sha256")
		url := h.url(h.issue(t, "demo"), "demo")
		feed(t, demo, "commit refs/heads/main\ncommitter A <a@example> 1700000000 +0000\ndata 3\none\n", "fast-import", "--quiet")
		git(t, h.dir, "-c", version, "clone", "--quiet", url, "work")
		work := filepath.Join(h.dir, "work")
		git(t, work, "commit", "--quiet", "--allow-empty", "-m", "two")
		git(t, work, "-c", version, "push", "--quiet", "origin", "main")
		moved := h.trailed(t, trail.Moved, 1)[0]
		if want := git(t, work, "rev-parse", "main"); git(t, demo, "rev-parse", "main") != want || moved.New != want || len(want) != 64 {
			t.Errorf("main is %s, the trail says %s, it was to be %s", git(t, demo, "rev-parse", "main"), moved.New, want)
		}
	})
}

func TestARepositoryOfFiftyThousandRefsIsClonedAndPushedTo(t *testing.T) {
	everyProtocol(t, func(t *testing.T, version string) {
		h := open(t, gate.Settings{})
		demo := h.demo(t, "demo", 1)
		url := h.url(h.issue(t, "demo"), "demo")

		const many = 50_000
		var updates strings.Builder
		tip := git(t, demo, "rev-parse", "main")
		for i := range many {
			fmt.Fprintf(&updates, "%s refs/heads/many/%05d\n", tip, i)
		}
		must(t, os.WriteFile(filepath.Join(demo, "packed-refs"), []byte("# pack-refs with: peeled fully-peeled sorted \n"+tip+" refs/heads/main\n"+updates.String()), 0o644))

		git(t, h.dir, "-c", version, "clone", "--quiet", "--mirror", url, "mirror")
		mirror := filepath.Join(h.dir, "mirror")
		if got := strings.Count(git(t, mirror, "for-each-ref"), "\n") + 1; got != many+1 {
			t.Errorf("%d refs are cloned", got)
		}

		git(t, mirror, "-c", version, "push", "--quiet", url, ":refs/heads/many/00000", ":refs/heads/many/00001")
		if got := h.trailed(t, trail.Push, 1)[0].Refs; got != 2 {
			t.Errorf("the trail says that %d refs moved", got)
		}
	})
}

func TestAPushOfManyRefsNamesAllInTheTrail(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	const many = 1100 // the time that git's client takes grows with the square of it
	tip := git(t, demo, "rev-parse", "main")
	git(t, h.dir, "clone", "--quiet", "--mirror", demo, "mirror")
	mirror := filepath.Join(h.dir, "mirror")
	var updates strings.Builder
	for i := range many {
		fmt.Fprintf(&updates, "create refs/heads/many/%05d %s\n", i, tip)
	}
	feed(t, mirror, updates.String(), "update-ref", "--stdin")
	git(t, mirror, "push", "--quiet", "--mirror", h.url(h.issue(t, "demo"), "demo"))
	if got := h.trailed(t, trail.Push, 1)[0].Refs; got != many {
		t.Errorf("the trail says that %d refs moved", got)
	}
	if moved := h.trailed(t, trail.Moved, many); moved[many-1].New != tip || strings.Trim(moved[many-1].Old, "0") != "" {
		t.Errorf("the last ref is %+v", moved[many-1])
	}
}

func TestASubmoduleIsClonedWithATokenOfItsOwn(t *testing.T) {
	everyProtocol(t, func(t *testing.T, version string) {
		h := open(t, gate.Settings{})
		h.demo(t, "inner", 2)
		h.demo(t, "outer", 2)
		outer := h.url(h.issue(t, "outer"), "outer")
		git(t, h.dir, "clone", "--quiet", outer, "work")
		work := filepath.Join(h.dir, "work")
		git(t, work, "submodule", "--quiet", "add", h.url(h.issue(t, "inner"), "inner"), "inner")
		git(t, work, "commit", "--quiet", "-m", "inner")
		git(t, work, "push", "--quiet")
		git(t, h.dir, "-c", version, "clone", "--quiet", "--recurse-submodules", outer, "again")
		if _, err := os.Stat(filepath.Join(h.dir, "again", "inner", "file-1")); err != nil {
			t.Error(err)
		}
	})
}

func TestABrokenRepositoryIsAnErrorAndNoPathIsTold(t *testing.T) {
	everyProtocol(t, func(t *testing.T, version string) {
		log := logged(t)
		h := open(t, gate.Settings{})
		demo := h.demo(t, "demo", 5)
		url := h.url(h.issue(t, "demo"), "demo")

		// The file of one object is broken.
		git(t, demo, "repack", "-q", "-a", "-d")
		pack := glob(demo + "/objects/pack/*.pack")[0]
		must(t, os.Rename(pack, filepath.Join(h.dir, "all.pack")))
		must(t, os.Remove(strings.TrimSuffix(pack, "pack")+"idx"))
		objects, err := os.Open(filepath.Join(h.dir, "all.pack"))
		must(t, err)
		defer objects.Close()

		unpack := command(demo, "unpack-objects", "-q")
		unpack.Stdin = objects
		must(t, unpack.Run())

		blob := git(t, demo, "rev-parse", "main:file-2")
		object := filepath.Join(demo, "objects", blob[:2], blob[2:])
		must(t, os.Chmod(object, 0o644))
		must(t, os.WriteFile(object, []byte("broken"), 0o644))

		out := gitFails(t, h.dir, "-c", version, "clone", url, "work")
		if !strings.Contains(out, "remote: ") || strings.Contains(out, h.repos) {
			t.Errorf("the client is told: %s", out)
		}
		if event := h.trailed(t, trail.Fetch, 1)[0]; !strings.Contains(event.Error, blob) || !strings.Contains(log.String(), blob) {
			t.Errorf("the trail has %+v, the log %s", event, log)
		}

		// And now it is no repository at all.
		must(t, os.Remove(filepath.Join(demo, "HEAD")))
		out = gitFails(t, h.dir, "-c", version, "clone", url, "work")
		if !strings.Contains(out, "500") || strings.Contains(out, h.repos) {
			t.Errorf("the client is told: %s", out)
		}
	})
}

func TestAHundredClonesAtOnceSucceed(t *testing.T) {
	everyProtocol(t, func(t *testing.T, version string) {
		h := open(t, gate.Settings{})
		h.demo(t, "demo", 30)
		url := h.url(h.issue(t, "demo"), "demo")
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				if out, err := command(h.dir, "-c", version, "clone", "--quiet", "--bare", url, fmt.Sprint("clone-", i)).CombinedOutput(); err != nil {
					t.Errorf("clone %d: %v\n%s", i, err, out)
				}
			})
		}
		all.Wait()
		h.trailed(t, trail.Fetch, 100)
	})
}

// Programs that receive-pack starts know the repository's objects by their whole path, and
// would print it to the client.
func TestAPushIsToldNoPathOfThisMachine(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.bare(t, "demo")
	url := h.url(h.issue(t, "demo"), "demo")
	git(t, h.dir, "clone", "--quiet", url, "work")
	work := filepath.Join(h.dir, "work")
	git(t, work, "commit", "--quiet", "--allow-empty", "-m", "one")
	git(t, work, "push", "--quiet", "origin", "HEAD:main")
	tip := git(t, demo, "rev-parse", "main")
	object := filepath.Join(demo, "objects", tip[:2], tip[2:])
	must(t, os.Remove(object))
	must(t, os.WriteFile(object, nil, 0o644))
	git(t, work, "commit", "--quiet", "--allow-empty", "-m", "two")
	out := gitFails(t, work, "push", "origin", "HEAD:main")
	if !strings.Contains(out, "remote: error: object file ./objects/") || strings.Contains(out, h.repos) {
		t.Errorf("the client is told: %s", out)
	}
}

// A repository's configuration decides which faults of old histories are admitted, except
// those that attack a clone.
func TestOldHistoriesAreAdmittedByTheRepositorysConfiguration(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.bare(t, "demo")
	url := h.url(h.issue(t, "demo"), "demo")
	work := filepath.Join(h.dir, "work")
	git(t, h.dir, "init", "--quiet", work)
	tree := feed(t, work, "", "mktree")
	commit := func(tree, zone string) string {
		text := fmt.Sprintf("tree %s\nauthor A <a@example> 1700000000 %s\ncommitter A <a@example> 1700000000 %s\n\nold\n", tree, zone, zone)
		return feed(t, work, text, "hash-object", "-t", "commit", "-w", "--literally", "--stdin")
	}
	old := commit(tree, "+051800")
	if out := gitFails(t, work, "push", url, old+":refs/heads/old"); !strings.Contains(out, "badTimezone") {
		t.Errorf("the client says %s", out)
	}
	git(t, demo, "config", "receive.fsck.badTimezone", "ignore")
	git(t, work, "push", "--quiet", url, old+":refs/heads/old")

	modules := feed(t, work, "[submodule \"a\"]\n\tpath = a\n\turl = -uevil\n", "hash-object", "-w", "--stdin")
	tree = feed(t, work, "100644 blob "+modules+"\t.gitmodules\n", "mktree")
	if out := gitFails(t, work, "push", url, commit(tree, "+051800")+":refs/heads/evil"); !strings.Contains(out, "gitmodulesUrl") {
		t.Errorf("the client says %s", out)
	}
}
