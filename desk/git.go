// Runs git in the desk, with or without the operator's settings, and in other repositories, as their owners.

package desk

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/untrusted"
)

// User is the owner of a repository.
type User struct {
	UID, GID uint32
	Groups   []uint32
	Home     string
}

// Repository is a repository in which git runs as the repository's owner: the gate's, or a directory that
// is a project's source.
type Repository struct {
	Path string
	As   *User // nil: the user who runs this program
}

// setting is a line of git's configuration.
type setting struct{ name, value string }

// environment returns an environment with these settings for git. With it, git reads no configuration of a
// user or the machine, ignores replace refs, and fetches no missing objects.
func environment(settings []setting) []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"),
		"LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_ATTR_NOSYSTEM=1",
		"GIT_NO_REPLACE_OBJECTS=1",
		"GIT_NO_LAZY_FETCH=1",
		"GIT_TERMINAL_PROMPT=0",
		// For the reflogs.
		"GIT_COMMITTER_NAME=terok-gate",
		"GIT_COMMITTER_EMAIL=terok-gate@localhost",
		"GIT_CONFIG_COUNT=" + strconv.Itoa(len(settings)),
	}
	for i, s := range settings {
		n := strconv.Itoa(i)
		env = append(env, "GIT_CONFIG_KEY_"+n+"="+s.name, "GIT_CONFIG_VALUE_"+n+"="+s.value)
	}
	return env
}

// quiet makes git do no more than it was told to, and do that durably.
var quiet = []setting{
	{"core.hooksPath", "/dev/null"},
	{"core.attributesFile", "/dev/null"},
	{"core.fsync", "objects,derived-metadata,reference"},
	{"core.fsyncMethod", "fsync"},
	{"gc.auto", "0"},
	{"maintenance.auto", "false"},
}

// hostile overrides what a repository's own configuration could make git run or refuse.
var hostile = slices.Concat(quiet, []setting{
	{"safe.directory", "*"}, // git runs as the repository's owner
	{"core.alternateRefsCommand", "true"},
	{"receive.autogc", "false"},
	{"receive.fsckObjects", "false"}, // upstream's history may have faults: see forOrigin
	{"receive.denyNonFastForwards", "false"},
	{"receive.denyDeletes", "false"},
	{"receive.advertisePushOptions", "false"},
	{"receive.hideRefs", "!refs/terok"},
	{"uploadpack.hideRefs", "refs/terok"},
	{"uploadpack.allowAnySHA1InWant", "true"},
}, disabledHooks())

// disabledHooks returns settings that stop hooks named in a repository's configuration (git 2.55):
// core.hooksPath does not stop these.
func disabledHooks() (settings []setting) {
	for _, event := range []string{
		"pre-receive", "update", "post-receive", "post-update", "reference-transaction",
		"proc-receive", "push-to-checkout", "pre-auto-gc",
	} {
		settings = append(settings, setting{"hook." + event + ".enabled", "false"})
	}
	return settings
}

// gitCommand returns a git command. When the context ends, git and all processes below it are sent SIGTERM.
// If only git were sent SIGTERM, it would remove its lock files, but leave behind an ssh that waits for a
// server.
func gitCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Cancel = func() error {
		all := append([]int{cmd.Process.Pid}, descendants(cmd.Process.Pid)...)
		for _, pid := range all {
			_ = unix.Kill(pid, unix.SIGTERM)
		}
		return nil
	}
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// descendants returns the children of a process, their children, and so on.
func descendants(pid int) (all []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		children, _ := os.ReadFile(file)
		for _, text := range strings.Fields(string(children)) {
			if child, err := strconv.Atoi(text); err == nil {
				all = append(append(all, child), descendants(child)...)
			}
		}
	}
	return all
}

// git returns a git command in the repository, which runs as the repository's owner.
func (r Repository) git(ctx context.Context, args ...string) *exec.Cmd {
	return r.run(ctx, environment(hostile), slices.Concat([]string{"--git-dir", r.Path}, args)...)
}

// run returns a git command that runs as the repository's owner, in a session of its own. The environment
// must not ask for git's protocol 2: upload-pack would wait for the end of its input, and its peer in
// [connect] keeps that input open until upload-pack ends.
func (r Repository) run(ctx context.Context, env []string, args ...string) *exec.Cmd {
	cmd := gitCommand(ctx, args...)
	cmd.Dir = "/" // our working directory may be gone
	if r.As != nil {
		untrusted.As(cmd, r.As.UID, r.As.GID, r.As.Groups...)
		env = append(env, "HOME="+r.As.Home)
	} else {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	}
	cmd.Env = env
	return cmd
}

