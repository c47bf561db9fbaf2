// Checks that the gate's repositories exist, are complete, and belong to the gate's user.

package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/owner"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/untrusted"
	"terok-gate-hook/store"
)

// mostRepositories limits how many repositories are looked at, since git runs for each.
const mostRepositories = 200

func (e *examination) repositories() {
	// If the repositories are on another machine, they cannot be looked at from here.
	if e.settings.GateSocket == "" || e.repositoryGate() != "" {
		return
	}
	repos, uid := e.reposDirectory(), e.gateUID()
	if !e.reposAreTheGates(repos, uid) {
		return
	}

	projects, err := control.Projects(repos)
	if err != nil {
		e.broken(err.Error(), owners(repos))
		return
	}
	e.projects = append(e.projects, projects...)

	fine := true
	for _, project := range projects[:min(len(projects), mostRepositories)] {
		if !e.repository(filepath.Join(repos, project+".git"), project, uid) {
			fine = false
		}
	}

	var missing []string
	for _, entry := range e.living() {
		if store.CheckName(entry.Project) == nil && !slices.Contains(e.projects, entry.Project) && !slices.Contains(missing, entry.Project) {
			fine, missing = false, append(missing, entry.Project)
			e.broken(fmt.Sprintf("living container %s: there is no repository %s", named(entry), filepath.Join(repos, entry.Project+".git")), e.add(repos, entry.Project))
		}
	}

	switch n := len(e.projects); {
	case !fine:
	case n == 0:
		e.warn("there is no repository in "+repos, e.add(repos, "PROJECT")+", and append the directory or URL of an existing repository, if there is one")
	case n > mostRepositories:
		e.ok(fmt.Sprintf("%s, repositories: %d, of which %d were looked at", repos, n, mostRepositories))
	default:
		e.ok(fmt.Sprintf("%s, repositories: %d", repos, n))
	}
}

// reposDirectory returns the directory of repositories that the gate serves or, if no gate answers, would
// serve.
func (e *examination) reposDirectory() string {
	if e.theGate != nil {
		return e.theGate.Repos
	}
	return e.reposToBe()
}

// reposToBe returns the directory of repositories in the settings of the gate's service, or else the default.
func (e *examination) reposToBe() string {
	if _, after, ok := strings.Cut(e.gateUnit(), " --repos "); ok {
		repos, _, _ := strings.Cut(after, " ")
		return repos
	}
	return e.Place.Repos
}

// reposAreTheGates reports whether the directory of repositories exists, belongs to the gate's user, and
// cannot be changed or replaced by others.
func (e *examination) reposAreTheGates(repos string, uid int) bool {
	make := printable.Shell("install", "-d", "-m", "0700", "-o", userName(uid), repos)

	// Another user's gate may be hostile: it may name /etc, or a link to /etc, so that the remedy
	// changes /etc.
	fixes := func(remedy string) string {
		if to := e.reposToBe(); uid != 0 && uid != os.Geteuid() && (repos != to || realPath(to) != to) {
			return owners(repos)
		}
		return remedy
	}

	info, err := os.Stat(repos)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.broken("the directory of repositories "+repos+" does not exist", fixes(make))
		return false
	case err != nil:
		e.broken(err.Error(), owners(repos))
		return false
	case !info.IsDir():
		e.broken(repos+" is not a directory", fixes(aside(repos)+" && "+make))
		return false
	}

	give := aside(repos) + " && " + make + ", and add its projects again"
	if isRoots(info) {
		give = giveRoots(uid, realPath(repos))
	}
	if !e.isTheGates("directory", repos, info, uid, fixes(give)) || e.isClosed(repos, uid, fixes) {
		return false
	}

	if who, where, remedy := writers(repos, owners(repos), uid); who != "" {
		e.broken(fmt.Sprintf("%s can put other repositories in the place of %s, by way of %s", who, repos, where), fixes(remedy))
		return false
	}
	return true
}

// isRoots reports whether we are root and the file is root's. If so, a remedy may give the file to the gate.
func isRoots(info fs.FileInfo) bool { return os.Geteuid() == 0 && owner.UID(info) == 0 }

// giveRoots returns the command that gives a directory, and all of root's files in it, to a user. Files of
// other users keep their owner.
func giveRoots(uid int, path string) string {
	return printable.Shell("chown", "-R", "-h", "--from=root", userName(uid), path)
}

