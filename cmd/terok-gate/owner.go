// As whom git works in a directory.

package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"

	owners "terok-gate-hook/internal/owner"
	"terok-gate-hook/internal/untrusted"
	"terok-gate-hook/store"
)

// owner is as whom git works in a directory, where root calls: whoever owns that. Root's git
// writes nothing where another user can exchange directories for links, and reads no
// configuration of another's; and the gate can write to what its own user has made.
type owner struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// ownerOf is the owner of a directory or, if that is root, of something on the way to it, who
// could put another in its place. nil is ourselves.
func ownerOf(directory string) (*owner, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	if _, err := os.Stat(directory); err != nil {
		return nil, err
	}
	inside, err := store.InUserNamespace()
	if err != nil {
		return nil, err
	}
	way, err := owners.Way(directory)
	if err != nil {
		return nil, err
	}
	for _, step := range way {
		if uid := step.UID(); uid != 0 && (uid != nobody || !inside) {
			return ownerNamed(uint32(uid)), nil
		}
	}
	return nil, nil
}

// nobody is, in a user namespace, whoever has no id there: the host's root, say.
const nobody = 65534

func ownerNamed(uid uint32) *owner {
	o := &owner{uid: uid, gid: nobody, home: "/"} // a directory's group need not be its owner's
	u, err := user.LookupId(strconv.Itoa(int(uid)))
	if err != nil {
		return o
	}
	groups, _ := u.GroupIds()
	for _, text := range append([]string{u.Gid}, groups...) {
		if gid, err := strconv.ParseUint(text, 10, 32); err == nil {
			o.groups = append(o.groups, uint32(gid))
		}
	}
	if len(o.groups) > 0 {
		o.gid = o.groups[0]
	}
	o.home = u.HomeDir
	return o
}

// git runs one of git's commands as the owner, and returns what it prints.
func (o *owner) git(args ...string) (string, error) { return run(o.command(nil, args...)) }

// command is one of git's commands. stdio, if there is any, is its standard input and
// output, which are closed when it has been started.
func (o *owner) command(stdio []*os.File, args ...string) *gitCommand {
	cmd := &gitCommand{Cmd: exec.Command("git", args...), stdio: stdio}
	cmd.Env = os.Environ()
	if o != nil {
		untrusted.As(cmd.Cmd, o.uid, o.gid, o.groups...)
		cmd.Env = append(cmd.Env, "HOME="+o.home)
	}
	// For the reflogs. Without an address git asks the network what this machine is called,
	// and waits for seconds where nobody answers.
	cmd.Env = append(cmd.Env, "GIT_COMMITTER_NAME=terok-gate add", "GIT_COMMITTER_EMAIL=add@terok-gate")
	return cmd
}

type gitCommand struct {
	*exec.Cmd
	stdio []*os.File
	said  string // on standard error, when it has ended
}

// run runs a command and returns what it prints. An error has what it said.
func run(cmd *gitCommand) (string, error) {
	var out, said untrusted.Output
	cmd.Stdout, cmd.Stderr = &out, &said
	if cmd.stdio != nil {
		cmd.Stdin, cmd.Stdout = cmd.stdio[0], cmd.stdio[1]
	}
	err := cmd.Start()
	for _, end := range cmd.stdio {
		end.Close()
	}
	if err == nil {
		err = cmd.Wait()
	}
	cmd.said = strings.TrimSpace(said.String())
	if text := cmd.said; err != nil && text != "" {
		err = fmt.Errorf("git: %w: %s", err, text)
	} else if err != nil {
		err = fmt.Errorf("git: %w", err)
	}
	return strings.TrimSpace(out.String()), err
}
