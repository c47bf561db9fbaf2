package desk

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// hostileGate makes the gate's repository as hostile as the gate's user can. If one of the repository's
// programs runs, it writes to the file ran.
func hostileGate(w *world) (ran string) {
	// Git in the repository shows something harmless in the place of the branch.
	harmless := w.commit("harmless", "b")
	w.set(w.gate, "refs/heads/harmless", "harmless")
	w.git("--git-dir", w.gate, "update-ref", "refs/replace/"+w.id("y"), harmless)
	w.git("--git-dir", w.gate, "update-ref", "-d", "refs/heads/harmless")

	ran = filepath.Join(filepath.Dir(w.gate), "ran")
	program := filepath.Join(w.gate, "evil")
	script := fmt.Sprintf("#!/bin/sh\necho \"$0 $*\" >>%s\nexec cat\n", ran)
	write := func(path, content string) {
		w.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			w.Fatal(err)
		}
	}
	write(program, script)
	for _, hook := range []string{"pre-receive", "update", "post-receive", "post-update", "reference-transaction", "proc-receive", "pre-auto-gc", "push-to-checkout"} {
		write(filepath.Join(w.gate, "hooks", hook), script)
	}
	write(filepath.Join(w.gate, "info", "attributes"), "* -diff -text diff=evil filter=evil export-ignore\n")
	write(filepath.Join(w.gate, "info", "grafts"), w.id("y")+"\n")
	for _, setting := range [][2]string{
		{"core.hooksPath", filepath.Join(w.gate, "hooks")},
		{"core.alternateRefsCommand", program},
		{"core.fsmonitor", program},
		{"core.sshCommand", program},
		{"core.pager", program},
		{"core.editor", program},
		{"core.gitProxy", program},
		{"core.attributesFile", filepath.Join(w.gate, "info", "attributes")},
		{"core.alternateRefsPrefixes", "refs/"},
		{"uploadpack.packObjectsHook", program},
		{"receive.denyNonFastForwards", "true"},
		{"transfer.hideRefs", "refs/terok"},
		{"diff.external", program},
		{"diff.evil.textconv", program},
		{"diff.evil.command", program},
		{"filter.evil.clean", program},
		{"gpg.program", program},
		{"hook.evil.command", program},
		{"hook.evil.event", "reference-transaction"},
		{"alias.for-each-ref", "!" + program},
		{"alias.upload-pack", "!" + program},
		{"extensions.partialClone", "origin"},
		{"remote.origin.url", "ext::" + program},
		{"remote.origin.promisor", "true"},
		{"core.repositoryFormatVersion", "1"},
		{"protocol.ext.allow", "always"},
	} {
		w.git("--git-dir", w.gate, "config", setting[0], setting[1])
	}
	return ran
}

func TestNothingOfAHostileGateRunsOrChangesWhatIsShown(t *testing.T) {
	w := history(t)
	w.set(w.forge, "refs/heads/main", "b")
	w.sync()
	w.set(w.gate, "refs/heads/agent", "y")
	before := w.shown(w.offer("refs/heads/agent", "refs/heads/agent"))
	if !strings.Contains(before, "+what y has") {
		t.Fatalf("not shown:\n%s", before)
	}

	// Begin again with a new desk, which is empty.
	if err := Remove(w.desks, "demo"); err != nil {
		t.Fatal(err)
	}
	ran := hostileGate(w)
	w.set(w.forge, "refs/heads/main", "c")
	w.set(w.forge, "refs/heads/gone", "b")
	w.sync()
	w.set(w.forge, "refs/heads/gone", "")
	w.sync()
	if got := w.at(w.gate, "refs/heads/main"); got != "c" {
		t.Errorf("main is %s", got)
	}
	if kept := w.kept("refs/heads/gone"); len(kept) != 1 {
		t.Errorf("kept: %v", kept)
	}
	w.set(w.forge, "refs/heads/main", "b") // as it was shown before
	w.sync()

	if _, err := w.open().Review(t.Context()); err != nil {
		t.Error(err)
	}
	o := w.offer("refs/heads/agent", "refs/heads/agent")
	if after := w.shown(o); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if err := o.Release(t.Context(), false, t.Output()); err != nil {
		t.Error(err)
	}
	if got := w.at(w.forge, "refs/heads/agent"); got != "y" {
		t.Errorf("upstream has %s", got)
	}
	if _, err := w.settings().Gate.Restore(t.Context(), "refs/heads/gone"); err != nil {
		t.Error(err)
	}
	// No other setting undoes receive.procReceiveRefs. So the gate's user can make a sync fail, but can
	// do nothing else.
	w.git("--git-dir", w.gate, "config", "receive.procReceiveRefs", "refs")
	w.set(w.forge, "refs/heads/main", "z")
	if done, err := w.open().Sync(t.Context()); err == nil {
		t.Errorf("a sync has succeeded, although a hook was to receive its refs: %v", done)
	}
	if what, err := os.ReadFile(ran); err == nil {
		t.Errorf("ran:\n%s", what)
	}
}

