// Issues, lists and revokes the tokens of a token file, and finds the default token file.

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Errors that this package's errors wrap ([errors.Is]).
var (
	ErrCorrupt   = errors.New("not a JSON object")     // a token file's content
	ErrNoDefault = errors.New("no default token file") // the caller must name one
)

// File is a token file. If the file does not exist, it holds no token, and the first token to be
// issued creates it and its directories.
type File struct {
	Path        string        // see [TokenFilePath] for the default
	LockTimeout time.Duration // how long a change waits for the lock; 0 means [DefaultLockTimeout]
}

// TokenFilePath returns the token file that the programs sharing it agree on:
// $TEROK_SANDBOX_STATE_DIR/gate/tokens.json, else for root /var/lib/terok/sandbox/gate/tokens.json,
// else ${XDG_DATA_HOME:-~/.local/share}/terok/sandbox/gate/tokens.json.
//
// There is no default inside a user namespace ([ErrNoDefault]). A rootless engine runs hooks there
// as uid 0, with another user's HOME or none, so the prestart and poststop hooks of a container
// could find different files.
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

	data, err := UserData()
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoDefault, err)
	}
	return filepath.Join(data, "terok/sandbox", gate), nil
}

// UserData returns the directory for the data of the user's programs: $XDG_DATA_HOME, else
// ~/.local/share.
func UserData() (string, error) {
	// The XDG base directory specification says to ignore relative paths.
	if data := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return data, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, ".local/share"), nil
}

// CreateToken issues a token that belongs to no container and lives until it is
// revoked. Like [File.Issue], it sweeps, but it does not return the swept tokens.
func (f File) CreateToken(project, task string) (Token, error) {
	token, err := NewToken()
	if err != nil {
		return "", err
	}

	_, err = f.Issue(Entry{Token: token, Grant: Grant{Project: project, Task: task}})
	return token, err
}

// RevokeTokenForTask revokes every token of the project and task, no matter which program issued
// it, and returns the revoked entries. If there are none, it returns no error.
func (f File) RevokeTokenForTask(project, task string) ([]Entry, error) {
	return f.Revoke(func(e Entry) bool { return e.Project == project && e.Task == task })
}

// Issue makes the entry's token valid. In the same transaction, it revokes earlier tokens of the
// same container, and tokens whose process it finds dead. revoked has all of these.
//
// If Issue fails before the rename, the file is as it was. After the rename, only the fsync of the
// directory can fail: the token is then valid, but might not survive a power cut.
func (f File) Issue(e Entry) (revoked []Entry, err error) { return f.issue(e, nil, goes) }

// IssueTo is Issue for a token that lives and dies with a process. It fails if the process
// has ended.
func (f File) IssueTo(process *Pinned, e Entry) (revoked []Entry, err error) {
	e.Process = &process.Process
	return f.issue(e, process, goes)
}

// ErrIssued reports that the process has a token in this container already ([File.IssueOnceTo]).
var ErrIssued = errors.New("the container has a token already")

// IssueOnceTo is IssueTo for a process that has no token in this container yet. If the process has
// one, IssueOnceTo returns an error wrapping [ErrIssued] and changes nothing.
func (f File) IssueOnceTo(process *Pinned, e Entry) (revoked []Entry, err error) {
	e.Process = &process.Process
	return f.issue(e, process, forbids)
}

// issue issues a token. ofSame is the fate of earlier tokens of the same container and process.
func (f File) issue(e Entry, pinned *Pinned, ofSame fate) (revoked []Entry, err error) {
	if err := e.Token.check(); err != nil {
		return nil, err
	}
	if err := e.Grant.Check(); err != nil {
		return nil, err
	}
	if err := e.Limits.Check(); err != nil {
		return nil, err
	}
	if err := e.Also.Check(e.Project); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o700); err != nil {
		return nil, fmt.Errorf("create the token file's directory: %w", err)
	}

	done, err := f.change(edit{add: &e, pinned: pinned, fate: func(it *item) fate {
		switch {
		case e.Container == "" || string(it.container) != e.Container:
			return it.sweepFate()
		case e.Process != nil && it.tied && it.process == *e.Process:
			return ofSame
		}
		return goes
	}})
	return done.gone, err
}

// RevokeContainer revokes the tokens of a container that has stopped, and the tokens of other
// containers whose process it finds dead.
//
// It spares a token of this container whose process is provably alive, and reports in nextLife
// whether there is one. Such a token belongs to the container's next life, since a late poststop
// hook can run after the next prestart.
func (f File) RevokeContainer(id string) (revoked []Entry, nextLife bool, err error) {
	done, err := f.change(edit{fate: func(it *item) fate {
		switch {
		case id == "" || string(it.container) != id:
			return it.sweepFate()
		case it.life() == Alive:
			return spared
		}
		return goes
	}})
	return done.gone, done.spared, err
}

