// Package store keeps git-gate tokens in the token file, tokens.json.
//
// The file is shared with programs that are not ours: a Python orchestrator
// writes it, a gate server reads it. What the package promises them and its
// callers:
//
//   - The file is one JSON object, token to grant, in UTF-8, indented by two
//     spaces. Entries and keys that this package does not know are carried over
//     with their meaning intact.
//   - Every change is one read-modify-write under an exclusive flock(2) on
//     "<token file>.lock", and ends in one rename(2), which is the commit.
//     A reader takes no lock and sees a whole old or a whole new file.
//   - Every replacement has a later modification time than the file it replaces,
//     since the gate server reloads only when the time differs.
//   - A file that is not a JSON object is never replaced and never treated as
//     empty: every call fails, naming path and byte offset.
//
// Not promised: locking against programs that do not take the lock, or over
// network file systems that emulate flock(2) badly or not at all.
//
// The attacker is whoever chooses projects, tasks and container ids, never the
// owner of the token file's folder, who can replace the file anyway. Root may
// still work in a folder of somebody else: nothing outside it is changed. But the
// folders above it must belong to root: whoever owns one of them can put a symbolic
// link in the folder's place.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// DefaultLockTimeout is how long a change waits for the lock, unless told.
const DefaultLockTimeout = 8 * time.Second

// What errors of this package wrap ([errors.Is]).
var (
	ErrCorrupt   = errors.New("not a JSON object")     // the token file
	ErrNoDefault = errors.New("no default token file") // one must be named
)

// File is a token file. It need not exist: it then holds no token, and the first
// token to be issued creates it and its folders.
type File struct {
	Path        string        // see [TokenFilePath] for the default
	LockTimeout time.Duration // how long a change waits for the lock; 0 is [DefaultLockTimeout]
}

// TokenFilePath returns the token file that the programs sharing it agree on:
// $TEROK_SANDBOX_STATE_DIR/gate/tokens.json, else for root
// /var/lib/terok/sandbox/gate/tokens.json, else
// ${XDG_DATA_HOME:-~/.local/share}/terok/sandbox/gate/tokens.json.
//
// There is no default inside a user namespace ([ErrNoDefault]): a rootless engine runs
// hooks there as uid 0 with somebody else's HOME or none, and prestart and poststop
// would not agree.
func TokenFilePath() (string, error) {
	inside, err := InUserNamespace()
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoDefault, err)
	}
	if inside {
		return "", fmt.Errorf("%w inside a user namespace", ErrNoDefault)
	}
	const gate = "gate/tokens.json"
	if dir := os.Getenv("TEROK_SANDBOX_STATE_DIR"); dir != "" {
		return filepath.Abs(filepath.Join(dir, gate))
	}
	if os.Geteuid() == 0 {
		return filepath.Join("/var/lib/terok/sandbox", gate), nil
	}
	// The XDG base directory specification has relative paths ignored.
	data := os.Getenv("XDG_DATA_HOME")
	if !filepath.IsAbs(data) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrNoDefault, err)
		}
		data = filepath.Join(home, ".local/share")
	}
	return filepath.Join(data, "terok/sandbox", gate), nil
}

// CreateToken issues a token that belongs to no container and lives until it is
// revoked. Like every Issue, it sweeps; who wants to know what, calls Issue.
func (f File) CreateToken(project, task string) (Token, error) {
	token, err := NewToken()
	if err != nil {
		return "", err
	}
	_, err = f.Issue(Entry{Token: token, Grant: Grant{Project: project, Task: task}})
	return token, err
}

// RevokeTokenForTask revokes every token of the project and task, whoever issued
// it, and returns what it revoked. None is no error.
func (f File) RevokeTokenForTask(project, task string) ([]Entry, error) {
	return f.Revoke(func(e Entry) bool { return e.Project == project && e.Task == task })
}

