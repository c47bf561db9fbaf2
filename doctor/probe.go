// Starts a container that tries the hooks, and the gate if its URL is known.

package doctor

import (
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
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/store"
)

const (
	probeName = "terok-gate-doctor-"
	probeTask = "terok-gate-doctor"
)

// probeScript prints a line for each thing that it finds in the container. Its arguments are:
//   - the directory with gate.env;
//   - the repository, empty if git is not to try it;
//   - what gives git the token: "precreate", the precreate hook; "env", the variables in gate.env; or
//     "helper", a credential helper, if the gate to try is not that of the hooks.
const probeScript = `
[ -r "$1/gate.env" ] || exit 0
echo env
[ ! -r "$TEROK_GATE_ENV" ] || echo pointers
[ -n "$2" ] || exit 0
command -v git >/dev/null || { echo no git; exit 0; }
[ "$3" != env ] || { set -a; . "$1/gate.env"; set +a; }
[ "$3" = helper ] || [ "$CODE_REPO" = "$2" ] || { echo no CODE_REPO; exit 0; }
export HOME=/ GIT_TERMINAL_PROMPT=0
set -- "$1" "$2" "$3" -c http.lowSpeedLimit=1 -c http.lowSpeedTime=10
[ "$3" != helper ] || set -- "$@" -c credential.helper= \
	-c credential.helper="!. $1/gate.env; echo username=\$TEROK_GATE_TOKEN; echo password="
repository=$2
shift 3
if said=$(git "$@" ls-remote -q "$repository" 2>&1 >/dev/null); then
	echo gate
else
	echo "$said" | tail -n 1
fi
`

// probed holds the output of the probe's container, and how podman run or docker run ended.
type probed struct {
	project, repository string // repository: empty if the gate was not to be tried
	lines               []string
	err                 error
	plain               error // of the same container without the hooks, if the probe's container did not start
}

func (p probed) saw(line string) bool { return slices.Contains(p.lines, line) }

// probeDoesHarm reports whether a probe must not be started, and says why.
func (e *examination) probeDoesHarm() bool {
	if e.noProbe == "" {
		return false
	}
	e.warn("not tried: "+e.noProbe, "do what gate-user says, and then "+e.again())
	return true
}

// probe starts a container as a user of the hooks would.
func (e *examination) probe() {
	if e.noPodman {
		return
	}
	if e.probeDoesHarm() {
		return
	}
	if e.registered("prestart") == nil {
		return // reported already
	}

	project := e.probeProject()
	switch {
	case project == "":
		e.warn("not tried: no project that the hooks admit is known", e.again("--project", "P"))
		return
	case !e.settings.Admits(project):
		e.broken(fmt.Sprintf("the hooks do not admit project %s, only %s", project, strings.Join(e.settings.AllowProjects, " ")),
			"if they should: "+e.ourselves(append([]string{"install"}, allowing(append(slices.Clone(e.settings.AllowProjects), project))...)...))
		return
	}

	name := probeName + rand.Text()[:8]
	p, err := e.runProbe(name, project)
	if err != nil {
		e.broken(err.Error(), "TMPDIR=/var/tmp "+e.again())
		return
	}

	switch {
	case p.plain != nil:
		e.broken("not tried: podman does not start the probe's container, even without the hooks: "+p.plain.Error(), e.wayToAContainer())
		return
	case p.err != nil && !p.saw("env"):
		text := "a container with annotations does not start: " + p.err.Error()
		if reason := e.reason(name); reason != "" {
			e.broken(text+": "+reason, "fix that, and then "+e.again())
		} else {
			e.broken(text, "to learn why: "+e.why())
		}
		return
	case !p.saw("env"):
		e.broken(fmt.Sprintf("a container with annotations starts without %s/gate.env: the hooks do not run", hook.MountPath), e.install())
		return
	case e.registered("precreate") != nil && !p.saw("pointers"):
		e.broken("the precreate hook does not run", e.install())
		return
	}

	entries, err := e.tokens.Entries()
	if err != nil {
		e.broken(err.Error(), owners(e.TokenFile))
		return
	}
	if slices.ContainsFunc(entries, func(entry store.Entry) bool { return entry.Task == name }) {
		e.broken("the container is gone, but its token is not: the poststop hook does not run", e.install()+" && "+e.ourselves("reap"))
		return
	}

	e.ok("a container gets its token and loses it")
	e.probed = &p
}

