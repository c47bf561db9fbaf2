// Checks that terok-nri, which gives pods the gate, is connected to the engine of a Kubernetes node.

package doctor

import (
	"os"
	"path/filepath"
	"strings"

	"terok-gate-hook/internal/owner"
)

// nri checks the plugin where a kubelet runs.
func (e *examination) nri() {
	if e.Place.User || ofRoot("kubelet") == "" {
		return
	}
	plugin := ofRoot("terok-nri")
	switch {
	case plugin == "":
		e.warn("a kubelet runs, but terok-nri does not: pods that ask for a project start without a gate", "kubectl --namespace terok rollout status daemonset/terok-node")
	case !connectedToEngine(plugin):
		e.broken("terok-nri runs, but is not connected to the engine: pods that ask for a project start without a gate", "kubectl --namespace terok logs daemonset/terok-node --container nri")
	default:
		e.ok("terok-nri is connected to the engine")
	}
}

// ofRoot looks for a process that has this name and runs as root. It returns the process's
// directory in /proc, or "" if there is no such process. A process in another pid namespace does
// not count: it may be in a container that is itself a node, as with kind (Kubernetes in Docker).
func ofRoot(name string) (process string) {
	ours, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range processes {
		comm, err := os.ReadFile(filepath.Join(process, "comm"))
		if err != nil || strings.TrimSpace(string(comm)) != name {
			continue
		}
		info, err := os.Stat(process)
		namespace, nsErr := os.Readlink(filepath.Join(process, "ns/pid"))
		if err == nil && nsErr == nil && owner.UID(info) == 0 && namespace == ours {
			return process
		}
	}
	return ""
}

// connectedToEngine reports whether NRI's socket has a connection from the network namespace of the process.
// The engine's end of a connection has the socket's path, and the kernel lists this end in the network
// namespace of the program that has connected (proc_net(5); Linux 6.18).
func connectedToEngine(process string) bool {
	const connected = "03"
	sockets, _ := os.ReadFile(filepath.Join(process, "net/unix"))
	for line := range strings.Lines(string(sockets)) {
		fields := strings.Fields(line)
		if len(fields) == 8 && fields[5] == connected && strings.HasSuffix(fields[7], "/run/nri/nri.sock") {
			return true
		}
	}
	return false
}
