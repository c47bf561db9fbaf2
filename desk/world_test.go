package desk

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/internal/owner"
	"terok-gate-hook/internal/testenv"
)

// world is a forge, a gate's repository, a desk, and a clone in which commits are made.
type world struct {
	testing.TB
	forge, gate, work string
	desks             string
	named             map[string]string // commits
}

func newWorld(t testing.TB) *world {
	testenv.Need(t, "git")
	dir := t.TempDir()
	w := &world{
		TB: t, named: map[string]string{},
		forge: filepath.Join(dir, "forge.git"), gate: filepath.Join(dir, "gate.git"),
		work: filepath.Join(dir, "work"), desks: filepath.Join(dir, "desks"),
	}
	w.git("init", "--quiet", "--bare", "--initial-branch=main", w.forge)
	w.git("init", "--quiet", "--bare", "--initial-branch=main", w.gate)
	w.git("init", "--quiet", "--initial-branch=main", w.work)
	return w
}

// git runs git without a user's or the machine's settings.
func (w *world) git(args ...string) string {
	w.Helper()
	out, err := w.try(args...)
	if err != nil {
		w.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return out
}

func (w *world) try(args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Env = append(os.Environ(), "HOME="+w.work, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example")
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// commit makes a commit with a file, both called name, and returns the commit's id.
func (w *world) commit(name string, parents ...string) string {
	w.Helper()
	content := filepath.Join(w.work, "content")
	if err := os.WriteFile(content, []byte("what "+name+" has\n"), 0o600); err != nil {
		w.Fatal(err)
	}
	blob := w.git("-C", w.work, "hash-object", "-w", content)
	index := filepath.Join(w.work, ".git", "index")
	_ = os.Remove(index)
	for _, parent := range parents {
		w.git("-C", w.work, "read-tree", w.id(parent))
	}
	w.git("-C", w.work, "update-index", "--add", "--cacheinfo", "100644,"+blob+","+name)
	args := []string{"-C", w.work, "commit-tree", "-m", "commit " + name, w.git("-C", w.work, "write-tree")}
	for _, parent := range parents {
		args = append(args, "-p", w.id(parent))
	}
	w.named[name] = w.git(args...)
	return w.named[name]
}

// id returns the id of the commit called name, or "" if name is "".
func (w *world) id(name string) string {
	if name == "" {
		return ""
	}
	id, there := w.named[name]
	if !there {
		w.Fatalf("no commit is called %s", name)
	}
	return id
}

// name returns the name of the commit with this id, or the id if the commit has no name.
func (w *world) name(id string) string {
	for name, is := range w.named {
		if is == id {
			return name
		}
	}
	return id
}

// set sets a ref of a repository to the commit called name, or deletes the ref if name is "".
func (w *world) set(repo, ref, name string) {
	w.Helper()
	id := w.id(name)
	if id == "" {
		w.git("--git-dir", repo, "update-ref", "-d", ref)
		return
	}
	w.git("-C", w.work, "push", "--quiet", repo, fmt.Sprintf("+%s:%s", id, ref))
}

// at returns the name of the commit to which a ref of a repository points, or "" if there is no such ref.
func (w *world) at(repo, ref string) string {
	out, err := w.try("--git-dir", repo, "rev-parse", "--quiet", "--verify", ref)
	if err != nil {
		return ""
	}
	return w.name(out)
}

// kept returns the names of the old tips that the gate keeps for a ref, newest first.
func (w *world) kept(ref string) (names []string) {
	all, err := parseRefs(w.git("--git-dir", w.gate, "for-each-ref", refFormat, keptPrefix))
	if err != nil {
		w.Fatal(err)
	}
	for _, k := range keptIn(all) {
		if k.Ref == ref {
			names = append(names, w.name(k.Commit))
		}
	}
	return names
}

func (w *world) settings() Settings {
	return Settings{Directory: w.desks, Project: "demo", Source: "file://" + w.forge, Gate: Gate{Repository: Repository{Path: w.gate}}}
}

func (w *world) open() *Desk {
	w.Helper()
	d, err := Open(w.Context(), w.settings())
	if err != nil {
		w.Fatal(err)
	}
	return d
}

func (w *world) sync(reset ...string) Synced {
	w.Helper()
	done, err := w.open().Sync(w.Context(), reset...)
	if err != nil {
		w.Fatal(err)
	}
	return done
}

// nothingIncoming checks that no sync has left anything in the gate.
func (w *world) nothingIncoming() {
	w.Helper()
	if left := w.git("--git-dir", w.gate, "for-each-ref", incomingPrefix); left != "" {
		w.Errorf("the gate still has\n%s", left)
	}
}

func ownerOfFile(info os.FileInfo) int { return owner.UID(info) }
