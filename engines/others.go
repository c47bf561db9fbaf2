// Finds the engines other than podman that read our devices.

package engines

import (
	"os"
	"os/exec"
	"path/filepath"
)

// other is an engine other than podman.
type other struct {
	name     string
	program  string // in PATH or in /usr/sbin
	socket   string // of the system's engine
	ofUser   string // the program in rootless mode; empty if there is none that reads the user's devices
	settings string // what may be needed in the engine's settings so that it reads devices
}

var others = []other{
	{"Docker", "dockerd", "/run/docker.sock", "dockerd-rootless.sh", `before Docker 28.2, /etc/docker/daemon.json needs {"features": {"cdi": true}}`},
	{"containerd", "containerd", "/run/containerd/containerd.sock", "", "before containerd 2.0, its CRI plugin needs enable_cdi = true"},
	{"CRI-O", "crio", "/run/crio/crio.sock", "", ""},
}

// others returns the engines other than podman that read devices from this place.
func (p Place) others() (found []other) {
	for _, o := range others {
		if p.User {
			if o.ofUser != "" && p.hasOwnDocker(o.ofUser) {
				o.settings = "~/.config/docker/daemon.json needs {\"features\": {\"cdi\": true}, \"cdi-spec-dirs\": [\"" + filepath.Dir(p.Devices) + "\"]}"
				found = append(found, o)
			}
			continue
		}
		if _, err := exec.LookPath(o.program); err == nil || exists("/usr/sbin/"+o.program) || exists(o.socket) {
			found = append(found, o)
		}
	}
	return found
}

// hasOwnDocker reports whether rootless Docker's program is in PATH, or the user has set Docker up.
// (Debian's program is not in PATH.)
func (p Place) hasOwnDocker(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil || exists(filepath.Join(p.Runtime, "docker.sock")) || exists(p.unit("docker.service"))
}

// Served returns a line for each engine on this machine: how it starts containers of a project, and
// which settings it may need.
func (p Place) Served() (lines []string) {
	if HasPodman() {
		line := "podman: containers with annotations terok.project and terok.task"
		if !p.User {
			line += ", or --device " + DeviceKind + "=PROJECT from podman 4.1 on"
		}
		lines = append(lines, line)
	}
	for _, o := range p.others() {
		line := o.name + ": containers with --device " + DeviceKind + "=PROJECT"
		if o.settings != "" {
			line += " (" + o.settings + ")"
		}
		lines = append(lines, line)
	}
	return lines
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// HasPodman reports whether podman is installed.
func HasPodman() bool {
	_, err := exec.LookPath("podman")
	return err == nil
}

// OtherEngines returns the names of the engines other than podman that read devices here.
func (p Place) OtherEngines() (names []string) {
	for _, o := range p.others() {
		names = append(names, o.name)
	}
	return names
}
