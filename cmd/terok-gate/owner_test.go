package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

// rootsDirectory makes a directory of root's that everybody may enter, runs a script in it, and
// returns its path.
func rootsDirectory(t *testing.T, script string) string {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.Need(t, "git")
	dir, err := os.MkdirTemp("/dev/shm", "terok-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cmd := exec.Command("sh", "-ec", "chmod 755 .; "+script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@a", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@a")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

const aRepository = "git init -q src; git -C src commit -q --allow-empty -m one; "

func addTo(t *testing.T, dir string, args ...string) (said string, err error) {
	t.Helper()
	cmd := exec.Command("terok-gate", append([]string{"add", "--repos", filepath.Join(dir, "repos")}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestRootsAddReadsAndWritesAsTheOwners(t *testing.T) {
	for name, script := range map[string]string{ // who has the directory of repositories, and the source
		"root's":                          "mkdir repos; " + aRepository,
		"the gate's, from root's":         "mkdir -m 700 repos; chown 1234 repos; umask 077; " + aRepository,
		"the gate's, from another user's": "mkdir -m 700 repos; chown 1234 repos; umask 077; " + aRepository + "chown -R 4321 src",
		"the gate's, from its own":        "mkdir -m 700 repos; chown 1234 repos; umask 077; " + aRepository + "chown -R 1234 src",
		"the gate's, from another user's .git in root's directory": "mkdir -m 700 repos; chown 1234 repos; umask 077; " + aRepository + "chown -R 4321 src/.git; chmod 755 src",
	} {
		dir := rootsDirectory(t, script)
		if said, err := addTo(t, dir, "demo", filepath.Join(dir, "src")); err != nil {
			t.Errorf("%s: %v: %s", name, err, said)
			continue
		}
		out, err := exec.Command("git", "-c", "safe.directory=*", "-C", filepath.Join(dir, "repos/demo.git"), "log", "--all", "--format=%s").CombinedOutput()
		if err != nil || string(out) != "one\n" {
			t.Errorf("%s: %v: %s", name, err, out)
		}
		var repos, head unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, "repos"), &repos); err != nil {
			t.Fatal(err)
		}
		if err := unix.Stat(filepath.Join(dir, "repos/demo.git/HEAD"), &head); err != nil || head.Uid != repos.Uid {
			t.Errorf("%s: HEAD belongs to user %d, and the directory of repositories to user %d: %v", name, head.Uid, repos.Uid, err)
		}
	}
}

// Root is told to copy another user's repository, which refers to one of root's.
func TestAddCopiesNothingThatTheSourcesOwnerMayNotRead(t *testing.T) {
	for name, script := range map[string]string{
		"a .git file":                    "mkdir theirs; echo gitdir: $PWD/src/.git >theirs/.git; chown -R 1234 theirs",
		"a .git that is a link":          "mkdir theirs; ln -s ../src/.git theirs/.git; chown -hR 1234 theirs",
		"a link to the whole repository": "mkdir home; ln -s ../src home/theirs; chown -hR 1234 home; ln -s home/theirs theirs",
	} {
		dir := rootsDirectory(t, "mkdir repos; umask 077; "+aRepository+"umask 022; "+script)
		said, err := addTo(t, dir, "demo", filepath.Join(dir, "theirs"))
		if err == nil || !strings.Contains(said, "a git repository") { // git, as the owner, sees none
			t.Errorf("%s: %v: %s", name, err, said)
		}
		if _, err := os.Lstat(filepath.Join(dir, "repos/demo.git")); err == nil {
			t.Errorf("%s: there is a copy", name)
		}
	}
}

// The owner of a directory above may have put a link to one of root's directories there.
func TestRootsAddDoesNotRunAsRootWhereAnotherUserCanReplaceTheDirectory(t *testing.T) {
	for name, script := range map[string]string{
		"a link":            "mkdir above roots; ln -s ../roots above/repos; chown -h 1234 above above/repos; ln -s above/repos repos",
		"a directory above": "mkdir -p above/repos; chown 1234 above; ln -s above/repos repos",
	} {
		dir := rootsDirectory(t, script)
		if said, err := addTo(t, dir, "demo"); err == nil || !strings.Contains(said, "denied") {
			t.Errorf("%s: %v: %s", name, err, said)
		}
	}
}

// A program of the gate's user could type into root's terminal if it had that terminal.
func TestRootsAddGivesTheGatesUserNoTerminalAndNoEnvironment(t *testing.T) {
	dir := rootsDirectory(t, `mkdir -m 700 repos bin; chown 1234 repos; chmod 755 bin
printf '#!/bin/sh\ncut -d" " -f6 /proc/self/stat >>'$PWD'/repos/sessions; env >>'$PWD'/repos/env; exec /usr/bin/git "$@"\n' >bin/git
chmod 755 bin/git`)
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	t.Setenv("SECRET", "of root's")
	if said, err := addTo(t, dir, "demo"); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	ours, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	sessions, _ := os.ReadFile(filepath.Join(dir, "repos/sessions"))
	env, _ := os.ReadFile(filepath.Join(dir, "repos/env"))
	if len(sessions) == 0 || strings.Contains("\n"+string(sessions), "\n"+strconv.Itoa(ours)+"\n") || strings.Contains(string(env), "SECRET") {
		t.Errorf("in session %d: %s\n%s", ours, sessions, env)
	}
}
