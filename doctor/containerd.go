// Checks that containerd's CRI plugin reads the file of devices (CDI).

package doctor

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// containerd checks containerd's settings for pods. Docker comes with a containerd. So if Docker is
// installed, the settings are checked only if kubelet, crictl or nerdctl is installed, too.
func (e *examination) containerd() {
	others := e.Place.OtherEngines()
	talks := slices.ContainsFunc([]string{"kubelet", "crictl", "nerdctl"}, func(name string) bool {
		_, err := exec.LookPath(name)
		return err == nil
	})
	if !slices.Contains(others, "containerd") || slices.Contains(others, "Docker") && !talks {
		return
	}

	if _, err := exec.LookPath("containerd"); err != nil { // as in a pod
		e.warn("not asked: the program containerd is not in PATH", "on the machine itself: "+e.again())
		return
	}
	version, err := e.command("containerd", "--version")
	settings, settingsErr := e.command("containerd", "config", "dump")
	if err != nil || settingsErr != nil {
		e.warn("not asked: containerd config dump fails", "see why: containerd config dump")
		return
	}
	version = "containerd " + containerdVersion(version)
	if servesNoPods(settings) {
		e.ok(version + " serves no pods: its CRI plugin is disabled")
		return
	}
	if text, remedy := e.containerdReads(version, settings); text != "" {
		e.otherBroken(text, remedy)
		return
	}
	e.ok(version + " reads " + filepath.Dir(e.Place.Devices))
}

// containerdVersion returns the version, which is the third word in the output of containerd --version.
func containerdVersion(out string) string {
	words := strings.Fields(out)
	if len(words) < 3 {
		return "of unknown version"
	}
	return words[2]
}

// servesNoPods reports whether the CRI plugin is disabled, as in the containerd that comes with Docker.
// settings is the output of containerd config dump.
func servesNoPods(settings string) bool {
	return regexp.MustCompile(`(?m)^disabled_plugins = \[[^\]]*cri`).MatchString(settings)
}

// containerdReads returns why the CRI plugin does not read our devices, and the remedy. Both are empty if the
// plugin reads them. settings is the output of containerd config dump.
func (e *examination) containerdReads(version, settings string) (text, remedy string) {
	restart := "restart containerd"
	if e.Place.Systemd {
		restart = e.systemctl("containerd.service", "restart")
	}
	plugin := "io.containerd.grpc.v1.cri"
	if strings.Contains(settings, "io.containerd.cri.v1.runtime") {
		plugin = "io.containerd.cri.v1.runtime"
	}
	set := func(line string) string {
		return fmt.Sprintf(`in /etc/containerd/config.toml, below [plugins.%q], set %s; then: %s`, plugin, line, restart)
	}

	dir := filepath.Dir(e.Place.Devices)
	dirs := regexp.MustCompile(`(?m)^\s*cdi_spec_dirs = \[(.*)\]`).FindStringSubmatch(settings)
	switch {
	case dirs == nil:
		return version + " reads no devices, and " + version17 + " or later does", "install " + version17 + " or later"
	case regexp.MustCompile(`(?m)^\s*enable_cdi = false`).MatchString(settings):
		return version + " reads no devices for pods: its setting enable_cdi is off", set("enable_cdi = true")
	case !strings.Contains(dirs[1], `"`+dir+`"`) && !strings.Contains(dirs[1], "'"+dir+"'"):
		return fmt.Sprintf("for pods, %s reads devices from %s, not from %s", version, dirs[1], dir), set(fmt.Sprintf("cdi_spec_dirs = [%s, %q]", dirs[1], dir))
	}
	return "", ""
}

// version17 is the first containerd whose CRI plugin reads devices.
const version17 = "containerd 1.7"
