// What git is told by its environment, and which git that is.

package gate

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"terok-gate-hook/store"
)

// environment is git's, made from nothing: no header of a request, no configuration of
// a user or of the machine. What stands here overrides the repository's configuration, but
// for the defaults, and is all that the advertisement of upload-pack depends on beside its object format.
func (g *Gate) environment(repo repository, who store.Pass, protocol string) []string {
	task, container := who.Task, who.Container
	if store.CheckName(task) != nil {
		task = "unknown"
	}
	if store.CheckName(container) != nil {
		container = who.Fingerprint
	}
	env := []string{
		"PATH=" + g.path,
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_ATTR_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=" + g.defaultsFile(),
		"GIT_NO_LAZY_FETCH=1",
		// For the reflog, where there is one.
		"GIT_COMMITTER_NAME=" + task,
		"GIT_COMMITTER_EMAIL=" + container + "@" + who.Project,
	}
	if protocol != "" {
		env = append(env, "GIT_PROTOCOL="+protocol)
	}
	config := [][2]string{
		{"safe.directory", repo.path},
		{"core.hooksPath", "/dev/null"}, // but for a push

		{"receive.maxInputSize", strconv.FormatInt(g.maxPush, 10)},
		{"transfer.fsckObjects", "true"},
		{"receive.advertisePushOptions", "false"},
		{"receive.advertiseAtomic", "true"}, // or it takes no push for one
		{"receive.autogc", "false"},         // the gate's work: see cleaning.go
		{"gc.autoDetach", "false"},
		{"maintenance.autoDetach", "false"},

		{"transfer.advertiseSID", "false"},
		{"lsrefs.unborn", "advertise"},

		{"uploadpack.allowFilter", "true"},
		// With protocol 2 git serves any object anyway, and a partial clone needs it.
		{"uploadpack.allowAnySHA1InWant", "true"},
		{"uploadpack.allowRefInWant", "false"},
		{"uploadpack.allowSidebandAll", "false"},
		{"uploadpack.advertiseBundleURIs", "false"},
	}
	// From git 2.55 on a repository's configuration names hooks that core.hooksPath
	// does not stop.
	for _, event := range []string{
		"pre-receive", "update", "post-receive", "post-update", "reference-transaction",
		"proc-receive", "push-to-checkout", "pre-auto-gc",
	} {
		config = append(config, [2]string{"hook." + event + ".enabled", "false"})
	}
	env = append(env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(config)))
	for i, pair := range config {
		n := strconv.Itoa(i)
		env = append(env, "GIT_CONFIG_KEY_"+n+"="+pair[0], "GIT_CONFIG_VALUE_"+n+"="+pair[1])
	}
	return env
}

// defaults are what a repository's configuration overrides. A blob above the threshold is
// read as it comes, and no other is likened to it: twelve of 100 MiB, all zeroes, take
// 1.3 GB in a fetch otherwise (git 2.39.5).
const defaults = `[core]
	bigFileThreshold = 64m
[pack]
	windowMemory = 128m
`

func (g *Gate) defaultsFile() string { return filepath.Join(g.hooks, "gitconfig") }

func (g *Gate) writeDefaults() error {
	file := g.defaultsFile()
	if err := os.WriteFile(file+".new", []byte(defaults), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// forPush is what git is told beside that, where it unpacks what a client has packed: how
// much it may ask for at once. 17 KiB of deltas take 4 GB otherwise. The git that packs
// makes no delta of what is larger than 512 MiB (core.bigFileThreshold).
const forPush = "GIT_ALLOC_LIMIT=600m"

// findGit returns git's path and the PATH that it is run with.
func findGit() (git, path string, err error) {
	if git, err = exec.LookPath("git"); err != nil {
		return "", "", fmt.Errorf("find git: %w: install it", err)
	}
	if git, err = filepath.Abs(git); err != nil {
		return "", "", err
	}
	if path = os.Getenv("PATH"); path == "" {
		return "", "", errors.New("PATH is empty")
	}
	return git, path, nil
}
