// Whether the token file can do its work, and for whom.

package doctor

import (
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
	"syscall"
	"time"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/moby/sys/mountinfo"

	"terok-gate-hook/store"
)

// chooseTokenFile takes the file that doctor was told, or that the hooks were.
func (e *examination) chooseTokenFile() (err error) {
	if e.TokenFile == "" {
		e.TokenFile = e.flag("--token-file")
	}
	if e.TokenFile == "" {
		e.TokenFile, err = store.TokenFilePath()
	}
	// A healthy lock is held for milliseconds.
	e.tokens = store.File{Path: e.TokenFile, LockTimeout: 2 * time.Second}
	return err
}

// networkTypes are file systems, as mountinfo names them, on which another machine
// may hold no lock of ours, or none may hold at all.
var networkTypes = []string{
	"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "ncpfs", "ocfs2", "gfs2", "beegfs",
	"fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.davfs", "fuse.beegfs",
}

func (e *examination) tokenFile() {
	const check, seePermissions = "token-file", "move it away if it is not yours to keep, or see its owner and mode, and its folder's"
	path := e.TokenFile
	// First of all, and without touching it: a server that is gone would hang us.
	mount, err := networkMount(path)
	if err != nil {
		e.broken(check, fmt.Sprintf("mount of %s: %v", path, err), "mount /proc")
		return
	}
	if mount != nil {
		e.broken(check, fmt.Sprintf("%s is on a network file system (%s at %s), where locks cannot be trusted", path, mount.FSType, mount.Mountpoint),
			"keep it on a disk of this machine: terok-gate-hook --token-file F install")
		return
	}
	fine := e.folders(filepath.Dir(path))
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if fine {
			e.ok(check, path+" is not there yet: the first container's token makes it")
		}
		return
	}
	if err != nil {
		e.broken(check, err.Error(), seePermissions)
		return
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		fine = false
		e.broken(check, fmt.Sprintf("%s has mode %04o: every user of this machine can use its tokens", path, mode),
			"chmod 0600 "+path+", or 0640 with the gate's group")
	}
	if owner := int(info.Sys().(*syscall.Stat_t).Uid); owner != os.Geteuid() && userName(owner) != e.GateUser {
		fine = false
		text := fmt.Sprintf("%s belongs to user %s", path, userName(owner))
		if os.Geteuid() != 0 {
			e.broken(check, text+", and the hooks, as you, cannot replace it", "chown it to you")
		} else {
			e.warn(check, text, isItTheGates(owner))
		}
	}
	entries, err := e.tokens.Entries()
	switch {
	case errors.Is(err, store.ErrCorrupt):
		e.mend(check, Broken, err.Error(), "restore it from a copy, or move it away", func() (string, error) {
			aside, err := e.tokens.SetAside()
			return "set aside as " + aside + ", no token is valid now", err
		})
	case err != nil:
		e.broken(check, err.Error(), seePermissions)
	case fine:
		e.ok(check, fmt.Sprintf("%s, tokens: %d", path, len(entries)))
	}
}

// networkMount returns the network file system that the path, symbolic links resolved,
// is on, or leads over; nil for none.
func networkMount(path string) (*mountinfo.Info, error) {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, err
	}
	local := localVFS{mounts: mounts}
	_, err = securejoin.SecureJoinVFS("/", path, &local)
	if local.network != nil || errors.Is(err, fs.ErrPermission) {
		return local.network, nil
	}
	return nil, err
}

// localVFS looks at no file of a network file system, but remembers that there was one.
type localVFS struct {
	mounts  []*mountinfo.Info
	network *mountinfo.Info
}

func (l *localVFS) check(path string) error {
	var on *mountinfo.Info
	for _, m := range l.mounts { // later ones lie on top
		if inside, err := filepath.Rel(m.Mountpoint, path); err == nil && filepath.IsLocal(inside) && (on == nil || len(m.Mountpoint) >= len(on.Mountpoint)) {
			on = m
		}
	}
	if on != nil && slices.Contains(networkTypes, on.FSType) {
		l.network = on
		return errors.New("is on a network file system")
	}
	return nil
}

func (l *localVFS) Lstat(path string) (os.FileInfo, error) {
	if err := l.check(path); err != nil {
		return nil, err
	}
	return os.Lstat(path)
}

func (l *localVFS) Readlink(path string) (string, error) {
	if err := l.check(path); err != nil {
		return "", err
	}
	return os.Readlink(path)
}

