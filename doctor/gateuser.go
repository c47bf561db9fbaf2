// Whether the gate can read the token file.

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// gateUser tries whether the gate server, as its user, can read the token file.
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
		e.broken(err.Error(), "name the user that the gate server runs as")
		return
	}
	id := ids(append([]string{account.Uid, account.Gid}, groups...))
	isUs := int(id[0]) == os.Geteuid()
	if !isUs && os.Geteuid() != 0 {
		e.warn("only root can try what user "+e.GateUser+" can read", "run doctor as root, with --token-file "+e.TokenFile)
		return
	}
	if _, err := os.Lstat(e.TokenFile); errors.Is(err, fs.ErrNotExist) {
		if isUs {
			e.ok("the token file will belong to user " + e.GateUser)
			return
		}
		folder := filepath.Dir(e.TokenFile)
		e.noProbe = "it would make the token file, and the folder is to be made first"
		e.warn(e.TokenFile+" is not there yet, and will belong to whoever its folder belongs to",
			fmt.Sprintf("install -d -m 0700 -o %s %s", e.GateUser, folder))
		return
	}
	cmd := exec.CommandContext(e.ctx, "test", "-r", e.TokenFile)
	if !isUs {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id[0], Gid: id[1], Groups: id[2:]}}
	}
	if err := cmd.Run(); err != nil {
		e.broken(fmt.Sprintf("user %s cannot read %s", e.GateUser, e.TokenFile),
			fmt.Sprintf("chown %s the file and its folder, which must be reachable; later tokens keep the owner", e.GateUser))
		return
	}
	e.ok(fmt.Sprintf("user %s can read %s", e.GateUser, e.TokenFile))
}

func ids(texts []string) []uint32 {
	var all []uint32
	for _, text := range texts {
		id, _ := strconv.ParseUint(text, 10, 32) // user.User promises decimal numbers
		all = append(all, uint32(id))
	}
	return all
}
