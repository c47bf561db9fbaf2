// Whom root's gate runs as, and whether that user can work with a token file.

package podman

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
		return nil, fmt.Errorf("the gate runs as user %s, and there is none: %s", GateUser, remedy)
	}
	uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
	return &account{u.Username, uint32(uid), uint32(gid)}, errors.Join(uidErr, gidErr)
}

// checkTokenFile refuses a token file that the gate's user could not read or sweep. What
// is somebody else's is not given away unasked.
func (a *account) checkTokenFile(path string) error {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it will be the gate's
	}
	if err != nil {
		return err
	}
	var closed, theirs []string
	for above := filepath.Dir(dir); above != "/"; above = filepath.Dir(above) {
		if !a.may(0o1, above) {
			closed = append(closed, above)
		}
	}
	for _, path := range []string{dir, path, path + ".lock"} {
		if info, err := os.Lstat(path); err == nil && !a.has(info) {
			theirs = append(theirs, path)
		}
	}
	if len(closed)+len(theirs) == 0 {
		return nil
	}
	text := fmt.Sprintf("the gate, as user %s, cannot work with the token file %s", a.name, path)
	const elsewhere = "have one in a folder of its own, by --token-file"
	if other := OthersFile(path, a.uid); other != "" {
		return fmt.Errorf("%s, and its folder must keep its owner, since %s is in it too: %s", text, other, elsewhere)
	}
	var remedies []string
	if len(closed) > 0 {
		if !strings.HasPrefix(dir, "/var/lib/") { // somebody's home
			return fmt.Errorf("%s, since %s is closed to it: %s", text, closed[0], elsewhere)
		}
		remedies = append(remedies, printable.Shell(append([]string{"chmod", "o+x"}, closed...)...))
	}
	if len(theirs) > 0 {
		remedies = append(remedies, printable.Shell(append([]string{"chown", "-h", a.name + ":"}, theirs...)...))
	}
	return fmt.Errorf("%s: %s", text, strings.Join(remedies, " && "))
}

// has tells whether a file is the user's, who can make another in its place that is like
// it: its group must be the user's, if it has any rights.
func (a *account) has(info fs.FileInfo) bool {
	stat := info.Sys().(*syscall.Stat_t)
	return stat.Uid == a.uid && (stat.Gid == a.gid || info.IsDir() || info.Mode()&0o070 == 0)
}

// may tells whether the user has the permission, one of the bits of others, by mode.
func (a *account) may(bit fs.FileMode, path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	switch stat := info.Sys().(*syscall.Stat_t); {
	case stat.Uid == a.uid:
		bit <<= 6
	case stat.Gid == a.gid:
		bit <<= 3
	}
	return info.Mode()&bit != 0
}

// OthersFile returns a file beside the token file that does not belong to the user, empty
// if there is none. Files that a writer of the token file makes do not count. Whoever gets
// the folder can replace such a file: /root and /etc are not for the gate.
func OthersFile(tokenFile string, user uint32) string {
	files, _ := os.ReadDir(filepath.Dir(tokenFile)) // a folder that is not there has none
	for _, f := range files {
		if strings.HasPrefix(strings.TrimPrefix(f.Name(), "."), filepath.Base(tokenFile)) {
			continue
		}
		info, err := f.Info()
		if err == nil && info.Sys().(*syscall.Stat_t).Uid != user {
			return f.Name()
		}
	}
	return ""
}
