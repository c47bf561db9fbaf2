// Parses and checks the addresses of projects' sources, and stores them in projects.json, which the hook
// reads as well.

package desk

import (
	"context"
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
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/durable"
	"terok-gate-hook/internal/owner"
	"terok-gate-hook/store"
)

// Source is where a project comes from.
type Source struct {
	Source string `json:"source"` // an address that git knows, or a directory

	// The parts of a forge's address, with which git in a container finds the project. They are
	// empty for a directory, another scheme, or an address with unusual characters. The path has
	// no .git.
	Scheme string `json:"scheme,omitempty"` // https or ssh
	Host   string `json:"host,omitempty"`
	Port   string `json:"port,omitempty"` // empty if it is the scheme's default
	Path   string `json:"path,omitempty"`
}

// SourcesFile returns the path of the file of sources, which is beside the desks.
func SourcesFile(directory string) string { return filepath.Join(directory, "projects.json") }

// Sources returns the sources of all projects that have one. If the file of sources does not exist, no
// project has a source. Sources returns an error if a user other than root and the caller can change the
// file: git connects to the addresses in the file with the operator's keys.
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
		return nil, fmt.Errorf("%s is not a file that only you can change: owner %d, mode %s", path, uid, info.Mode())
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return nil, err
	}

	all := map[string]Source{}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if all == nil {
		return nil, fmt.Errorf("%s: a JSON null, not an object", path)
	}
	return all, nil
}

// Remember records a project's source; "" removes it. The file is replaced as a whole or not at
// all.
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

// RenameSource records a project's source under the project's new name. A source that was recorded under
// the new name is dropped.
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

// BeginSources makes an empty file of sources, unless there is one.
func BeginSources(directory string) error {
	return changeSources(directory, func(map[string]Source) bool {
		_, err := os.Lstat(SourcesFile(directory))
		return errors.Is(err, fs.ErrNotExist)
	})
}

// Reserve waits until no other program adds a project of this name, and keeps other programs from doing so
// until release is called. For a project without a source, Reserve makes no directory of desks; if there is
// no such directory, it reserves nothing.
func Reserve(ctx context.Context, directory, project, source string) (release func(), err error) {
	if source == "" && !isThere(directory) {
		return func() {}, nil
	}
	if err := makeDirectory(directory); err != nil {
		return nil, err
	}
	return lockFile(ctx, filepath.Join(directory, "."+project+".adding.lock"))
}

// lockFile waits for the lock of a file.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	lock := flock.New(path, flock.SetPermissions(0o600))
	if _, err := lock.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return nil, err
	}
	return func() { _ = lock.Close() }, nil
}

// changeSources calls change under a lock, and writes the sources if change reports that they have changed.
// Before that, it calls change with a copy, without the lock: if nothing would change, it makes no
// directory or file.
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

// makeDirectory makes the directory of desks. If root calls it, all users can enter the missing
// directories that it makes above the directory of desks: the gate's user must pass through them to
// the token file.
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

// CheckDirectory returns an error if a user other than root and the caller can replace a directory of
// desks, or anything in the directory. Such a user could make git run any program, by a desk's
// configuration. Directories that do not exist yet are not checked.
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
			return fmt.Errorf("directory of desks %s: another user can change %s: use a directory that only you can change", directory, step.Path)
		}
	}
	return nil
}

// IsDirectory reports whether a source is a directory. A source with a colon before any slash
// is an address, even if there is a directory of that name: another user may have made that directory
// in the caller's working directory.
func IsDirectory(source string) bool {
	before, _, hasColon := strings.Cut(source, ":")
	if hasColon && !strings.Contains(before, "/") {
		return false
	}
	info, err := os.Stat(source)
	return err == nil && info.IsDir()
}

// CheckSource returns an error for an address that holds a secret, since addresses are written to a file and
// printed. It parses the address as git does, which accepts more than valid URLs.
func CheckSource(source string) error {
	before, rest, isURL := strings.Cut(source, "://")
	if !isURL {
		return nil
	}
	host, _, _ := strings.Cut(rest, "/")
	at := strings.LastIndexByte(host, '@')
	user, _, hasPassword := strings.Cut(host[:max(at, 0)], ":")
	if hasPassword || strings.Contains(strings.ToLower(before), "http") && looksLikeToken(user) {
		return errors.New("the address holds a password or token: leave it out, and store it in a credential helper of git: see gitcredentials(7)")
	}
	return nil
}

// looksLikeToken reports whether the user in an https address looks like a token.
func looksLikeToken(user string) bool {
	return len(user) >= 20 || slices.ContainsFunc([]string{"ghp_", "gho_", "ghs_", "github_pat_", "glpat-"}, func(prefix string) bool {
		return strings.HasPrefix(user, prefix)
	})
}

// addressOf splits a forge's address into its parts.
func addressOf(source string) Source {
	s := Source{Source: source}
	scheme, rest, isURL := strings.Cut(source, "://")
	var host, path string
	if isURL {
		host, path, _ = strings.Cut(rest, "/")
	} else {
		// Git's short form of an ssh address: a colon before any slash.
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

// DefaultDirectory returns the default directory of desks for the user who runs this program.
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
