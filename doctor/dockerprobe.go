// Starts a container with Docker, to try a device and the gate.

package doctor

import (
	"archive/tar"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"terok-gate-hook/engines"
	"terok-gate-hook/hook"
	"terok-gate-hook/store"
)

// dockerProbe starts a container as a user of a device would.
func (e *examination) dockerProbe() {
	if !slices.Contains(e.Place.OtherEngines(), "Docker") {
		return
	}
	if e.noProbe != "" {
		e.warn("not tried: "+e.noProbe, "do that, and then "+e.again())
		return
	}
	project := e.deviceToTry()
	if project == "" {
		if e.repositoryGate() != "" {
			e.warn("not tried: the hooks admit no project by name, so none has a device", e.ourselves("install", "--allow-project")+" PROJECT, the first of the whole new list")
			return
		}
		e.warn("not tried: no project that the hooks admit has a device", e.add(e.reposDirectory(), "PROJECT")+", or PROJECT and where to copy it from: a directory or a URL")
		return
	}

	name := probeName + rand.Text()[:8]
	p, err := e.runDockerProbe(name, project)
	if err != nil {
		e.broken(err.Error(), "TMPDIR=/var/tmp "+e.again())
		return
	}

	started := p.saw("env")
	switch {
	case p.plain != nil:
		e.broken("not tried: Docker does not start such a container without a device either: "+p.plain.Error(), e.wayToADockerContainer())
		return
	case p.err != nil && !started:
		text := "a container with a device does not start: " + p.err.Error()
		if reason := e.reason(name); reason != "" {
			e.broken(text+": "+reason, "fix that, and then "+e.again())
		} else {
			e.broken(text, "to learn why: "+e.why())
		}
		return
	case !started:
		e.broken(fmt.Sprintf("a container with a device starts without %s/gate.env: the hooks do not run", hook.MountPath), e.install())
		return
	case !e.forgets(name):
		e.broken("the container is gone and its token is not: neither gate nor poststop hook removes it", e.install()+" && "+e.ourselves("reap"))
		return
	}
	e.ok("a container of Docker's gets its token and loses it")
	e.reached(&p)
}

// deviceToTry returns a project that has a device and that the hooks admit: the one that was
// asked for, or the first; empty if there is none.
func (e *examination) deviceToTry() string {
	for _, project := range e.devicesOf {
		if (e.Project == "" || e.Project == project) && e.settings.Admits(project) {
			return project
		}
	}
	return ""
}

// forgets reports whether the token of a task that has ended is removed. With Docker that
// takes up to half a second.
func (e *examination) forgets(task string) bool {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		entries, err := e.tokens.Entries()
		if err == nil && !slices.ContainsFunc(entries, func(entry store.Entry) bool { return entry.Task == task }) {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// runDockerProbe runs the probe's container. Errors of Docker are in the result; any other is
// returned.
func (e *examination) runDockerProbe(name, project string) (probed, error) {
	p := probed{project: project}
	if e.GateURL != "" {
		p.repository = strings.TrimSuffix(e.GateURL, "/") + "/" + project + ".git"
	}

	root := []string{e.Image}
	if e.Image == "" {
		directory, err := os.MkdirTemp("", probeName)
		if err != nil {
			return p, err
		}
		defer os.RemoveAll(directory)

		var image string
		if root, image, err = e.importHost(directory); err != nil {
			p.err, p.plain = err, err
			return p, nil
		}
		defer func() { _ = exec.Command("docker", e.dockerArgs("image", "rm", image)...).Run() }()
	}

	network := e.Network
	if network == "" && e.atOurGate() {
		network = "none"
	}
	run := []string{"run", "--rm", "--name", name, "--entrypoint", "", "--pull", "never"}
	if network != "" {
		run = append(run, "--network", network)
	}
	device := []string{"--device", engines.DeviceKind + "=" + project, "--annotation", hook.TaskAnnotation + "=" + name} // no other token has this task

	defer func() {
		if e.ctx.Err() != nil { // we were interrupted, and docker run with us
			_ = exec.Command("docker", e.dockerArgs("rm", "--force", name)...).Run()
		}
	}()

	script := []string{"sh", "-c", probeScript, "probe", hook.MountPath, p.repository, "precreate"} // a device sets variables, as that stage does
	out, err := e.command("docker", e.dockerArgs(slices.Concat(run, device, root, script)...)...)
	p.lines, p.err = strings.Split(strings.TrimSpace(out), "\n"), err
	if err != nil && !p.saw("env") {
		_, p.plain = e.command("docker", e.dockerArgs(slices.Concat(run, root, []string{"sh", "-c", ":"})...)...)
	}
	return p, nil
}

// importHost makes an image of the root file system for the host's programs. It returns the arguments
// with which docker run mounts the programs there, the image last, and the image.
func (e *examination) importHost(directory string) (root []string, image string, err error) {
	rootfs := filepath.Join(directory, "rootfs")
	if root, err = hostPrograms(rootfs); err != nil {
		return nil, "", err
	}
	file, err := os.Create(rootfs + ".tar")
	if err != nil {
		return nil, "", err
	}
	defer file.Close()
	archive := tar.NewWriter(file)
	if err := archive.AddFS(os.DirFS(rootfs)); err != nil {
		return nil, "", err
	}
	if err := archive.Close(); err != nil {
		return nil, "", err
	}

	image, err = e.command("docker", e.dockerArgs("import", file.Name())...)
	image = strings.TrimSpace(image)
	return append(root, image), image, err
}

// wayToADockerContainer returns the remedy if Docker does not start the probe's container.
func (e *examination) wayToADockerContainer() string {
	if e.Image != "" {
		return "name an image that Docker has and that has a shell: " + e.again("--image", "IMAGE")
	}
	return "fix Docker first; or name an image that it has: " + e.again("--image", "IMAGE")
}
