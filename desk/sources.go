// Parses, checks and stores the addresses that projects come from: projects.json, which the hook
// reads as well.

package desk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/durable"
	"terok-gate-hook/internal/owner"
	"terok-gate-hook/store"
)

// Source is where a project comes from.
type Source struct {
	Source string `json:"source"` // an address that git knows, or a directory

	// What the hook can have git rewrite; empty if the source is no address of a forge, or
	// not of plain characters only. The path has no .git.
	Scheme string `json:"scheme,omitempty"` // https or ssh
	Host   string `json:"host,omitempty"`
	Port   string `json:"port,omitempty"` // other than the scheme's own
	Path   string `json:"path,omitempty"`
}

// SourcesFile returns the path of the file beside the desks that has all projects' sources.
func SourcesFile(directory string) string { return filepath.Join(directory, "projects.json") }

// Sources returns the sources of all projects that have one. If the file is not there, no
// project has. A file that another user than root can change is refused: git goes where it says,
// with the operator's keys.
func Sources(directory string) (map[string]Source, error) {
	path := SourcesFile(directory)
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]Source{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()

	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if uid := owner.UID(info); !info.Mode().IsRegular() || uid != 0 && uid != os.Geteuid() || info.Mode()&0o022 != 0 {
		return nil, fmt.Errorf("%s: is no file that only you can change: user %d's, mode %s", path, uid, info.Mode())
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return nil, err
	}

	all := map[string]Source{}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return all, nil
}

// Remember notes a project's source; "" for none any more. The file is there whole, or as it
// was.
func Remember(directory, project, source string) error {
	return changeSources(directory, func(all map[string]Source) (changed bool) {
		_, changed = all[project]
		delete(all, project)
		if source != "" {
			all[project], changed = addressOf(source), true
		}
		return changed
	})
}

// RenameSource gives a project's source to its new name, which then has no other.
func RenameSource(directory, old, new string) error {
	return changeSources(directory, func(all map[string]Source) (changed bool) {
		source, has := all[old]
		_, changed = all[new]
		delete(all, old)
		delete(all, new)
		if has {
			all[new], changed = source, true
		}
		return changed
	})
}

// BeginSources makes the file of sources, unless it is there.
func BeginSources(directory string) error {
	return changeSources(directory, func(map[string]Source) bool {
		_, err := os.Lstat(SourcesFile(directory))
		return errors.Is(err, fs.ErrNotExist)
	})
}

// changeSources writes the sources that change reports to have changed. No two callers do
// that at once. Nothing is made where nothing changes.
func changeSources(directory string, change func(all map[string]Source) (changed bool)) error {
	if before, err := Sources(directory); err != nil || !change(maps.Clone(before)) {
		return err
	}
	if err := makeDirectory(directory); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(directory, ".projects.lock"), flock.SetPermissions(0o600))
	if err := lock.Lock(); err != nil {
		return err
	}
	defer lock.Close()

	all, err := Sources(directory)
	if err != nil || !change(all) {
		return err
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return durable.Replace(SourcesFile(directory), append(text, '\n'), 0o600, nil)
}

// makeDirectory makes the directory of desks. Other users may pass what root makes above it:
// the gate's user has the token file there.
func makeDirectory(directory string) error {
	if os.Geteuid() == 0 {
		defer syscall.Umask(syscall.Umask(0o022))
		if err := os.MkdirAll(filepath.Dir(directory), 0o755); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return err
	}
	return CheckDirectory(directory)
}

// CheckDirectory returns an error if a user other than root and the caller can replace a
// directory of desks, or what is in it: git runs what a desk's configuration names. What is
// not there yet is not looked at.
func CheckDirectory(directory string) error {
	inside, err := store.InUserNamespace()
	if err != nil {
		return err
	}
	way, err := owner.Way(directory)
	if err != nil {
		return err
	}

	for _, step := range way {
		if owner.IsAnother(step.UID(), inside) || step.IsWorldWritable() {
			return fmt.Errorf("directory of desks %s: another user can change %s: use one that is yours", directory, step.Path)
		}
	}
	return nil
}

// IsDirectory reports whether a source is a directory. As for git, what has a colon before
// any slash is an address, even if there is a directory of that name: another user may have
// made one where the command is run.
func IsDirectory(source string) bool {
	before, _, hasColon := strings.Cut(source, ":")
	if hasColon && !strings.Contains(before, "/") {
		return false
	}
	info, err := os.Stat(source)
	return err == nil && info.IsDir()
}

// CheckSource returns an error for an address that holds a secret: it would be written to a
// file, and printed. It reads the address as git does, which takes much that is no URL.
func CheckSource(source string) error {
	before, rest, isURL := strings.Cut(source, "://")
	if !isURL {
		return nil
	}
	host, _, _ := strings.Cut(rest, "/")
	at := strings.LastIndexByte(host, '@')
	user, _, hasPassword := strings.Cut(host[:max(at, 0)], ":")
	if hasPassword || strings.Contains(strings.ToLower(before), "http") && looksLikeToken(user) {
		return errors.New("the address holds a password or token: leave it out, and let a credential helper of git's know it, see gitcredentials(7)")
	}
	return nil
}

// looksLikeToken reports whether the user of an https address is no name but a token.
func looksLikeToken(user string) bool {
	return len(user) >= 20 || slices.ContainsFunc([]string{"ghp_", "gho_", "ghs_", "github_pat_", "glpat-"}, func(prefix string) bool {
		return strings.HasPrefix(user, prefix)
	})
}

// addressOf takes an address of a forge apart.
func addressOf(source string) Source {
	s := Source{Source: source}
	scheme, rest, isURL := strings.Cut(source, "://")
	var host, path string
	if isURL {
		host, path, _ = strings.Cut(rest, "/")
	} else {
		// As git reads it: a colon before any slash.
		scheme = "ssh"
		host, path, isURL = strings.Cut(source, ":")
	}
	if _, after, has := strings.Cut(host, "@"); has {
		host = after
	}
	host, port, _ := strings.Cut(host, ":")
	path = strings.TrimSuffix(strings.Trim(path, "/"), ".git")

	plainHost := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]*$`)
	plainPort := regexp.MustCompile(`^[0-9]{0,5}$`)
	plainPath := regexp.MustCompile(`^[A-Za-z0-9_~][A-Za-z0-9._~/+-]*$`)
	known := map[string]string{"https": "443", "ssh": "22"}
	own, is := known[scheme]
	if !isURL || !is || !plainHost.MatchString(host) || !plainPort.MatchString(port) || !plainPath.MatchString(path) {
		return s
	}
	if port == own {
		port = ""
	}
	s.Scheme, s.Host, s.Port, s.Path = scheme, strings.ToLower(host), port, path
	return s
}

// DefaultDirectory returns where root's desks are, or those of the user.
func DefaultDirectory() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/terok/desk", nil
	}

	data, err := store.UserData()
	if err != nil {
		return "", err
	}
	return filepath.Join(data, "terok-gate/desk"), nil
}