// sweepFate returns the fate of an entry in a change that also sweeps. The description of the
// entry's process may be enough to decide, for example if the process is of an earlier boot.
// Otherwise, the entry goes if no process has the pid now. If some process has the pid, that
// process must be opened to tell whether it is the entry's; a change opens at most [looks]
// processes.
func (it *item) sweepFate() fate {
	if !it.tied {
		return stays
	}
	switch life, sure := it.process.glance(); {
	case !sure:
		return doubtful
	case life == Dead:
		return goes
	}
	return stays
}

// life returns whether the item's process is alive. Without a process, it returns Unknown.
func (it *item) life() Life {
	if !it.tied {
		return Unknown
	}
	return it.process.Life()
}

// Sweep revokes the orphans: the tokens whose process is provably dead. A token that is tied to no
// process is never swept.
func (f File) Sweep() (revoked []Entry, err error) {
	done, err := f.change(edit{fate: func(it *item) fate {
		if it.life() == Dead {
			return goes
		}
		return stays
	}})
	return done.gone, err
}

// Revoke revokes the tokens that match and returns them. If none match, it returns no
// error and leaves the file untouched.
func (f File) Revoke(match func(Entry) bool) ([]Entry, error) {
	done, err := f.change(edit{fate: func(it *item) fate {
		if match(it.entry()) {
			return goes
		}
		return stays
	}})
	return done.gone, err
}

// Entries returns the file's well-formed entries, oldest first. It takes no lock.
func (f File) Entries() ([]Entry, error) {
	var entries []Entry
	err := f.Each(func(e Entry) { entries = append(entries, e) })
	slices.SortStableFunc(entries, func(a, b Entry) int { return a.Created.Compare(b.Created) })
	return entries, err
}

// Each calls visit for the file's well-formed entries, in the order of the file. It takes no lock.
// If the file is not a JSON object, Each returns an error and visits no entry.
func (f File) Each(visit func(Entry)) error {
	path, name := split(f.Path)
	dir, err := openDirectory(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.close()

	return f.each(dir, name, visit)
}

func (f File) each(dir directory, name string, visit func(Entry)) error {
	file, err := dir.read(name)
	if err != nil {
		return fmt.Errorf("token file %s: %w", f.Path, err)
	}

	x, err := scan(file.content, func() func(*item) { return func(*item) {} })
	if err != nil {
		return fmt.Errorf("token file %s: %w: %w", f.Path, ErrCorrupt, err)
	}

	for _, m := range x.last() {
		if it := x.item(m); it.isEntry() {
			visit(it.entry())
		}
	}
	return nil
}

// change is a transaction under the lock: it reads the file, edits the content, and replaces the
// file if the content has changed.
func (f File) change(e edit) (done edited, err error) {
	if e.add == nil {
		if _, err := os.Lstat(f.Path); errors.Is(err, fs.ErrNotExist) {
			return edited{}, nil
		}
	}
	err = f.underLock(func(dir directory, name string) error {
		// This is checked under the lock. A hook whose runtime was killed may run late, when the
		// container has started again. Such a hook must not revoke the newer token, which it would
		// take for an earlier one.
		if e.add != nil && e.processHasEnded() {
			return ErrEnded
		}

		file, err := dir.read(name)
		if err != nil {
			return fmt.Errorf("token file %s: %w", f.Path, err)
		}
		made, err := e.apply(file.content)
		if err != nil {
			return fmt.Errorf("token file %s: %w: %w", f.Path, ErrCorrupt, err)
		}

		if made.forbid {
			return ErrIssued
		}

		if made.content != nil {
			mustFit := e.add == nil // revoking must work even on a full disk
			if err := dir.replace(name, file, made.content, e.outlivesBoot(made.gone), mustFit); err != nil {
				return fmt.Errorf("replace token file %s: %w", f.Path, err)
			}
		}
		done = made
		return nil
	})
	return done, err
}

// processHasEnded reports whether the process of the added entry has ended. It also returns true if
// a pinned process cannot be polled.
func (e edit) processHasEnded() bool {
	if e.pinned == nil {
		return e.add.Process.Life() == Dead
	}
	over, err := e.pinned.Ended()
	return over || err != nil
}

// outlivesBoot reports whether a change adds or revokes a token that would still be valid after a
// reboot. Such a change must be durable. Any other token is void after a power cut, whether the old
// or the new file survives.
func (e edit) outlivesBoot(gone []Entry) bool {
	return e.add != nil && !here().endsWithBoot(e.add.Process) ||
		slices.ContainsFunc(gone, func(e Entry) bool { return !here().endsWithBoot(e.Process) })
}