// local returns a git command in the desk that does not depend on the operator's environment and
// settings.
func (d *Desk) local(ctx context.Context, args ...string) *exec.Cmd {
	settings := append(slices.Clone(quiet), setting{"attr.tree", emptyTree(d.format)})
	cmd := gitCommand(ctx, slices.Concat([]string{"--no-replace-objects", "--git-dir", d.path}, args)...)
	cmd.Dir = d.Directory
	cmd.Env = environment(settings)
	return cmd
}

// forOrigin overrides those of the operator's settings that would change what a command does.
var forOrigin = slices.Concat(quiet, []setting{
	{"fetch.fsckObjects", "false"}, // an old history can have faults that cannot be fixed
	{"fetch.recurseSubmodules", "false"},
	{"fetch.writeCommitGraph", "false"},
	{"push.followTags", "false"},
	{"push.gpgSign", "false"},
	{"push.recurseSubmodules", "no"},
	{"protocol.file.allow", "always"},
	// A forge must not redirect git: a repository elsewhere is not the source, and the operator's
	// credentials may give access to servers that the forge has no access to.
	{"http.followRedirects", "false"},
	{"transfer.bundleURI", "false"},
	{"fetch.uriProtocols", ""},
})

// operators returns a git command in the desk with the operator's environment and settings, such
// as those for ssh, credential helpers and proxies.
func (d *Desk) operators(ctx context.Context, args ...string) *exec.Cmd {
	all := []string{"--no-replace-objects", "--git-dir", d.path}
	for _, s := range forOrigin {
		all = append(all, "-c", s.name+"="+s.value)
	}
	cmd := gitCommand(ctx, append(all, args...)...)
	cmd.Dir = d.Directory
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if !slices.Contains(ofARepository, name) {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, "LC_ALL=C")
	return cmd
}

// ofARepository are the variables that would make git work in another repository. They are those of
// git rev-parse --local-env-vars, without GIT_CONFIG_PARAMETERS and GIT_CONFIG_COUNT, which carry
// the operator's settings, and with GIT_NAMESPACE and GIT_QUARANTINE_PATH added.
var ofARepository = []string{
	"GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_OBJECT_DIRECTORY", "GIT_DIR", "GIT_WORK_TREE",
	"GIT_IMPLICIT_WORK_TREE", "GIT_GRAFT_FILE", "GIT_INDEX_FILE", "GIT_NO_REPLACE_OBJECTS",
	"GIT_REPLACE_REF_BASE", "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_COMMON_DIR",
	"GIT_NAMESPACE", "GIT_CONFIG", "GIT_QUARANTINE_PATH",
}

// output runs a command and returns what it prints, without the last newline.
func output(cmd *exec.Cmd) (string, error) { return start(cmd, 0)() }

// start starts a command, and returns a function that waits for its output. Output of more than
// limit bytes is an error; with 0, the limit is that of [untrusted.Output].
func start(cmd *exec.Cmd, limit int) (wait func() (string, error)) {
	out := untrusted.Output{Limit: limit}
	cmd.Stdout = &out
	said := keepErrors(cmd)
	err := cmd.Start()
	return func() (string, error) {
		if err == nil {
			err = cmd.Wait()
		}
		return strings.TrimSuffix(out.String(), "\n"), failure(err, said)
	}
}

// feed runs a command with the text as its standard input.
func feed(cmd *exec.Cmd, text string) error {
	cmd.Stdin = strings.NewReader(text)
	return finish(cmd)
}

// finish runs a command. An error quotes what the command wrote to standard error.
func finish(cmd *exec.Cmd) error {
	said := keepErrors(cmd)
	return failure(cmd.Run(), said)
}

// keepErrors makes a command write its standard error to the returned output, too.
func keepErrors(cmd *exec.Cmd) *untrusted.Output {
	var said untrusted.Output
	if cmd.Stderr == nil {
		cmd.Stderr = &said
	} else {
		cmd.Stderr = io.MultiWriter(cmd.Stderr, &said)
	}
	return &said
}

// failure returns an error that wraps err and quotes git's messages in one line.
func failure(err error, messages *untrusted.Output) error {
	if err == nil {
		return nil
	}
	var lines []string
	for line := range strings.SplitSeq(messages.String(), "\n") {
		// Left out: the boxes of @ that ssh draws around its warnings.
		if line = strings.TrimSpace(line); strings.Trim(line, "@") != "" {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return fmt.Errorf("git: %w", err)
	}
	return fmt.Errorf("git: %w: %s", err, strings.Join(lines, "; "))
}

// answer runs a command whose exit status is its answer: 0 for yes, 1 for no.
func answer(cmd *exec.Cmd) (bool, error) {
	err := finish(cmd)
	if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == 1 {
		return false, nil
	}
	return err == nil, err
}

// copyTo runs a command with w as its standard output.
func copyTo(w io.Writer, cmd *exec.Cmd) error {
	cmd.Stdout = w
	return finish(cmd)
}

func emptyTree(format string) string {
	if format == "sha256" {
		return "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"
	}
	return "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
}
