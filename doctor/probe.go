// A container that does nothing but try the hooks, and the gate if its URL is known.

package doctor

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"terok-gate-hook/hook"
	"terok-gate-hook/store"
)

const (
	probeName = "terok-gate-doctor-"
	probeTask = "terok-gate-doctor"
)

// probeScript says what the container's process sees, a line each. Its arguments are
// the folder with gate.env, the repository, empty if that is not to be tried, and how
// git comes to know the gate: by itself, as precreate has set it up; after gate.env was
// read; or, where the hooks know another gate, by a credential helper.
const probeScript = `
[ -r "$1/gate.env" ] || exit 0
echo env
[ ! -r "$TEROK_GATE_ENV" ] || echo pointers
[ -n "$2" ] || exit 0
command -v git >/dev/null || { echo no git; exit 0; }
[ "$3" != env ] || { set -a; . "$1/gate.env"; set +a; }
[ "$3" = helper ] || [ "$CODE_REPO" = "$2" ] || { echo no CODE_REPO; exit 0; }
export HOME=/ GIT_TERMINAL_PROMPT=0
helper=
[ "$3" != helper ] || helper="!. $1/gate.env; echo username=\$TEROK_GATE_TOKEN; echo password="
if said=$(git -c http.lowSpeedLimit=1 -c http.lowSpeedTime=10 -c credential.helper= -c credential.helper="$helper" \
	ls-remote -q "$2" 2>&1 >/dev/null); then
	echo gate
else
	echo "$said" | tail -n 1
fi
`