// isClosed reports whether the gate's user cannot enter a directory above the repositories. If so, it makes a
// finding.
func (e *examination) isClosed(repos string, uid int, fixes func(string) string) bool {
	account, err := user.LookupId(strconv.Itoa(uid))
	if uid == 0 || err != nil {
		return false
	}
	closed := owner.ClosedTo(repos, uint32(uid), ids([]string{account.Gid})[0])
	if len(closed) == 0 {
		return false
	}
	remedy := owners(repos)
	if group, err := user.LookupGroupId(account.Gid); err == nil && group.Name == account.Username { // the group is that user's alone
		remedy = cmp.Or(engines.LetIn(group.Name, closed), remedy)
	}
	e.broken(fmt.Sprintf("directory %s is closed to the gate, which runs as user %s and needs %s", closed[0], account.Username, repos), fixes(remedy))
	return true
}

// isTheGates reports whether a directory belongs to the gate's user and others cannot write to
// it. remedy is reported for a directory that belongs to another user.
func (e *examination) isTheGates(what, path string, info fs.FileInfo, uid int, remedy string) bool {
	if has := owner.UID(info); has != uid {
		e.broken(fmt.Sprintf("%s %s belongs to user %s, and the gate runs as user %s", what, path, userName(has), userName(uid)), remedy)
		return false
	}
	if info.Mode()&0o002 != 0 { // sticky or not: others must not add to it
		e.broken(fmt.Sprintf("every user can write to %s %s", what, path), asOwner(info, "chmod", "o-w", path))
		return false
	}
	return true
}

// repository reports whether a quick check finds a project's repository in order.
func (e *examination) repository(path, project string, uid int) bool {
	anew := aside(path) + " && "
	info, err := os.Stat(path)
	give := anew + e.add(filepath.Dir(path), project) + ", and append a directory or a URL to copy it from"
	linked := realPath(path) != filepath.Join(realPath(filepath.Dir(path)), filepath.Base(path))
	if err == nil && isRoots(info) && !linked { // the gate may have put a link to anything there
		give = giveRoots(uid, path)
	}

	switch {
	case err != nil:
		e.broken(err.Error(), anew+e.add(filepath.Dir(path), project))
		return false
	case !info.IsDir():
		e.broken(path+" is not a repository", anew+e.add(filepath.Dir(path), project))
		return false
	case !e.isTheGates("repository", path, info, uid, give):
		return false
	}

	if closed := closedPart(path); closed != "" && uid != 0 {
		e.broken(fmt.Sprintf("repository %s: its owner, the gate, may not use %s", path, closed), asUser(uid, "chmod", "-R", "u+rwX", path))
		return false
	}

	bare, err := e.isBare(path, uid)
	switch {
	case err != nil:
		e.broken(fmt.Sprintf("repository %s is broken: %v", path, err),
			anew+e.add(filepath.Dir(path), project)+", and append a directory or a URL, if there is a copy somewhere")
		return false
	case !bare:
		e.broken(fmt.Sprintf("repository %s is not a bare one: git refuses pushes to the branch that is checked out", path),
			anew+e.add(filepath.Dir(path), project, path+".away"))
		return false
	}
	return true
}

// closedPart returns a file or directory in a repository that the owner lacks permissions for, or "" if there
// is none. Without these permissions, git sees no repository.
func closedPart(path string) string {
	for _, part := range []string{"", "HEAD", "config", "objects", "refs"} {
		part = filepath.Join(path, part)
		info, err := os.Stat(part)
		if errors.Is(err, fs.ErrPermission) { // we are the owner
			return part
		}
		needs := fs.FileMode(0o400)
		if err == nil && info.IsDir() {
			needs = 0o700
		}
		if err == nil && info.Mode()&needs != needs {
			return part
		}
	}
	return ""
}

// isBare asks git whether a repository is bare. Git runs as the gate's user, since the repository's
// configuration may make git do anything.
func (e *examination) isBare(path string, uid int) (bool, error) {
	ctx, cancel := context.WithTimeout(e.ctx, othersPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", "-C", path, "rev-parse", "--is-bare-repository")
	if uid == os.Geteuid() {
		cmd.Dir = "/"
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	} else {
		const nobodys = 65534 // not the directory's group, since its owner may not be a member of that group
		untrusted.As(cmd, uint32(uid), nobodys)
	}
	cmd.Env = append(cmd.Env, "HOME=/", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_CEILING_DIRECTORIES="+filepath.Dir(realPath(path)))
	var out, said untrusted.Output
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	if text := said.Bytes(); len(text) > 0 {
		err = fmt.Errorf("git: %.300s", strings.TrimPrefix(engines.LastLine(text), "fatal: "))
	}
	return strings.TrimSpace(out.String()) == "true", err
}

// add returns the command that makes a project's repository where the gate looks for it.
func (e *examination) add(repos string, args ...string) string {
	command := []string{"add"}
	if e.repositoryGate() != "" {
		return "on the machine with the repositories: " + printable.Shell(append([]string{"terok-gate", "add"}, args...)...)
	}
	if repos != e.Place.Repos {
		command = append(command, "--repos", repos)
	}
	return e.gateCommand(append(command, args...)...)
}