// runProbe runs the probe's container. Errors of podman are in the result; all other errors are returned.
func (e *examination) runProbe(name, project string) (probed, error) {
	p := probed{project: project}
	directory, err := os.MkdirTemp("", probeName)
	if err != nil {
		return p, err
	}
	defer os.RemoveAll(directory)
	if err := os.Chmod(directory, 0o755); err != nil { // the container's root may be another user here
		return p, err
	}

	run := []string{"run", "--rm", "--name", name, "--timeout", "60"}
	annotations := []string{
		"--annotation", hook.ProjectAnnotation + "=" + project,
		"--annotation", hook.TaskAnnotation + "=" + name, // no other token has this task
	}

	way := "helper"
	if e.GateURL != "" {
		p.repository = strings.TrimSuffix(e.GateURL, "/") + "/" + project + ".git"
	}
	if strings.TrimSuffix(e.settings.URL(), "/") == strings.TrimSuffix(e.GateURL, "/") {
		way = "env"
		if e.registered("precreate") != nil {
			way = "precreate"
		}
	}

	switch {
	case e.Network != "":
		run = append(run, "--network", e.Network)
	case p.repository == "", e.atOurGate():
		run = append(run, "--network", "none")
	}

	root := []string{"--entrypoint", "", e.Image}
	if e.Image == "" {
		rootfs := filepath.Join(directory, "rootfs")
		if root, err = hostPrograms(rootfs); err != nil {
			return p, err
		}
		root = append(root, "--rootfs", rootfs)
	}

	defer func() {
		if e.ctx.Err() != nil { // an interrupt ends podman, too, but perhaps not the container
			_ = exec.Command("podman", "rm", "--force", "--ignore", "--time", "0", name).Run()
		}
	}()

	script := []string{"sh", "-c", probeScript, "probe", hook.MountPath, p.repository, way}
	out, err := e.command("podman", slices.Concat(run, annotations, root, script)...)
	p.lines, p.err = strings.Split(strings.TrimSpace(out), "\n"), err
	if err != nil && !p.saw("env") {
		_, p.plain = e.command("podman", slices.Concat(run, root, []string{"sh", "-c", ":"})...)
	}

	return p, nil
}

// wayToAContainer returns the remedy if podman does not start the probe's container.
func (e *examination) wayToAContainer() string {
	if e.Image != "" {
		if _, err := e.command("podman", "image", "exists", e.Image); err != nil {
			return printable.Shell("podman", "pull", e.Image)
		}
		return "name an image that has a shell: " + e.again("--image", "IMAGE")
	}
	if e.Network != "" {
		return "name a network that podman has, see podman network ls: " + e.again("--network", "NETWORK")
	}
	return "fix podman first; or name an image: " + e.again("--image", "IMAGE")
}

// allowing returns install's flags that admit the projects.
func allowing(patterns []string) (flags []string) {
	for _, pattern := range patterns {
		flags = append(flags, "--allow-project", pattern)
	}
	return flags
}

// probeProject returns the project that the doctor was given, or else one that the hooks admit, preferably
// one that exists. It returns "" if it finds none.
func (e *examination) probeProject() string {
	if e.Project != "" {
		return e.Project
	}
	var candidates []string
	if entries, err := e.tokens.Entries(); err == nil && e.Image == "" { // a hostile image must not get a token for a project in use
		candidates = slices.Clone(e.projects)
		for _, entry := range entries {
			candidates = append(candidates, entry.Project)
		}
	}
	for _, pattern := range e.settings.AllowProjects {
		candidates = append(candidates, strings.NewReplacer("*", "", "?", "x").Replace(pattern))
	}
	for _, project := range append(candidates, probeTask) {
		if store.CheckName(project) == nil && e.settings.Admits(project) {
			return project
		}
	}
	return ""
}

// hostPrograms makes a root file system, and returns arguments of podman run or docker run. These mount there,
// read-only, the host's programs and the files below /etc that the programs need, and nothing else of the
// host. (Rootless podman 4.3.1 cannot mount the whole host as --rootfs /:O.)
func hostPrograms(rootfs string) (args []string, err error) {
	args = []string{"--security-opt", "label=disable"} // the host's programs have no SELinux labels for containers
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

	return args, nil
}
