// Runs git as the owner of a directory.

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

// owner is the owner of a directory. If root runs this program, git runs as that owner. So git does
// not run as root where another user can replace directories with links, or where it would read
// another user's configuration. What git makes belongs to the directory's owner, usually the gate's
// user.
type owner struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// ownerOf returns the first user other than root, from / down, who owns a step of the path to a
// directory, and so could replace the rest of the path. Usually, that is the owner of the directory.
// ownerOf returns nil, which stands for the calling user, if no step belongs to such a user or the
// caller is not root.
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
		if uid := step.UID(); owners.IsAnother(uid, inside) {
			return ownerNamed(uint32(uid)), nil
		}
	}
	return nil, nil
}

func ownerNamed(uid uint32) *owner {
	// If the user's groups are unknown, git runs without them. The directory's group cannot stand in
	// for them, since the user may not be in that group.
	o := &owner{uid: uid, gid: owners.OverflowID, home: "/"}
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

// command returns a git command that runs as the owner. stdio, if not nil, is its standard input
// and output; once the command has started, run closes this process's copies of both files.
func (o *owner) command(stdio []*os.File, args ...string) *gitCommand {
	cmd := &gitCommand{Cmd: exec.Command("git", args...), stdio: stdio}
	cmd.Env = os.Environ()
	if o != nil {
		untrusted.As(cmd.Cmd, o.uid, o.gid, o.groups...)
		cmd.Env = append(cmd.Env, "HOME="+o.home)
	}
	// The reflogs contain the committer. Without an e-mail address, git would look up this
	// machine's name on the network, and wait for seconds if there is no answer.
	cmd.Env = append(cmd.Env, "GIT_COMMITTER_NAME=terok-gate add", "GIT_COMMITTER_EMAIL=add@terok-gate")
	return cmd
}

type gitCommand struct {
	*exec.Cmd
	stdio []*os.File
	said  string // its standard error, once it has ended
}

// run runs a command and returns its standard output. An error includes its standard error.
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