// folders checks the folders above the token file: who can change one of them can
// put another token file in its place.
func (e *examination) folders(dir string) (fine bool) {
	fine = true
	for last := true; ; last = false {
		info, err := os.Stat(dir)
		if err == nil && !info.IsDir() {
			e.broken("token-file", dir+" is not a folder", "move it away, or name another token file with --token-file")
			return false
		}
		if err == nil {
			owner := int(info.Sys().(*syscall.Stat_t).Uid)
			text := fmt.Sprintf("folder %s belongs to user %s, who can put another token file there", dir, userName(owner))
			switch {
			case owner == 0, owner == os.Geteuid(), last && userName(owner) == e.GateUser:
			case last && os.Geteuid() == 0:
				fine = false
				e.warn("token-file", text, isItTheGates(owner))
			default:
				fine = false
				e.broken("token-file", text, "chown it")
			}
			if isEverybodys(info) {
				fine = false
				e.broken("token-file", fmt.Sprintf("everybody can write to folder %s, and put another token file there", dir), "chmod o-w "+dir)
			}
		}
		if dir == filepath.Dir(dir) {
			return fine
		}
		dir = filepath.Dir(dir)
	}
}

func (e *examination) lock() {
	if err := e.tokens.CheckLock(); err != nil {
		e.broken("lock", err.Error(), "end that process if it is stuck; never remove the lock file")
		return
	}
	e.ok("lock", e.TokenFile+".lock is free")
}

func (e *examination) orphans() {
	entries, err := e.tokens.Entries()
	if err != nil {
		return // said already
	}
	orphans := slices.DeleteFunc(entries, func(entry store.Entry) bool { return !entry.Orphan() })
	if len(orphans) == 0 {
		e.ok("orphans", "none")
		return
	}
	e.mend("orphans", Warning, fmt.Sprintf("tokens whose container is dead: %d", len(orphans)), "terok-gate-hook reap", func() (string, error) {
		revoked, err := e.tokens.Sweep()
		return fmt.Sprintf("revoked %d", len(revoked)), err
	})
}

// leftovers looks for what programs of ours that were killed have left.
func (e *examination) leftovers() {
	const check = "leftovers"
	fine := true
	path, err := e.tokens.Leftover(false)
	switch {
	case err != nil && path != "":
		return // the lock is held, said already
	case path != "":
		fine = false
		e.mend(check, Warning, path+" was left by a writer that was killed, with tokens in it", "the next hook removes it", func() (string, error) {
			_, err := e.tokens.Leftover(true)
			return "removed", err
		})
	}
	// One that runs belongs to another doctor, and ends by itself.
	names, err := e.command("podman", "ps", "--all", "--filter", "name=^"+probeName,
		"--filter", "status=created", "--filter", "status=exited", "--format", "{{.Names}}")
	if err == nil && strings.TrimSpace(names) != "" {
		fine = false
		probes := strings.Fields(names)
		e.mend(check, Warning, "probe containers of a doctor that was killed: "+strings.Join(probes, " "), "podman rm -f them", func() (string, error) {
			_, err := e.command("podman", append([]string{"rm", "--force", "--time", "0"}, probes...)...)
			return "removed", err
		})
	}
	if fine {
		e.ok(check, "none")
	}
}

// gateUser tries whether the gate server, as its user, can read the token file.
func (e *examination) gateUser() {
	const check = "gate-user"
	account, err := user.Lookup(e.GateUser)
	var groups []string
	if err == nil {
		groups, err = account.GroupIds()
	}
	if err != nil {
		e.broken(check, err.Error(), "name the user that the gate server runs as")
		return
	}
	id := ids(append([]string{account.Uid, account.Gid}, groups...))
	isUs := int(id[0]) == os.Geteuid()
	if !isUs && os.Geteuid() != 0 {
		e.warn(check, "only root can try what user "+e.GateUser+" can read", "run doctor as root, with --token-file "+e.TokenFile)
		return
	}
	if _, err := os.Lstat(e.TokenFile); errors.Is(err, fs.ErrNotExist) {
		if isUs {
			e.ok(check, "the token file will belong to user "+e.GateUser)
			return
		}
		folder := filepath.Dir(e.TokenFile)
		e.noProbe = "it would make the token file, and the folder is to be made first"
		e.warn(check, e.TokenFile+" is not there yet, and will belong to whoever its folder belongs to",
			fmt.Sprintf("install -d -m 0700 -o %s %s", e.GateUser, folder))
		return
	}
	cmd := exec.CommandContext(e.ctx, "test", "-r", e.TokenFile)
	if !isUs {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id[0], Gid: id[1], Groups: id[2:]}}
	}
	if err := cmd.Run(); err != nil {
		e.broken(check, fmt.Sprintf("user %s cannot read %s", e.GateUser, e.TokenFile),
			fmt.Sprintf("chown %s the file and its folder, which must be reachable; later tokens keep the owner", e.GateUser))
		return
	}
	e.ok(check, fmt.Sprintf("user %s can read %s", e.GateUser, e.TokenFile))
}

func ids(texts []string) []uint32 {
	var all []uint32
	for _, text := range texts {
		id, _ := strconv.ParseUint(text, 10, 32) // user.User promises decimal numbers
		all = append(all, uint32(id))
	}
	return all
}

func isItTheGates(owner int) string {
	return "doctor --gate-user " + userName(owner) + " if the gate runs as that user, else chown it"
}

func userName(uid int) string {
	if account, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return account.Username
	}
	return strconv.Itoa(uid)
}
