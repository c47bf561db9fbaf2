// Makes git's environment, which contains git's settings, such as the size limit of a push. Finds
// git's program.

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

// environment returns git's environment. Of a container's request, it contains only the project and
// the version of the protocol. The environment makes git ignore the configuration of users and of the
// machine, and its settings override the repository's configuration.
func environment(path string, maxPush int64, repo repository, who caller, protocol string) []string {
	task, container := who.Task, who.Container
	if store.CheckName(task) != nil {
		task = "unknown"
	}
	if store.CheckName(container) != nil {
		container = who.Fingerprint
	}
	env := []string{
		"PATH=" + path,
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_ATTR_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_NO_LAZY_FETCH=1",
		// For the reflog, if the repository has one.
		"GIT_COMMITTER_NAME=" + task,
		"GIT_COMMITTER_EMAIL=" + container + "@" + who.Project,
	}
	if protocol != "" {
		env = append(env, "GIT_PROTOCOL="+protocol)
	}
	config := [][2]string{
		{"safe.directory", repo.path},
		{"core.hooksPath", "/dev/null"}, // a push gets another path in git's arguments

		{"receive.maxInputSize", strconv.FormatInt(maxPush, 10)},
		{"transfer.fsckObjects", "true"},
		{"receive.advertisePushOptions", "false"},
		{"receive.advertiseAtomic", "true"}, // otherwise git ignores the capability that commands.forGit adds
		{"receive.autogc", "false"},         // the gate's work: see cleaning.go
		{"gc.autoDetach", "false"},
		{"maintenance.autoDetach", "false"},

		// So that a push's objects and refs are on the disk before the push succeeds. By default,
		// git syncs neither loose objects nor refs.
		{"core.fsync", "objects,derived-metadata,reference"},
		{"core.fsyncMethod", "fsync"},

		// So that git serves large repositories within its limit of memory. The stacks of git's
		// threads count towards that limit. git reads a blob above the threshold in parts, and does
		// not compare it with other blobs.
		{"pack.threads", "4"},
		{"pack.windowMemory", "128m"},
		{"core.bigFileThreshold", "64m"},

		{"transfer.hideRefs", "refs/terok"}, // the kept tips: see keep.go
		{"transfer.advertiseSID", "false"},
		{"transfer.advertiseObjectInfo", "false"},
		{"promisor.advertise", "false"},
		{"lsrefs.unborn", "advertise"},

		{"uploadpack.allowFilter", "true"},
		// git does not limit how many filters are combined: see filter.go.
		{"uploadpackfilter.allow", "false"},
		{"uploadpackfilter.blob:none.allow", "true"},
		{"uploadpackfilter.blob:limit.allow", "true"},
		{"uploadpackfilter.tree.allow", "true"},
		{"uploadpackfilter.object:type.allow", "true"},
		{"uploadpackfilter.combine.allow", "true"},
		// A partial clone needs this. With protocol 2, git serves any object anyway.
		{"uploadpack.allowAnySHA1InWant", "true"},
		{"uploadpack.allowRefInWant", "false"},
		{"uploadpack.allowSidebandAll", "false"},
		{"uploadpack.advertiseBundleURIs", "false"},
	}
	// From git 2.55 on, a repository's configuration can name further hooks, which core.hooksPath
	// does not disable.
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

// findGit returns the path of git's program, and the PATH for git's environment.
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
