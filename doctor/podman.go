// Whether there is a podman that works.

package doctor

import (
	"fmt"
	"os/exec"
	"strings"

	"terok-gate-hook/podman"
)

func hasPodman() bool {
	_, err := exec.LookPath("podman")
	return err == nil
}

// userNamespaces asks podman for what a rootless engine cannot do without. Without
// subordinate ids podman makes do with one user, and most images do not.
func (e *examination) userNamespaces() {
	const install = "install uidmap (Debian) or shadow-utils (Fedora)"
	if !e.Place.User || !hasPodman() {
		return
	}
	uids, err := e.command("podman", "unshare", "cat", "/proc/self/uid_map")
	if err != nil {
		e.broken("podman gets no user namespace: "+err.Error(),
			"if it is not a matter of your files: "+install+", and see that user namespaces are allowed (sysctl -a | grep -e userns -e user_namespaces)")
		e.stop()
		return
	}
	if strings.Count(uids, "\n") < 2 {
		e.broken("your user has no subordinate ids (subuid(5), subgid(5))",
			install+", then, as root, usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER, and podman system migrate")
		return
	}
	e.ok("user namespaces and subordinate ids")
}

func (e *examination) podman() {
	if !hasPodman() {
		e.broken("podman is not installed, or not in PATH", "install podman, and crun or runc")
		e.stop()
		return
	}
	major, minor, err := podman.Version(e.ctx)
	if err != nil {
		e.broken(err.Error(), "mend podman first: podman version")
		e.stop()
		return
	}
	e.imagesAnnotate = podman.ImagesAnnotate(major, minor)
	e.ok(fmt.Sprintf("podman %d.%d", major, minor))
}
