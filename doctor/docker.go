// Checks that Docker reads the file of devices.

package doctor

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/printable"
)

// dockerInfo is a part of what docker info prints. DiscoveredDevices is there from Docker 28.2 on.
type dockerInfo struct {
	ServerVersion     string
	CDISpecDirs       []string
	DiscoveredDevices []struct{ ID string }
}

// docker asks the daemon, if there is one, whether it reads our devices.
func (e *examination) docker() {
	if !slices.Contains(e.Place.OtherEngines(), "Docker") {
		return
	}
	if _, err := exec.LookPath("docker"); err != nil {
		e.warn("not asked: the command docker is missing", packages([]string{"docker-cli"}, []string{"docker-cli"}, "install it"))
		e.stop()
		return
	}

	var info dockerInfo
	out, err := e.command("docker", e.dockerArgs("info", "--format", "{{json .}}")...)
	if err == nil {
		err = json.Unmarshal([]byte(out), &info)
	}
	if err != nil || info.ServerVersion == "" {
		e.warn(fmt.Sprintf("Docker does not answer at %s: %s", e.dockerSocket(), dockerError(out, err)), e.startDocker("start"))
		e.stop()
		return
	}
	if text, remedy := e.dockerReads(info); text != "" {
		e.otherBroken(text, remedy)
		e.stop()
		return
	}
	e.ok("Docker " + info.ServerVersion + " reads " + filepath.Dir(e.Place.Devices))
}

// dockerReads returns why a daemon does not read our devices, and the remedy. Both are empty if the daemon
// reads them.
func (e *examination) dockerReads(info dockerInfo) (text, remedy string) {
	version, dir := "Docker "+info.ServerVersion, filepath.Dir(e.Place.Devices)
	var major, minor int
	_, err := fmt.Sscanf(info.ServerVersion, "%d.%d", &major, &minor)
	switch {
	case err == nil && major < 25:
		return version + " reads no devices, and Docker 25 or later does", "install Docker 25 or later"
	case len(info.CDISpecDirs) == 0:
		return version + " reads no devices: its setting features.cdi is off", e.setDocker(true, nil)
	case !slices.Contains(info.CDISpecDirs, dir):
		return fmt.Sprintf("%s reads devices in %s, not in %s", version, strings.Join(info.CDISpecDirs, " and "), dir),
			e.setDocker(false, info.CDISpecDirs)
	}

	listed := func(project string) bool {
		return slices.ContainsFunc(info.DiscoveredDevices, func(d struct{ ID string }) bool { return d.ID == engines.DeviceKind+"="+project })
	}
	if major > 28 || major == 28 && minor >= 2 {
		for _, project := range e.devicesOf {
			if !listed(project) {
				return fmt.Sprintf("%s does not list %s=%s", version, engines.DeviceKind, project), e.install()
			}
		}
	}
	return "", ""
}

// setDocker returns the remedy that makes the daemon read our devices: a command if Docker has no settings
// yet, otherwise the settings to add. features says whether to set features.cdi; others are the directories
// that the daemon already reads.
func (e *examination) setDocker(features bool, others []string) string {
	var settings []string
	if features {
		settings = append(settings, `"features": {"cdi": true}`)
	}
	if e.Place.User || len(others) > 0 {
		dirs, _ := json.Marshal(append(others, filepath.Dir(e.Place.Devices))) // strings can always be marshalled
		settings = append(settings, `"cdi-spec-dirs": `+string(dirs))
	}

	file, words := e.dockerSettings(), strings.Join(settings, ", ")
	if info, err := os.Stat(file); err == nil && info.Size() > 0 {
		return fmt.Sprintf("in %s, add %s; then: %s", printable.Shell(file), words, e.startDocker("restart"))
	}
	return fmt.Sprintf("%s && echo %s >%s && %s", printable.Shell("mkdir", "-p", filepath.Dir(file)), printable.Shell("{"+words+"}"),
		printable.Shell(file), e.startDocker("restart"))
}

// dockerSettings returns the usual path of the daemon's settings.
func (e *examination) dockerSettings() string {
	if e.Place.User {
		return filepath.Join(filepath.Dir(filepath.Dir(e.Place.Devices)), "docker/daemon.json")
	}
	return "/etc/docker/daemon.json"
}

// dockerSocket returns the socket of the system's daemon or, for a rootless engine, of the user's daemon.
func (e *examination) dockerSocket() string {
	if e.Place.User {
		return filepath.Join(e.Place.Runtime, "docker.sock")
	}
	return "/run/docker.sock"
}

// dockerArgs returns the arguments of a docker command, after the flag for the daemon's socket. The flag
// overrides the user's docker context.
func (e *examination) dockerArgs(args ...string) []string {
	return append([]string{"--host", "unix://" + e.dockerSocket()}, args...)
}

func (e *examination) startDocker(verb string) string {
	if !e.Place.Systemd {
		return verb + " dockerd"
	}
	return e.systemctl("docker.service", verb)
}

// dockerError returns why docker info failed. An error of the daemon is in the output.
func dockerError(out string, err error) string {
	var info struct{ ServerErrors []string }
	if json.Unmarshal([]byte(out), &info) == nil && len(info.ServerErrors) > 0 {
		return info.ServerErrors[0]
	}
	if err != nil {
		return err.Error()
	}
	return "it does not say its version"
}

// otherBroken reports that an engine other than podman does not read our devices. If podman is here, too, the
// finding is only a warning: perhaps the other engine need not read them.
func (e *examination) otherBroken(text, remedy string) {
	if e.noPodman {
		e.broken(text, remedy)
		return
	}
	e.warn(text, remedy)
}
