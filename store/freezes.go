// Reads and writes the file of frozen containers and projects, and checks whether a token's
// container or project is frozen. A frozen container or project is served nothing until it is
// thawed.

package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Freezes are the containers and projects that are served nothing for now. A freeze changes no
// entry of the token file: a thaw restores exactly what was before, and a frozen container that is
// restarted is still frozen.
//
// The operator sets them. They are in the file [FreezesName] beside the token file:
//
//	{"all": true, "containers": {"<id>": "<name>"}, "projects": ["demo"]}
//
// Without that file, nothing is frozen. If any part of the file is not understood, or if another
// user could have written it, everything is frozen.
type Freezes struct {
	All        bool              `json:"all,omitempty"`
	Containers map[string]string `json:"containers,omitempty"` // from id to name; the name is empty if not known
	Projects   []string          `json:"projects,omitempty"`   // in order

	unknown bool // the file could not be read
}

// FreezesName is the name of the file beside the token file.
const FreezesName = "frozen.json"

// Reasons to serve nothing.
var (
	ErrFrozen       = errors.New("frozen by the operator, until it is thawed")
	ErrFreezesWrong = errors.New("everything is frozen: the file that says what is frozen cannot be read")
)

// Check returns [ErrFrozen] or [ErrFreezesWrong] if askedProject must not be served to a token, and
// nil otherwise. container and ownProject are the token's; container is empty if the token belongs
// to no container.
func (f *Freezes) Check(container, ownProject, askedProject string) error {
	switch {
	case f == nil:
		return nil
	case f.unknown:
		return ErrFreezesWrong
	case f.All, f.hasProject(ownProject), f.hasProject(askedProject):
		return ErrFrozen
	}
	if _, frozen := f.Containers[container]; frozen {
		return ErrFrozen
	}
	return nil
}

func (f *Freezes) hasProject(project string) bool {
	_, frozen := slices.BinarySearch(f.Projects, project)
	return frozen
}

// SetProject freezes or thaws a project, and reports whether that changes anything.
func (f *Freezes) SetProject(project string, frozen bool) (changed bool) {
	at, was := slices.BinarySearch(f.Projects, project)
	switch {
	case frozen && !was:
		f.Projects = slices.Insert(f.Projects, at, project)
	case was && !frozen:
		f.Projects = slices.Delete(f.Projects, at, at+1)
	}
	return was != frozen
}

// SetContainer freezes or thaws a container, and reports whether that changes anything.
func (f *Freezes) SetContainer(id, name string, frozen bool) (changed bool) {
	_, was := f.Containers[id]
	if frozen {
		f.Containers[id] = name
	} else {
		delete(f.Containers, id)
	}
	return was != frozen
}

// Freezes returns what is frozen. If it returns an error, everything is frozen.
func (f File) Freezes() (*Freezes, error) {
	freezes, _, err := readFreezes(f.freezesPath())
	return freezes, err
}

// EditFreezes changes what is frozen, in one transaction under the token file's lock. It writes
// nothing if edit returns false.
func (f File) EditFreezes(edit func(*Freezes) (changed bool)) error {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o700); err != nil {
		return fmt.Errorf("create the token file's directory: %w", err)
	}

	return f.underLock(func(dir directory, _ string) error {
		freezes, old, err := dir.readFreezes()
		if err != nil {
			return fmt.Errorf("%s: %w", f.freezesPath(), err)
		}
		if !edit(freezes) {
			return nil
		}

		text, err := json.MarshalIndent(freezes, "", "  ")
		if err != nil {
			return err
		}
		if err := dir.replace(FreezesName, old, [][]byte{append(text, '\n')}, true, true); err != nil {
			return fmt.Errorf("replace %s: %w", f.freezesPath(), err)
		}
		return nil
	})
}

func (f File) freezesPath() string { return freezesBeside(f.Path) }

func freezesBeside(tokenFile string) string {
	dir, _ := split(tokenFile)
	return filepath.Join(dir, FreezesName)
}

// readFreezes reads the file at this path. If it returns an error, the freezes that it returns
// freeze everything.
func readFreezes(path string) (*Freezes, *unix.Stat_t, error) {
	parent, _ := split(path)
	dir, err := openDirectory(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return &Freezes{}, nil, nil
	}
	if err == nil {
		defer dir.close()
		freezes, file, readErr := dir.readFreezes()
		if readErr == nil {
			return freezes, file.stat, nil
		}
		return &Freezes{unknown: true}, file.stat, fmt.Errorf("%w: %s: %w", ErrFreezesWrong, path, readErr)
	}
	return &Freezes{unknown: true}, nil, fmt.Errorf("%w: %s: %w", ErrFreezesWrong, path, err)
}

// readFreezes reads the file in this directory.
func (f directory) readFreezes() (*Freezes, tokenFile, error) {
	file, err := f.read(FreezesName)
	if err == nil && file.stat != nil {
		err = f.checkOperators(file.stat)
	}
	if err != nil {
		return nil, file, err
	}
	freezes, err := parseFreezes(file.content)
	return freezes, file, err
}

// checkOperators returns an error if the file could have been written by a user other than root,
// our own user and the directory's owner.
func (f directory) checkOperators(file *unix.Stat_t) error {
	above, err := f.stat(".")
	switch {
	case err != nil:
		return err
	case file.Uid != 0 && int(file.Uid) != os.Geteuid() && file.Uid != above.Uid:
		return fmt.Errorf("it belongs to user %d", file.Uid)
	case file.Mode&0o022 != 0:
		return fmt.Errorf("mode %04o: others can write it", file.Mode&0o7777)
	}
	return nil
}

// parseFreezes parses the file's content. It returns an error if any key is not known, since that
// key might freeze something.
func parseFreezes(content []byte) (*Freezes, error) {
	in := json.NewDecoder(bytes.NewReader(content))
	in.DisallowUnknownFields()

	var freezes *Freezes
	if err := in.Decode(&freezes); err != nil {
		return nil, err
	}
	if _, err := in.Token(); err != io.EOF {
		return nil, errors.New("more than a JSON object")
	}
	if freezes == nil {
		return nil, errors.New("a JSON null, not an object")
	}

	slices.Sort(freezes.Projects)
	freezes.Projects = slices.Compact(freezes.Projects)
	if freezes.Containers == nil {
		freezes.Containers = map[string]string{}
	}
	return freezes, nil
}

// Frozen returns the ids of the frozen containers, in order.
func (f *Freezes) Frozen() []string { return slices.Sorted(maps.Keys(f.Containers)) }

// freezesFile keeps the freezes as they were last read, and reads their file again when it has
// changed.
type freezesFile struct {
	path  string
	known *Freezes // nil before the first read
	seen  FileVersion
	err   error
}

// look reads the file, unless it is unchanged since it was last read without an error. It reports
// whether it has read the file.
func (f *freezesFile) look() (again bool) {
	if f.known != nil && f.err == nil && f.seen.IsAt(f.path, unix.AT_SYMLINK_NOFOLLOW) {
		return false
	}

	readAt := time.Now()
	freezes, stat, err := readFreezes(f.path)
	f.known, f.seen, f.err = freezes, FileVersionOf(stat, readAt), err
	return true
}