func TestOddRefNamesInTheGateAreText(t *testing.T) {
	w := history(t)
	w.sync()
	names := []string{
		"-x", "--upload-pack=evil", "origin/main", "HEAD", "refs/heads/main", "@", "a;b", "$(id)", "a'b\"c", "\u202emain", "\u009b31m", "%00",
		"FETCH_HEAD", "terok/last/heads/main", strings.Repeat("d/", 900) + "x",
	}
	for _, name := range names {
		w.set(w.gate, "refs/heads/"+name, "x")
	}

	branches, err := w.open().Review(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(branches) != len(names) {
		t.Errorf("review names %d branches of %d: %v", len(branches), len(names), branches)
	}
	w.set(w.forge, "refs/heads/main", "b")
	w.sync()
	checkRefs(w, "refs/heads/main", "b", "b", "")
	for _, name := range names[:len(names)-1] {
		ref := "refs/heads/" + name
		o := w.offer(ref, ref)
		if err := o.Release(t.Context(), false, t.Output()); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if got := w.at(w.forge, ref); got != "x" {
			t.Errorf("%q: upstream has %s", name, got)
		}
	}
}

func TestAContainersTagHidesNothing(t *testing.T) {
	w := history(t)
	w.sync()
	w.set(w.gate, "refs/heads/task-1", "x")
	w.set(w.gate, "refs/tags/origin/main", "x")
	w.set(w.gate, "refs/tags/v2.0", "x")
	w.set(w.forge, "refs/tags/v2.0", "b")

	done := w.sync()
	if len(done.Waits) != 1 || done.Waits[0].Ref != "refs/tags/v2.0" {
		t.Errorf("waits: %v", done.Waits)
	}
	branches, err := w.open().Review(t.Context())
	if err != nil || len(branches) != 1 || branches[0].Ahead != 1 {
		t.Errorf("review: %v, %v", branches, err)
	}
	w.sync("refs/tags/v2.0")
	checkRefs(w, "refs/tags/v2.0", "b", "b", "x")
}

func TestContentIsShownAsText(t *testing.T) {
	w := history(t)
	w.sync()
	content := filepath.Join(w.work, "content")
	evil := "a\x1b[2Jb\u202ec\x00\xff\xc2\x9b\r\n* -diff\n"
	if err := os.WriteFile(content, []byte(evil), 0o600); err != nil {
		t.Fatal(err)
	}
	blob := w.git("-C", w.work, "hash-object", "-w", content)
	w.git("-C", w.work, "read-tree", w.id("a"))
	for _, path := range []string{"bin", ".gitattributes", "\x1b[1mname"} {
		w.git("-C", w.work, "update-index", "--add", "--cacheinfo", "100644,"+blob+","+path)
	}
	w.named["evil"] = w.git("-C", w.work, "commit-tree", "-m", "one\x1b[2J\u202e", "-p", w.id("a"), w.git("-C", w.work, "write-tree"))
	w.set(w.gate, "refs/heads/evil", "evil")

	shown := w.shown(w.offer("refs/heads/evil", "refs/heads/evil"))
	if strings.ContainsAny(shown, "\x1b\u202e\u009b\x00\r") {
		t.Errorf("shown: %q", shown)
	}
	for _, want := range []string{`+a\x1b[2Jb\u202ec\x00\xff\u009b\r`, `one\x1b[2J\u202e`, "033[1mname"} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q is not shown:\n%s", want, shown)
		}
	}
}

func TestBrokenObjectsInTheGateAreNotOfferedAndDoNotStopASync(t *testing.T) {
	w := history(t)
	w.sync()
	w.set(w.gate, "refs/heads/agent", "x")
	// First the commit's tree is missing, and then the commit, too.
	for _, object := range []string{w.git("-C", w.work, "rev-parse", w.id("x")+"^{tree}"), w.id("x")} {
		if err := os.Remove(filepath.Join(w.gate, "objects", object[:2], object[2:])); err != nil {
			t.Fatal(err)
		}
		d := w.open()
		if branches, err := d.Review(t.Context()); err == nil {
			t.Errorf("review: %v", branches)
		}
		if _, err := d.Offer(t.Context(), "refs/heads/agent", "refs/heads/agent"); err == nil {
			t.Error("what is broken was offered")
		}
		w.set(w.forge, "refs/heads/main", "b")
		w.sync()
		checkRefs(w, "refs/heads/main", "b", "b", "")
	}
}

