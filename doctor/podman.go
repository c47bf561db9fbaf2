// Checks that podman is installed and works.

package doctor

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"terok-gate-hook/engines"
)

// userNamespaces checks that podman can make the user namespaces that a rootless engine needs. Without
// subordinate ids, podman can use only one user id, and most images need more.
func (e *examination) userNamespaces() {
	if !e.Place.User || !engines.HasPodman() {
		return
	}
	uids, err := e.command("podman", "unshare", "cat", "/proc/self/uid_map")
	if err != nil {
		e.broken("podman gets no user namespace: "+err.Error(), wayToUserNamespaces())
		e.stop()
		return
	}
	if strings.Count(uids, "\n") < 2 {
		first := firstFreeID("/etc/subuid", "/etc/subgid")
		ids := fmt.Sprintf("%d-%d", first, first+65535)
		e.broken("your user has no subordinate ids (subuid(5), subgid(5))",
			asRoot("usermod", "--add-subuids", ids, "--add-subgids", ids, userName(os.Geteuid()))+"; then, as yourself: podman system migrate")
		return
	}
	e.ok("user namespaces and subordinate ids")
}

// wayToUserNamespaces returns the remedy if podman cannot make user namespaces, for the usual reasons.
func wayToUserNamespaces() string {
	if _, err := exec.LookPath("newuidmap"); err != nil {
		return packages([]string{"uidmap"}, []string{"shadow-utils"}, "install newuidmap(1)")
	}
	for _, off := range []struct{ setting, value, on string }{
		{"user.max_user_namespaces", "0", "15000"},
		{"kernel.unprivileged_userns_clone", "0", "1"},
		{"kernel.apparmor_restrict_unprivileged_userns", "1", "0"},
	} {
		value, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(off.setting, ".", "/"))
		if err == nil && strings.TrimSpace(string(value)) == off.value {
			return fmt.Sprintf("this machine does not let its users make user namespaces; to allow it, if that is what you want: %s", asRoot("sysctl", off.setting+"="+off.on))
		}
	}
	return "fix podman first; to see more: podman --log-level debug unshare true"
}

// firstFreeID returns the first id that is above all ids that these files assign, and at least 100000, the
// default of useradd(8). Two users must not share a subordinate id.
func firstFreeID(files ...string) uint64 {
	first := uint64(100000)
	for _, file := range files {
		content, _ := os.ReadFile(file) // without the file, nothing is assigned
		for line := range strings.Lines(string(content)) {
			fields := strings.Split(strings.TrimSpace(line), ":")
			if len(fields) != 3 {
				continue
			}
			start, startErr := strconv.ParseUint(fields[1], 10, 32)
			count, countErr := strconv.ParseUint(fields[2], 10, 32)
			if startErr == nil && countErr == nil {
				first = max(first, start+count)
			}
		}
	}
	return first
}

// podman checks that podman works. If there is another engine, or the containers are on other
// machines, podman need not be installed.
func (e *examination) podman() {
	if !engines.HasPodman() {
		installed, _, _ := e.Place.Registration()
		if len(e.Place.OtherEngines()) > 0 || installed.Fleet.Listen != "" {
			e.noPodman = true
			return
		}
		e.broken("podman is not installed, or not in PATH", packages([]string{"podman", "crun"}, []string{"podman", "crun"}, "install podman, and crun or runc"))
		e.stop()
		return
	}
	major, minor, err := engines.Version(e.ctx)
	if err != nil {
		e.broken(err.Error(), "fix podman first: podman version")
		e.stop()
		return
	}
	e.imagesAnnotate = engines.ImagesAnnotate(major, minor)
	e.ok(fmt.Sprintf("podman %d.%d", major, minor))
}