// Issue makes the entry's token valid. In the same transaction it revokes earlier
// tokens of the same container and those whose process is dead; revoked lists both.
//
// An error before the rename leaves the file as it was. After it only the folder's
// fsync can fail: the token is then valid, but might not survive a power cut.
func (f File) Issue(e Entry) (revoked []Entry, err error) {
	if err := e.Token.check(); err != nil {
		return nil, err
	}
	if err := e.Grant.Check(); err != nil {
		return nil, err
	}
	value, err := e.marshal()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o700); err != nil {
		return nil, fmt.Errorf("create the token file's folder: %w", err)
	}
	return f.change(func(entries map[string]json.RawMessage) ([]Entry, error) {
		// Asked under the lock: a hook whose runtime was killed may come late, and
		// must not take the token of the container's next life for one of a dead one.
		if e.Process.Life() == Dead {
			return nil, errors.New("the process that it is for is dead")
		}
		revoked := remove(entries, func(old Entry) bool {
			return e.Container != "" && old.Container == e.Container || old.Orphan()
		})
		entries[string(e.Token)] = value
		return revoked, nil
	}, true)
}

// RevokeContainer revokes the tokens of a container that stopped, and sweeps: it
// revokes the tokens of every container whose process is dead. It spares a token
// of this container whose process is provably alive, which belongs to the
// container's next life: a late poststop hook can run after the next prestart.
func (f File) RevokeContainer(id string) (revoked []Entry, err error) {
	return f.Revoke(func(e Entry) bool {
		life := e.Process.Life()
		return life == Dead || life == Unknown && id != "" && e.Container == id
	})
}

// Sweep revokes the orphans: the tokens whose process is provably dead. A token
// that no process is tied to is never swept.
func (f File) Sweep() (revoked []Entry, err error) {
	return f.Revoke(Entry.Orphan)
}

// Revoke revokes the tokens that match and returns them. None is no error, and
// the file is not touched then.
func (f File) Revoke(match func(Entry) bool) ([]Entry, error) {
	if _, err := os.Lstat(f.Path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f.change(func(entries map[string]json.RawMessage) ([]Entry, error) {
		return remove(entries, match), nil
	}, false)
}

// Entries returns the file's well-formed entries, oldest first. It takes no lock.
func (f File) Entries() ([]Entry, error) {
	var entries []Entry
	err := f.Each(func(e Entry) { entries = append(entries, e) })
	slices.SortStableFunc(entries, func(a, b Entry) int { return a.Created.Compare(b.Created) })
	return entries, err
}

// Each visits the file's well-formed entries. It takes no lock. A file that is not a
// JSON object is an error, and none of it is visited.
func (f File) Each(visit func(Entry)) error {
	root, err := openFolder(filepath.Dir(f.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	raw, _, err := read(root, f.Path)
	if err != nil {
		return err
	}
	for _, e := range wellFormed(raw) {
		visit(e)
	}
	return nil
}

// change runs edit on the raw entries under the lock. It commits if edit removed
// entries or always is set, and returns what edit removed.
func (f File) change(edit func(map[string]json.RawMessage) ([]Entry, error), always bool) (removed []Entry, err error) {
	err = f.underLock(func(root *os.Root) error {
		entries, info, err := read(root, f.Path)
		if err != nil {
			return err
		}
		gone, err := edit(entries)
		if err != nil || len(gone) == 0 && !always {
			return err
		}
		content, err := format(entries)
		if err != nil {
			return fmt.Errorf("format token file %s: %w", f.Path, err)
		}
		if len(content) > sizeLimit {
			// Written, it could be read by nobody, and never be mended.
			return fmt.Errorf("token file %s: would grow to more than %d bytes: revoke tokens first", f.Path, sizeLimit)
		}
		if err := replace(root, f.Path, info, content); err != nil {
			return fmt.Errorf("replace token file %s: %w", f.Path, err)
		}
		removed = gone
		return nil
	})
	return removed, err
}

// remove deletes the well-formed entries that match and returns them.
func remove(entries map[string]json.RawMessage, match func(Entry) bool) []Entry {
	var removed []Entry
	for _, e := range wellFormed(entries) {
		if match(e) {
			delete(entries, string(e.Token))
			removed = append(removed, e)
		}
	}
	return removed
}

// openFolder is os.OpenRoot for a folder and nothing else: it does not wait for the
// other end of a fifo.
func openFolder(path string) (*os.Root, error) {
	root, err := os.OpenRoot(path + "/.")
	if err != nil {
		return nil, fmt.Errorf("open the token file's folder: %w", err)
	}
	return root, nil
}
