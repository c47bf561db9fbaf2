// Checks the token file, who can replace it, and its lock.

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/owner"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/store"
)

// networkTypes are file systems, as mountinfo names them, on which a lock may fail to
// keep out other machines, or may not work at all.
var networkTypes = []string{
	"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "ncpfs", "ocfs2", "gfs2", "beegfs",
	"fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.davfs", "fuse.beegfs",
}

func (e *examination) tokenFile() {
	if e.TokenFile == "" {
		var err error
		if e.TokenFile, err = store.TokenFilePath(); err != nil {
			e.broken(err.Error(), e.self("F", "doctor")+", where F is the token file that the gate reads")
			e.stop()
			return
		}
	}

	path := e.TokenFile
	// A healthy writer holds the lock for milliseconds.
	e.tokens = store.File{Path: path, LockTimeout: 2 * time.Second}

	// This check comes first, and does not touch the file: if the server of a network file system is gone, a
	// look at the file would make doctor hang.
	mount, err := networkMount(path)
	if err != nil {
		e.broken(fmt.Sprintf("mount of %s: %v", path, err), asRoot("mount", "-t", "proc", "proc", "/proc"))
		e.stop()
		return
	}
	if mount != nil {
		e.broken(fmt.Sprintf("%s is on a network file system (%s at %s), where locks cannot be trusted", path, mount.FSType, mount.Mountpoint),
			e.self("F", "install")+", where F is on a disk of this machine; and make the gate read F")
		e.stop()
		return
	}

	fine := e.directories(filepath.Dir(path))
	info, err := os.Lstat(path)
	if errors.Is(err, unix.ENOTDIR) {
		return // reported already
	}
	if errors.Is(err, fs.ErrNotExist) {
		if fine {
			e.ok(path + " is not there yet: the hooks of the first container make it")
		}
		return
	}
	if err != nil {
		e.broken(err.Error(), owners(path))
		return
	}
	if !info.Mode().IsRegular() {
		e.broken(path+" is not a regular file", printable.Shell("mv", path, path+".away"))
		return
	}

	fine = e.modeAndOwner(path, info) && fine

	entries, err := e.tokens.Entries()
	switch {
	case errors.Is(err, store.ErrCorrupt):
		e.fix(Broken, err.Error(), printable.Shell("mv", path, path+".corrupt")+", or restore it from a copy", func() (string, error) {
			aside, err := e.tokens.SetAside()
			return "set aside as " + aside + ", no token is valid now", err
		})
	case err != nil:
		e.broken(err.Error(), owners(path))
	case fine:
		e.ok(fmt.Sprintf("%s, tokens: %d", path, len(entries)))
	}
}

// modeAndOwner checks the token file's mode and owner, and reports whether they are right.
func (e *examination) modeAndOwner(path string, info fs.FileInfo) (fine bool) {
	fine = true
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		fine = false
		e.broken(fmt.Sprintf("%s has mode %04o: every user of this machine can use its tokens", path, mode),
			asOwner(info, "chmod", "o=", path)+"; and doctor --gate-user USER, if the gate has read it as another user")
	}
	if uid := owner.UID(info); uid != os.Geteuid() && userName(uid) != e.GateUser {
		fine = false
		text := fmt.Sprintf("%s belongs to user %s", path, userName(uid))
		away := aside(path) + "; the tokens in it are not valid then"
		if os.Geteuid() != 0 {
			e.broken(text+", and the hooks, which run as you, cannot replace it", away)
		} else {
			e.warn(text, e.isItTheGates(uid, away))
		}
	}
	return fine
}

// networkMount follows the path, and returns the first network file system that it comes to, or nil if there
// is none.
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

// localVFS refuses to look at a file on a network file system, and remembers that file system.
type localVFS struct {
	mounts  []*mountinfo.Info
	network *mountinfo.Info
}

func (l *localVFS) check(path string) error {
	var on *mountinfo.Info
	for _, m := range l.mounts { // later mounts lie on top
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

// directories checks every directory and link on the path of the token file's directory. The attacker is a
// user who can change one of them, and so replace the token file.
func (e *examination) directories(dir string) (fine bool) {
	way, err := owner.Way(dir)
	if err != nil {
		e.broken(err.Error(), owners(dir))
		return false
	}
	fine = true
	for _, step := range slices.Backward(way) {
		if !step.IsLink() && !step.Info.IsDir() {
			e.broken(step.Path+" is not a directory", aside(step.Path)+", or name another token file: "+e.self("F", "install"))
			return false
		}
		fine = e.directory(step, step.Path == realPath(dir)) && fine
	}
	return fine
}

// directory checks one directory or link on the path of the token file. last is true for the directory that
// holds the file.
func (e *examination) directory(step owner.Step, last bool) (fine bool) {
	fine = true
	what := "directory"
	if step.IsLink() {
		what = "link"
	}

	uid, elsewhere := step.UID(), e.tokenFileElsewhere()
	text := fmt.Sprintf("%s %s belongs to user %s, who can put another token file there", what, step.Path, userName(uid))
	switch {
	case uid == 0, uid == os.Geteuid(), last && userName(uid) == e.GateUser:
	case last && os.Geteuid() == 0:
		fine = false
		e.warn(text, e.isItTheGates(uid, takeOver(step.Path, elsewhere)))
	case last:
		fine = false
		e.broken(text, elsewhere)
	default:
		fine = false
		e.broken(text, takeOver(step.Path, elsewhere))
	}

	if last && os.Geteuid() != 0 && !canReplace(filepath.Join(step.Path, "file")) {
		fine = false
		e.broken("you cannot write to directory "+step.Path, elsewhere)
	}

	if step.IsWorldWritable() {
		fine = false
		e.broken(fmt.Sprintf("every user can write to directory %s and put another token file there", step.Path), asOwner(step.Info, "chmod", "o-w", step.Path))
	}
	return fine
}

// canReplace reports whether we can make or replace the file.
func canReplace(file string) bool {
	directory := filepath.Dir(file)
	for directory != "/" && errors.Is(unix.Access(directory, unix.F_OK), unix.ENOENT) {
		directory = filepath.Dir(directory)
	}
	return unix.Access(directory, unix.W_OK|unix.X_OK) == nil
}

func (e *examination) lock() {
	path := e.TokenFile + ".lock"
	err := e.tokens.CheckLock()
	if err == nil {
		e.ok(path + " is free")
		return
	}
	remedy := owners(path)
	held := (*store.HeldError)(nil)
	if errors.As(err, &held) {
		const care = "if it is stuck; never remove the lock file"
		remedy = "end that process " + care
		if held.Program == "" { // the process that took the lock is gone, and another process holds it
			remedy = fmt.Sprintf("see who has it open: %s; end that process %s", asRoot("fuser", "-v", path), care)
		}
	} else if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		remedy = printable.Shell("mv", path, path+".away") // no writer holds a lock on that
	}
	e.broken(err.Error(), remedy)
}

// isItTheGates returns root's remedy for a file or directory of another user, who may be the gate's user.
func (e *examination) isItTheGates(uid int, ifNot string) string {
	return fmt.Sprintf("if the gate runs as that user: %s; if not: %s", e.again("--gate-user", userName(uid)), ifNot)
}

// realPath returns the directory that a path leads to. A remedy must name this directory, since chown -h does
// not follow links.
func realPath(dir string) string {
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		return resolved
	}
	return dir
}

func userName(uid int) string {
	if account, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return account.Username
	}
	return strconv.Itoa(uid)
}
