// Makes and opens a desk, the operator's own repository for one project, and reads its refs and
// commits.

package desk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Settings describe a project and the place of its desk.
type Settings struct {
	Directory string // of the operator's desks
	Project   string
	Source    string // where upstream is: an address that git knows, or a directory
	Local     bool   // whether the source is a directory: see [IsDirectory]
	SourceAs  *User  // the owner of a source that is a directory; nil: the operator
	Gate      Gate   // the repository that the gate serves

	// Keep is how long the desk keeps the old tip of upstream's ref when release forces the ref; 0
	// means KeepFor.
	Keep time.Duration

	// Patience is how long upstream may take to list its refs; 0 means 5 minutes. Timeout is how
	// long upstream may then take to send or receive objects; 0 means an hour.
	Patience, Timeout time.Duration
}

// Desk is a project's desk. It must not be used by several goroutines at once.
type Desk struct {
	Settings
	path   string
	format string // sha1 or sha256
}

// ErrNoSource is returned for a project that has no source.
var ErrNoSource = errors.New("the project has no source")

// Open returns a project's desk, and makes it first if it does not exist.
func Open(ctx context.Context, s Settings) (*Desk, error) {
	if s.Source == "" {
		return nil, ErrNoSource
	}
	d := &Desk{Settings: s, path: pathOf(s.Directory, s.Project)}
	if err := makeDirectory(s.Directory); err != nil {
		return nil, err
	}
	unlock, err := d.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()

	_, err = os.Stat(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = d.make(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("make the desk: %w", err)
	}

	if d.format, err = output(d.local(ctx, "rev-parse", "--show-object-format")); err != nil {
		return nil, fmt.Errorf("open the desk: %w", err)
	}
	return d, d.checkGate(ctx)
}

// Path returns the desk's directory.
func (d *Desk) Path() string { return d.path }

// make makes the desk, whole or not at all.
func (d *Desk) make(ctx context.Context) error {
	// A desk must have the object format of the gate's repository.
	format, err := output(d.Gate.git(ctx, "rev-parse", "--show-object-format"))
	if err != nil {
		return err
	}
	if format != "sha256" {
		format = "sha1"
	}

	unfinished, err := os.MkdirTemp(d.Directory, "."+d.Project+".*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(unfinished)
	final := d.path
	d.path, d.format = unfinished, format
	defer func() { d.path = final }()
	init := d.local(ctx, "init", "--quiet", "--bare", "--template=", "--initial-branch=main", "--object-format="+format, unfinished)
	if err := finish(init); err != nil {
		return err
	}
	if err := finish(d.local(ctx, "config", gateKey, d.Gate.Path)); err != nil {
		return err
	}
	return os.Rename(unfinished, final)
}

// gateKey is the configuration key under which a desk keeps the path of the gate's repository.
const gateKey = "terok.gate"

// checkGate returns an error if the desk is for another repository than d.Gate. The desk records what that
// other repository has taken from upstream. By this record, sync could delete or force refs that d.Gate has
// from containers, not from upstream.
func (d *Desk) checkGate(ctx context.Context) error {
	is, err := output(d.local(ctx, "config", "--get", gateKey))
	if err != nil {
		return fmt.Errorf("open the desk: %w", err)
	}
	if is != d.Gate.Path {
		return fmt.Errorf("desk %s is for %s, not for %s", d.path, is, d.Gate.Path)
	}
	return nil
}

// lock waits for the desk's lock, and takes it.
func (d *Desk) lock(ctx context.Context) (unlock func(), err error) {
	unlock, err = lockFile(ctx, filepath.Join(d.Directory, "."+d.Project+".lock"))
	if err != nil {
		return nil, fmt.Errorf("lock the desk: %w", err)
	}
	return unlock, nil
}

// refs returns the desk's own refs.
func (d *Desk) refs(ctx context.Context) (refs, error) { return d.startRefs(ctx)() }

// startRefs starts to read the desk's own refs, and returns a function that waits for them.
func (d *Desk) startRefs(ctx context.Context) func() (refs, error) {
	wait := startRefs(d.local(ctx, "for-each-ref", refFormat, "refs/terok/"))
	return func() (refs, error) {
		all, err := wait()
		if err != nil {
			return nil, fmt.Errorf("read the desk's refs: %w", err)
		}
		return all, nil
	}
}

// update changes the desk's refs by commands that [RefCommand] has returned, all or none.
func (d *Desk) update(ctx context.Context, commands string) error {
	if commands == "" {
		return nil
	}
	if err := feed(d.local(ctx, "update-ref", "--no-deref", "-z", "--stdin"), commands); err != nil {
		return fmt.Errorf("move the desk's refs: %w", err)
	}
	return nil
}

// contains reports whether the commit new has the commit old in its history. If the desk lacks
// old, the answer is false.
func (d *Desk) contains(ctx context.Context, old, new string) (bool, error) {
	if known, err := d.isCommit(ctx, old); !known || err != nil {
		return false, err
	}
	return answer(d.local(ctx, "merge-base", "--is-ancestor", old, new))
}

// isCommit reports whether the desk has a commit with this id.
func (d *Desk) isCommit(ctx context.Context, id string) (bool, error) {
	check := d.local(ctx, "cat-file", "--batch-check=%(objecttype)")
	check.Stdin = strings.NewReader(id + "\n")
	kind, err := output(check)
	return kind == "commit", err
}

// pack packs the desk's objects if they are in many files. The caller holds the desk's lock, so no other
// process can begin to refer to an object that git drops.
func (d *Desk) pack(ctx context.Context) error {
	err := finish(d.local(ctx, "-c", "gc.auto=6700", "-c", "gc.autoDetach=false", "gc", "--auto", "--quiet"))
	if err != nil {
		return fmt.Errorf("pack the desk: %w", err)
	}
	return nil
}

// removeUnfinished removes packs that were received only in part, which git leaves on the disk. The caller
// holds the desk's lock, so no other fetch is writing such a pack.
func (d *Desk) removeUnfinished() {
	packs, _ := filepath.Glob(filepath.Join(d.path, "objects/pack/tmp_*"))
	for _, unfinished := range packs {
		_ = os.Remove(unfinished)
	}
}

// fetchGate fetches objects from the gate, and makes a ref for each, named after the object's id. known are
// the desk's refs: an object that has such a ref is not fetched again.
func (d *Desk) fetchGate(ctx context.Context, ids []string, known refs) error {
	var wanted strings.Builder
	for _, id := range ids {
		if known[gatePrefix+id] == "" {
			wanted.WriteString("+" + id + ":" + gatePrefix + id + "\n")
		}
	}
	if wanted.Len() == 0 {
		return nil
	}
	fetch := d.local(ctx, "-c", "fetch.fsckObjects=true", "-c", "fetch.recurseSubmodules=false",
		"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--stdin", peerAddress)
	fetch.Stdin = strings.NewReader(wanted.String())
	if err := connect(fetch, d.Gate.git(ctx, "upload-pack", d.Gate.Path)); err != nil {
		d.removeUnfinished()
		return fmt.Errorf("fetch from the gate's repository: %w", err)
	}
	return nil
}

// count returns the number of commits that git rev-list lists.
func (d *Desk) count(ctx context.Context, args ...string) (int, error) {
	out, err := output(d.local(ctx, append([]string{"rev-list", "--count"}, args...)...))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(out)
}
