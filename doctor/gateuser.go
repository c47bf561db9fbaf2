// Checks that the gate's user can read the token file.

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
	"strconv"
	"time"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/owner"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/untrusted"
)

// othersPatience limits how long a program may take when it runs as another user: that user can suspend it.
const othersPatience = 10 * time.Second

// gateUser checks, as the gate's user, that the gate can read the token file.
func (e *examination) gateUser() {
	if e.GateUser == "" {
		return
	}

	account, err := user.Lookup(e.GateUser)
	var groups []string
	if err == nil {
		groups, err = account.GroupIds()
	}
	if err != nil {
		e.broken(err.Error(), e.ourselves("doctor", "--gate-user")+" USER, where USER is the user that the gate runs as")
		return
	}

	id := ids(append([]string{account.Uid, account.Gid}, groups...))
	isUs := int(id[0]) == os.Geteuid()
	if !isUs && os.Geteuid() != 0 {
		e.warn("only root can try what user "+e.GateUser+" can read", "as root: "+e.self(e.TokenFile, "doctor", "--gate-user", e.GateUser))
		return
	}

	file, err := os.Lstat(e.TokenFile)
	if err == nil && !file.Mode().IsRegular() {
		return // reported already; the remedies below must not give away the target of a link
	}

	directory := filepath.Dir(e.TokenFile)
	anotherFile := e.self("F", "install") + ", where F is in a directory of its own"
	if errors.Is(err, fs.ErrNotExist) {
		e.tokenFileToBe(id, directory, anotherFile)
		return
	}

	allowed := func(what, path string) bool {
		ctx, cancel := context.WithTimeout(e.ctx, othersPatience)
		defer cancel()
		cmd := exec.CommandContext(ctx, "test", what, path)
		if !isUs {
			untrusted.As(cmd, id[0], id[1], id[2:]...)
		}
		return cmd.Run() == nil
	}

	if allowed("-r", e.TokenFile) {
		e.ok(fmt.Sprintf("user %s can read %s", e.GateUser, e.TokenFile))
		return
	}

	e.cannotRead(account, id, allowed, anotherFile)
}

// cannotRead reports why the gate's user cannot read the token file. allowed asks the kernel, as
// the gate's user, whether that user may do something with a path.
func (e *examination) cannotRead(account *user.User, id []uint32, allowed func(what, path string) bool, anotherFile string) {
	text := fmt.Sprintf("user %s cannot read %s", e.GateUser, e.TokenFile)
	directory := filepath.Dir(e.TokenFile)

	var closed []string
	// The kernel knows access control lists, which owner.ClosedTo does not.
	for above := filepath.Dir(realPath(directory)); above != "/"; above = filepath.Dir(above) {
		if !allowed("-x", above) {
			closed = append(closed, above)
		}
	}
	if len(closed) > 0 {
		remedy := anotherFile
		if group, err := user.LookupGroupId(account.Gid); err == nil && group.Name == account.Username { // the group is that user's alone
			remedy = cmp.Or(engines.LetIn(group.Name, closed), anotherFile)
		}
		e.broken(fmt.Sprintf("%s: %s is closed to that user", text, closed[0]), remedy)
		return
	}

	if other := engines.OthersFile(e.TokenFile, id[0]); other != "" {
		e.broken(fmt.Sprintf("%s, and the directory must keep its owner, since %s is in it, too", text, other), anotherFile)
		return
	}
	if !mayGive(int(id[0]), directory, e.TokenFile) {
		e.broken(text, anotherFile)
		return
	}

	e.broken(text, chown(e.GateUser, realPath(directory), e.TokenFile)) // each new token file keeps the owner of the one before
}

// tokenFileToBe checks that a token file that does not exist yet will belong to the gate's user. id is that
// user's uid, and then the gids of the user's groups.
func (e *examination) tokenFileToBe(id []uint32, directory, anotherFile string) {
	if directory, err := os.Stat(directory); int(id[0]) == os.Geteuid() || err == nil && owner.UID(directory) == int(id[0]) {
		e.ok("the token file will belong to user " + e.GateUser)
		return
	}

	e.noProbe = "a probe would make the token file, and the file would not belong to user " + e.GateUser
	remedy := printable.Shell("install", "-d", "-m", "0700", "-o", e.GateUser, directory)
	if engines.OthersFile(e.TokenFile, id[0]) != "" || !mayGive(int(id[0]), directory) {
		remedy = anotherFile
	}
	e.warn(e.TokenFile+" is not there yet, and will belong to the owner of its directory", remedy)
}

// mayGive reports whether each of the files that exist belongs to root, us or the user uid. Remedies do not
// give away files of other users.
func mayGive(uid int, paths ...string) bool {
	for _, path := range paths {
		info, err := os.Lstat(realPath(path))
		if err == nil && owner.UID(info) != 0 && owner.UID(info) != os.Geteuid() && owner.UID(info) != uid {
			return false
		}
	}
	return true
}

func ids(texts []string) []uint32 {
	var all []uint32
	for _, text := range texts {
		id, _ := strconv.ParseUint(text, 10, 32) // user.User promises decimal numbers
		all = append(all, uint32(id))
	}
	return all
}
