// What a gate of ours takes beside the hooks: its program, its user, and folders that are
// its own.

package podman

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/untrusted"
)

const gateBinary = "terok-gate"

// GateUser is whom root's gate runs as, where there is a systemd.
const GateUser = "terok-gate"

// GateLog is the log file of root's gate, if the hooks have one: theirs is root's.
const GateLog = "/var/log/terok-gate/gate.log"

// GateBinary is where the gate's program is, if it is there.
func (r Registration) GateBinary() string { return filepath.Join(filepath.Dir(r.Binary), gateBinary) }

// GateByDefault tells whether a gate of ours goes without saying: its program is there,
// and no other gate is named.
func (r Registration) GateByDefault() bool {
	if r.Binary == "" || r.Settings.GateURL != "" || r.Settings.GateSocket != "" {
		return false
	}
	_, err := os.Stat(r.GateBinary())
	return err == nil
}

// folder is one that is the gate's own.
type folder struct {
	path  string
	owner *account // nil: this user
}

// account is a user of the machine.
type account struct {
	name     string
	uid, gid uint32
}

// gateFolders returns the folders that are to be made for the gate. An error says what
// else has to be done before it could run.
func (r Registration) gateFolders(place Place) (missing []folder, err error) {
	if _, err := os.Stat(r.GateBinary()); err != nil {
		return nil, fmt.Errorf("the gate's program: %w", err)
	}
	if _, err := exec.LookPath("git"); err != nil {
		return nil, fmt.Errorf("the gate runs git: %w: install it", err)
	}
	var owner *account
	if !place.User && place.Systemd {
		if owner, err = gateAccount(); err != nil {
			return nil, err
		}
		if err := owner.checkTokenFile(r.Settings.Tokens.Path); err != nil {
			return nil, err
		}
	}
	for _, path := range []string{r.Repos, filepath.Dir(r.Settings.Tokens.Path)} {
		f := folder{path, owner}
		is, err := f.isThere()
		if err != nil {
			return nil, err
		}
		if !is {
			missing = append(missing, f)
		}
	}
	return missing, nil
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
	if other := othersFile(path, dir); other != "" {
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

// othersFile returns a file beside the token file that no writer of it has made, empty if
// there is none. Whoever gets the folder can replace such a file: /root and /etc are not
// for the gate.
func othersFile(tokenFile, dir string) string {
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		if !strings.HasPrefix(strings.TrimPrefix(f.Name(), "."), filepath.Base(tokenFile)) {
			return f.Name()
		}
	}
	return ""
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

// isThere tells whether the folder is there, and refuses one that is not its owner's, or
// that others could have in their hands.
func (f folder) isThere() (bool, error) {
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, f.checkAbove()
	}
	switch {
	case err != nil:
		return false, err
	case !info.IsDir():
		return false, fmt.Errorf("%s is no folder", f.path)
	case f.owner != nil && info.Sys().(*syscall.Stat_t).Uid != f.owner.uid:
		return false, fmt.Errorf("%s is not the gate's, which runs as user %s: %s", f.path, f.owner.name,
			printable.Shell("chown", "-R", "-h", f.owner.name, f.path))
	}
	return true, nil
}

// checkAbove refuses to make a folder below one of somebody else's, who could have it
// made anywhere.
func (f folder) checkAbove() error {
	if f.owner == nil {
		return nil
	}
	above, owner := f.existing()
	if owner != 0 && owner != f.owner.uid {
		return fmt.Errorf("make %s for user %s: %s is somebody else's", f.path, f.owner.name, above)
	}
	return nil
}

// existing is the nearest folder above that is there and not root's, and its owner: 0 if
// all are root's. What is in it, he can have exchanged.
func (f folder) existing() (above string, owner uint32) {
	for above = filepath.Dir(f.path); above != "/"; above = filepath.Dir(above) {
		if info, err := os.Stat(above); err == nil {
			if owner = info.Sys().(*syscall.Stat_t).Uid; owner != 0 {
				break
			}
		}
	}
	return above, owner
}

// make makes the folder, with mode 0700. Folders above it that are missing are for
// everybody to pass, where it is for another user.
func (f folder) make(ctx context.Context) error {
	if f.owner == nil {
		return os.MkdirAll(f.path, 0o700)
	}
	// Where the owner can put links, root makes and gives away nothing.
	if _, owner := f.existing(); owner == f.owner.uid {
		cmd := exec.CommandContext(ctx, "mkdir", "-p", "-m", "0700", f.path)
		untrusted.As(cmd, f.owner.uid, f.owner.gid)
		var said untrusted.Output
		cmd.Stderr = &said
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("make %s: %w: %s", f.path, err, LastLine(said.Bytes()))
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(f.path, 0o700); err != nil {
		return err
	}
	return os.Lchown(f.path, int(f.owner.uid), int(f.owner.gid))
}