func TestTheGatesSideRunsAsTheGatesUser(t *testing.T) {
	testenv.NeedRoot(t)
	w := history(t)
	const other = 65534
	for _, dir := range []string{filepath.Dir(w.gate), filepath.Dir(filepath.Dir(w.gate))} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	chown := func() {
		t.Helper()
		err := filepath.WalkDir(w.gate, func(path string, _ os.DirEntry, err error) error {
			if err == nil {
				err = os.Lchown(path, other, other)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	chown()
	w.set(w.forge, "refs/heads/main", "b")
	s := w.settings()
	s.Gate.As = &User{UID: other, GID: other, Home: "/"}
	t.Setenv("SECRET_OF_THE_OPERATORS", "1")

	d, err := Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(w.gate, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && ownerOfFile(info) != other {
			t.Errorf("%s is not the gate's user's", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, variable := range s.Gate.git(t.Context(), "version").Env {
		if strings.HasPrefix(variable, "SECRET") {
			t.Errorf("the gate's git is given %s", variable)
		}
	}
	w.set(w.forge, "refs/heads/main", "z")
	if _, err := d.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Guards against: another user who makes the directory of desks, or a directory above it, before the operator
// does, with a desk whose configuration names a program.
func TestADeskThatAnotherUserCanChangeIsNotOpened(t *testing.T) {
	testenv.NeedRoot(t)
	const other = 65534
	for name, expose := range map[string]func(w *world) error{
		"a directory of another user":                 func(w *world) error { return os.Chown(w.desks, other, other) },
		"a directory below another user's":            func(w *world) error { return os.Chown(filepath.Dir(w.desks), other, other) },
		"a directory that everybody can write to":     func(w *world) error { return os.Chmod(w.desks, 0o777) },
		"a directory by another user's symbolic link": func(w *world) error { return linkAs(w.desks, other) },
	} {
		w := history(t)
		w.sync()
		ran := filepath.Join(t.TempDir(), "ran")
		w.git("--git-dir", w.open().Path(), "config", "core.sshCommand", "touch "+ran+"; false")
		if err := expose(w); err != nil {
			t.Fatal(err)
		}

		s := w.settings()
		s.Source = "ssh://forge.invalid/demo"
		d, err := Open(t.Context(), s)
		if err == nil {
			_, _ = d.Sync(t.Context())
			t.Errorf("%s: the desk was opened", name)
		}
		if err := Remember(w.desks, "demo", "https://forge.invalid/demo"); err == nil {
			t.Errorf("%s: a source was written there", name)
		}
		if _, err := os.Stat(ran); err == nil {
			t.Errorf("%s: the desk's program ran", name)
		}
	}
}

// linkAs renames the file at the path, and puts a user's symbolic link to it in its place.
func linkAs(path string, uid int) error {
	if err := os.Rename(path, path+".real"); err != nil {
		return err
	}
	if err := os.Symlink(path+".real", path); err != nil {
		return err
	}
	return os.Lchown(path, uid, uid)
}

// Guards against: a directory in the operator's working directory that has the name of an address.
func TestADirectoryIsNotTakenForAnAddress(t *testing.T) {
	w := history(t)
	w.sync()
	w.set(w.forge, "refs/heads/main", "b")
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, w.settings().Source), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	w.sync()
	checkRefs(w, "refs/heads/main", "b", "b", "")

	if !IsDirectory(dir) || !IsDirectory(".") {
		t.Error("IsDirectory says that a directory is none")
	}
	for _, address := range []string{"https://git.example/demo", "git.example:demo", "git@git.example:demo/x"} {
		if err := os.MkdirAll(address, 0o755); err != nil {
			t.Fatal(err)
		}
		if IsDirectory(address) || !IsDirectory("./"+address) {
			t.Errorf("%s is taken for a directory, or ./%[1]s is not", address)
		}
	}
}

// Guards against: a release to another user's directory, whose hooks would run as the operator. Git itself
// refuses to push there.
func TestNoHookOfAnotherUsersSourceRuns(t *testing.T) {
	testenv.NeedRoot(t)
	const other = 65534
	w := history(t)
	w.sync()
	w.set(w.gate, "refs/heads/agent", "x")
	ran := filepath.Join(t.TempDir(), "ran")
	hook := filepath.Join(w.forge, "hooks", "pre-receive")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\ntouch "+ran+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(w.forge, other, other); err != nil {
		t.Fatal(err)
	}

	s := w.settings()
	s.Source, s.Local = w.forge, true // SourceAs is nil, as for an operator who is not root
	d, err := Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	o, err := d.Offer(t.Context(), "refs/heads/agent", "refs/heads/agent")
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Release(t.Context(), false, t.Output()); err == nil || !strings.Contains(err.Error(), "dubious ownership") {
		t.Errorf("the release to another user's directory says %v", err)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("its hook ran")
	}
}

// Guards against: a source that becomes another user's directory after the operator's command has looked
// whose it is. Git served that directory as the operator, and its alternates could lead anywhere.
func TestASourceThatBecomesADirectoryLaterIsNotServedAsTheOperator(t *testing.T) {
	testenv.NeedRoot(t)
	const other = 65534
	w := history(t)
	s := w.settings()
	s.Source = w.forge
	if err := os.Chown(w.forge, other, other); err != nil {
		t.Fatal(err)
	}
	d, err := Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if done, err := d.Sync(t.Context()); err == nil || !strings.Contains(err.Error(), "dubious ownership") {
		t.Errorf("synced: %v, %v", done, err)
	}
}

// Guards against: a merge of two branches that upstream has merged as well. The container's merge
// has the content of only one of the branches. Compared with that branch, it changes nothing, but
// it undoes the other branch.
func TestAMergeThatUndoesUpstreamsWorkIsShown(t *testing.T) {
	w := history(t)
	w.commit("one", "a")
	w.commit("two", "a")
	w.commit("both", "one", "two")
	w.set(w.forge, "refs/heads/main", "both")
	w.sync()
	for _, keeps := range []string{"one", "two"} {
		w.named["undo"] = w.git("-C", w.work, "commit-tree", "-m", "merge", "-p", w.id("one"), "-p", w.id("two"), w.id(keeps)+"^{tree}")
		w.set(w.gate, "refs/heads/agent", "undo")

		shown := w.shown(w.offer("refs/heads/agent", "refs/heads/agent"))
		undone := map[string]string{"one": "two", "two": "one"}[keeps]
		if !strings.Contains(shown, "-what "+undone+" has") {
			t.Errorf("it is not shown that %s is undone:\n%s", undone, shown)
		}
	}
}

// Guards against: a gate that fills the operator's disk, a review at a time.
func TestAPackFromTheGateThatIsCutShortLeavesNothing(t *testing.T) {
	w := history(t)
	w.sync()
	content := filepath.Join(w.work, "content")
	random := make([]byte, 2_000_000)
	_, _ = rand.Read(random)
	if err := os.WriteFile(content, random, 0o600); err != nil {
		t.Fatal(err)
	}
	blob := w.git("-C", w.work, "hash-object", "-w", content)
	w.git("-C", w.work, "update-index", "--add", "--cacheinfo", "100644,"+blob+",random")
	w.named["big"] = w.git("-C", w.work, "commit-tree", "-m", "big", "-p", w.id("a"), w.git("-C", w.work, "write-tree"))
	w.set(w.gate, "refs/heads/agent", "big")
	desk := w.open().Path()
	w.git("--git-dir", desk, "config", "fetch.unpackLimit", "1")

	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\ncase \" $* \" in\n*\" upload-pack %s \"*) %[2]s \"$@\" | dd bs=65536 count=6 2>/dev/null ;;\n*) exec %[2]s \"$@\" ;;\nesac\n", w.gate, git)
	if err := os.WriteFile(filepath.Join(bin, "git"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	if branches, err := w.open().Review(t.Context()); err == nil {
		t.Errorf("review: %v", branches)
	}
	if left, err := filepath.Glob(filepath.Join(desk, "objects/pack/tmp_*")); len(left) > 0 || err != nil {
		t.Errorf("left: %v", left)
	}
}

// Guards against: a container that pushes tags with long names, a thousand at a time, until
// nothing can be synced or restored.
func TestManyLongNamesKeepNothingFromBeingSyncedOrRestored(t *testing.T) {
	w := history(t)
	w.sync()
	w.set(w.gate, "refs/heads/agent", "x")
	var packed strings.Builder
	packed.WriteString("# pack-refs with: peeled fully-peeled sorted \n")
	directories := strings.Repeat(strings.Repeat("d", 199)+"/", 19)
	for i := range 10_000 {
		fmt.Fprintf(&packed, "%s refs/tags/%s%06d\n", w.id("x"), directories, i)
	}
	if err := os.WriteFile(filepath.Join(w.gate, "packed-refs"), []byte(packed.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	w.set(w.forge, "refs/heads/gone", "b")
	w.sync()
	w.set(w.forge, "refs/heads/gone", "")
	w.sync()
	if _, err := w.settings().Gate.Restore(t.Context(), "refs/heads/gone"); err != nil {
		t.Error(err)
	}
	checkRefs(w, "refs/heads/gone", "b", "", "")
}
