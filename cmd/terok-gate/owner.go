// As whom git works in the folder of repositories.

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
)

// owner is whoever owns the folder of repositories: the gate's own user, where root
// calls. Root's git writes nothing where another user can exchange folders for links,
// and the gate can write to what its own user has made.
type owner struct {
	credential *syscall.Credential // nil: ourselves
	home       string
}

func ownerOf(repos *os.Root) (owner, error) {
	info, err := repos.Stat(".")
	if err != nil {
		return owner{}, err
	}
	stat := info.Sys().(*syscall.Stat_t)
	if os.Geteuid() != 0 || stat.Uid == 0 {
		return owner{}, nil
	}
	o := owner{home: "/", credential: &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}}
	if u, err := user.LookupId(strconv.Itoa(int(stat.Uid))); err == nil {
		o.home = u.HomeDir
	}
	return o, nil
}

// git runs one of git's commands as the owner, and returns what it prints.
func (o owner) git(args ...string) (string, error) { return run(o.command(nil, args...)) }

// command is one of git's commands. stdio, if there is any, is its standard input and
// output, which are closed when it has been started.
func (o owner) command(stdio []*os.File, args ...string) *gitCommand {
	cmd := &gitCommand{Cmd: exec.Command("git", args...), stdio: stdio}
	cmd.Env = os.Environ()
	if o.credential != nil {
		cmd.Dir = "/" // our own may be closed to the owner
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: o.credential}
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + o.home}
	}
	// For the reflogs. Without an address git asks the network what this machine is called,
	// and waits for seconds where nobody answers.
	cmd.Env = append(cmd.Env, "GIT_COMMITTER_NAME=terok-gate add", "GIT_COMMITTER_EMAIL=add@terok-gate")
	return cmd
}

type gitCommand struct {
	*exec.Cmd
	stdio []*os.File
}

// run runs a command and returns what it prints. An error has what it said.
func run(cmd *gitCommand) (string, error) {
	var out, said bytes.Buffer
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
	if text := strings.TrimSpace(said.String()); err != nil && text != "" {
		err = fmt.Errorf("git: %w: %s", err, text)
	} else if err != nil {
		err = fmt.Errorf("git: %w", err)
	}
	return strings.TrimSpace(out.String()), err
}
