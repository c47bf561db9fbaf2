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
	if e.probeDoesHarm() {
		return
	}
	project := e.deviceToTry()
	if project == "" {
		if e.repositoryGate() != "" {
			e.warn("not tried: the hooks admit no project by name, so none has a device", e.ourselves("install", "--allow-project")+" PROJECT, with this flag for each project: the new list replaces the old one")
			return
		}
		e.warn("not tried: no project that the hooks admit has a device", e.add(e.reposDirectory(), "PROJECT")+", and append the directory or URL of an existing repository, if there is one")
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
		e.broken("not tried: Docker does not start the probe's container, even without a device: "+p.plain.Error(), e.wayToADockerContainer())
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
		e.broken("the container is gone, but its token is not: neither the gate nor the poststop hook removes it", e.install()+" && "+e.ourselves("reap"))
		return
	}
	e.ok("a Docker container gets its token and loses it")
	e.reached(&p)
}

// deviceToTry returns the first project that has a device and that the hooks admit, or "" if there is none.
// If the doctor was given a project, no other counts.
func (e *examination) deviceToTry() string {
	for _, project := range e.devicesOf {
		if (e.Project == "" || e.Project == project) && e.settings.Admits(project) {
			return project
		}
	}
	return ""
}

// forgets reports whether the token of a task that has ended is removed within 5 seconds. With Docker, the
// removal takes up to half a second.
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

// runDockerProbe runs the probe's container. It returns an error if it cannot make a temporary directory. All
// other errors are in the result.
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
		if e.ctx.Err() != nil { // an interrupt ends docker run, too, but perhaps not the container
			_ = exec.Command("docker", e.dockerArgs("rm", "--force", name)...).Run()
		}
	}()

	script := []string{"sh", "-c", probeScript, "probe", hook.MountPath, p.repository, "precreate"} // a device sets the same variables as the precreate hook
	out, err := e.command("docker", e.dockerArgs(slices.Concat(run, device, root, script)...)...)
	p.lines, p.err = strings.Split(strings.TrimSpace(out), "\n"), err
	if err != nil && !p.saw("env") {
		_, p.plain = e.command("docker", e.dockerArgs(slices.Concat(run, root, []string{"sh", "-c", ":"})...)...)
	}
	return p, nil
}

// importHost makes an image with the root file system of [hostPrograms], and returns this image.
// The result root holds arguments for docker run: they mount the host's programs, and the last of
// them is the image.
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