// probe starts a container as a user of the hooks would.
func (e *examination) probe() {
	const check = "probe"
	if e.noProbe != "" {
		e.warn(check, "not tried: "+e.noProbe, "doctor again, then")
		return
	}
	prestart := e.registered("prestart")
	patterns := prestart.Flags("--allow-project")
	project := e.probeProject(patterns)
	switch {
	case project == "":
		e.warn(check, "not tried: it takes a project that the hooks admit", "doctor --project P")
		return
	case !admits(patterns, project):
		e.broken(check, fmt.Sprintf("the hooks do not admit project %s, but %s", project, strings.Join(patterns, " ")), "terok-gate-hook install, with another --allow-project")
		return
	}
	folder, err := os.MkdirTemp("", probeName)
	if err != nil {
		e.broken(check, err.Error(), "TMPDIR must name a folder that you can write to")
		return
	}
	defer os.RemoveAll(folder)
	if err := os.Chmod(folder, 0o755); err != nil { // the container's root may be another user
		e.broken(check, err.Error(), "TMPDIR must name a folder of yours")
		return
	}
	mountPath := cmp.Or(prestart.Flag("--mount-path"), hook.MountPath)
	annotation := func(flag, usual, value string) string {
		return "--annotation=" + cmp.Or(prestart.Flag(flag), usual) + "=" + value
	}
	name := probeName + rand.Text()[:8]
	args := []string{
		"run", "--rm", "--name", name, "--timeout", "60",
		annotation("--project-annotation", hook.ProjectAnnotation, project),
		annotation("--task-annotation", hook.TaskAnnotation, name), // no other token has this task
	}
	repository, way := "", "helper"
	if e.GateURL != "" {
		repository = strings.TrimSuffix(e.GateURL, "/") + "/" + project + ".git"
	}
	if strings.TrimSuffix(e.flag("--gate-url"), "/") == strings.TrimSuffix(e.GateURL, "/") {
		way = "env"
		if e.registered("precreate") != nil {
			way = "precreate"
		}
	}
	switch {
	case e.Network != "":
		args = append(args, "--network", e.Network)
	case repository == "":
		args = append(args, "--network", "none")
	}
	if e.Image != "" {
		args = append(args, "--entrypoint", "", e.Image)
	} else {
		rootfs, err := hostPrograms(filepath.Join(folder, "rootfs"))
		if err != nil {
			e.broken(check, err.Error(), "doctor --image IMAGE")
			return
		}
		args = append(args, rootfs...)
	}
	defer func() {
		if e.ctx.Err() != nil { // somebody ended us, and podman with us
			_ = exec.Command("podman", "rm", "--force", "--ignore", "--time", "0", name).Run()
		}
	}()
	out, err := e.command("podman", append(args, "sh", "-c", probeScript, "probe", mountPath, repository, way)...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	saw := func(line string) bool { return slices.Contains(lines, line) }
	switch {
	case err != nil && !saw("env"):
		e.broken(check, "a container with annotations does not start: "+err.Error(), "if the hooks refused it, journalctl -t terok-gate-hook or the log file says why; a network: doctor --network")
		return
	case !saw("env"):
		e.broken(check, fmt.Sprintf("a container with annotations starts without %s/gate.env: the hooks do not run", mountPath), "terok-gate-hook install")
		return
	case e.registered("precreate") != nil && !saw("pointers"):
		e.broken(check, "the precreate hook does not run, or names another folder than prestart", "terok-gate-hook install")
		return
	}
	entries, entriesErr := e.tokens.Entries()
	if entriesErr != nil {
		e.broken(check, entriesErr.Error(), "mend the token file first")
		return
	}
	if slices.ContainsFunc(entries, func(entry store.Entry) bool { return entry.Task == name }) {
		e.broken(check, "the container is gone and its token is not: the poststop hook does not run", "terok-gate-hook install; terok-gate-hook reap")
		return
	}
	e.ok(check, "a container gets its token and loses it")
	if repository == "" {
		return
	}
	e.gate(repository, project, saw, lines[len(lines)-1], err)
}

// gate tells what git said last of the gate, and what mends that.
func (e *examination) gate(repository, project string, saw func(string) bool, last string, err error) {
	const check, table = "gate", "see the README, “How a container reaches a gate”"
	if saw("gate") {
		e.ok(check, repository+" can be read from a container, with a fresh token")
		return
	}
	if saw("no git") {
		e.warn(check, "not tried: it takes git, in the probe container", "doctor --image IMAGE, one that has git; or install git here")
		return
	}
	if saw("no CODE_REPO") {
		e.broken(check, "the hooks do not tell containers of "+repository, "terok-gate-hook install --gate-url "+e.GateURL)
		return
	}
	if err != nil {
		last = err.Error()
	}
	text := fmt.Sprintf("%s, from a container: %.300s", repository, last)
	said := func(words string) bool { return strings.Contains(last, words) }
	switch {
	case said("not found") && e.Project == "":
		// The project was our guess.
		e.warn(check, text, "the gate answers; try a project that it has: doctor --project P")
	case said("not found"):
		e.broken(check, text, "the gate answers, but has no project "+project)
	case said("Authentication failed"), said("could not read Username"):
		e.broken(check, text, "the gate does not know the token: it must read "+e.TokenFile)
	case said("403"):
		e.broken(check, text, "the gate knows the token, but not for this URL: is it the gate's own?")
	case said("resolve host"):
		e.broken(check, text, "containers on this network do not know that name: "+table)
	default:
		e.broken(check, text, "start the gate where containers on their network reach it: "+table+", and doctor --network")
	}
}

// probeProject returns a project that the patterns admit, best one that there is.
func (e *examination) probeProject(patterns []string) string {
	if e.Project != "" {
		return e.Project
	}
	var candidates []string
	if entries, err := e.tokens.Entries(); err == nil && e.Image == "" { // an image may be hostile
		for _, entry := range entries {
			candidates = append(candidates, entry.Project)
		}
	}
	for _, pattern := range patterns {
		candidates = append(candidates, strings.NewReplacer("*", "", "?", "x").Replace(pattern))
	}
	for _, project := range append(candidates, probeTask) {
		if store.CheckName(project) == nil && admits(patterns, project) {
			return project
		}
	}
	return ""
}

func admits(patterns []string, project string) bool {
	return hook.Settings{AllowProjects: patterns}.Admits(project)
}

// hostPrograms makes a root file system that has the host's programs, read-only, and
// nothing else of it, and returns podman run's arguments for it. (All of the host as
// --rootfs /:O is not to be had rootless, podman 4.3.1.)
func hostPrograms(rootfs string) (args []string, err error) {
	args = []string{"--security-opt", "label=disable"} // SELinux labels nothing here for a container
	for _, name := range []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "nix", "etc/alternatives", "etc/nsswitch.conf", "etc/ssl", "etc/pki", "etc/crypto-policies"} {
		there, here := "/"+name, filepath.Join(rootfs, name)
		info, err := os.Lstat(there)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(filepath.Dir(here), 0o755); err != nil {
			return nil, err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			args = append(args, "--volume", there+":"+there+":ro")
			continue
		}
		target, err := os.Readlink(there)
		if err != nil {
			return nil, err
		}
		if err := os.Symlink(target, here); err != nil {
			return nil, err
		}
	}
	return append(args, "--rootfs", rootfs), nil
}
