// Looks up the user that root's gate runs as, and checks that this user can use a token file.

package engines

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"terok-gate-hook/internal/owner"
	"terok-gate-hook/internal/printable"
)

// account is a user of the machine.
type account struct {
	name     string
	uid, gid uint32
}

func gateAccount() (*account, error) {
	u, err := user.Lookup(GateUser)
	if err != nil {
		const packages = "/usr/lib/sysusers.d/terok-gate.conf"
		remedy := printable.Shell("useradd", "--system", "--user-group", "--home-dir", "/var/lib/terok-gate", "--shell", "/usr/sbin/nologin", GateUser)
		if _, err := os.Stat(packages); err == nil {
			remedy = printable.Shell("systemd-sysusers", packages)
		}
		return nil, fmt.Errorf("the gate runs as user %s, which does not exist: %s", GateUser, remedy)
	}
	uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
	return &account{u.Username, uint32(uid), uint32(gid)}, errors.Join(uidErr, gidErr)
}

// checkTokenFile returns an error if the gate's user could not read the token file or revoke tokens
// in it. The error suggests no change to files of other users.
func (a *account) checkTokenFile(path string) error {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // install will make it for the gate's user
	}
	if err != nil {
		return err
	}

	closed := owner.ClosedTo(dir, a.uid, a.gid)
	var roots, others []string // paths of which a.has is false; those in roots may be given to the gate's user
	for _, path := range []string{dir, path, path + ".lock"} {
		info, err := os.Lstat(path)
		switch {
		case err != nil || a.has(info):
		case owner.UID(info) == 0 || owner.UID(info) == int(a.uid):
			roots = append(roots, path)
		default:
			others = append(others, path)
		}
	}
	if len(closed)+len(roots)+len(others) == 0 {
		return nil
	}

	text := fmt.Sprintf("the gate, as user %s, cannot work with the token file %s", a.name, path)
	const elsewhere = "name one in a directory of its own with --token-file"
	if len(others) > 0 {
		return fmt.Errorf("%s: %s belongs to another user: %s", text, others[0], elsewhere)
	}
	if other := OthersFile(path, a.uid); other != "" {
		return fmt.Errorf("%s, and its directory must keep its owner, since %s is in it too: %s", text, other, elsewhere)
	}

	var remedies []string
	if len(closed) > 0 {
		open := LetIn(a.name, closed)
		if open == "" {
			return fmt.Errorf("%s, since %s is closed to it: %s", text, closed[0], elsewhere)
		}
		remedies = append(remedies, open)
	}
	if len(roots) > 0 {
		remedies = append(remedies, printable.Shell(append([]string{"chown", "-h", a.name + ":"}, roots...)...))
	}
	return fmt.Errorf("%s: %s", text, strings.Join(remedies, " && "))
}

// LetIn returns the command by which root lets a group enter directories that are closed to the
// group. It returns "" if the command would expose more than the way through the directories: each
// must belong to root, be closed to all others, and have a single entry.
func LetIn(group string, closed []string) string {
	for _, dir := range closed {
		info, err := os.Lstat(dir)
		if err != nil {
			return ""
		}
		stat := info.Sys().(*syscall.Stat_t)
		files, err := os.ReadDir(dir)
		if err != nil || len(files) != 1 || stat.Uid != 0 || stat.Gid != 0 || stat.Mode&0o077 != 0 {
			return ""
		}
	}
	return printable.Shell(append([]string{"chgrp", "-h", group}, closed...)...) + " && " +
		printable.Shell(append([]string{"chmod", "g+x"}, closed...)...)
}

// has reports whether a file belongs to the user, and the user can replace it without changing
// others' rights: a group that has rights to the file must be the user's group.
func (a *account) has(info fs.FileInfo) bool {
	stat := info.Sys().(*syscall.Stat_t)
	return stat.Uid == a.uid && (stat.Gid == a.gid || info.IsDir() || info.Mode()&0o070 == 0)
}

// OthersFile returns the name of a file beside the token file that does not belong to the user, or
// "" if there is none. The directory of such a file must not be given to the user, who could then
// replace the file: so /root, for example, is never given to the gate's user. Files that a writer of
// the token file makes do not count.
func OthersFile(tokenFile string, user uint32) string {
	files, _ := os.ReadDir(filepath.Dir(tokenFile)) // a missing directory has none
	for _, f := range files {
		if strings.HasPrefix(strings.TrimPrefix(f.Name(), "."), filepath.Base(tokenFile)) {
			continue
		}
		info, err := f.Info()
		if err == nil && owner.UID(info) != int(user) {
			return f.Name()
		}
	}
	return ""
}
