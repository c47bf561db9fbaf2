// Finds containers that still run although podman considers them gone.

package doctor

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"terok-gate-hook/store"
)

// forgotten compares the living tokens with the containers that podman knows. A container's process can end
// its main thread and go on in another thread. Then the runtime considers the container dead and kills
// nothing. podman stop leaves the container in the state "stopping" indefinitely, and a second podman rm
// --force forgets it (seen with podman 4.3.1, crun 1.8.1 and runc 1.1.5; podman 5.4 does not forget it). The
// process is alive, so the token stays valid.
func (e *examination) forgotten() {
	if e.noPodman {
		return
	}
	living := e.livingContainers()
	if len(living) == 0 {
		e.ok("none")
		return
	}

	out, err := e.command("podman", "ps", "--all", "--format", "json")
	var known []struct{ ID, State string }
	if err = cmp.Or(err, json.Unmarshal([]byte(out), &known)); err != nil {
		e.broken("podman ps: "+err.Error(), "fix podman first")
		return
	}

	states := map[string]string{}
	for _, c := range known {
		states[c.ID] = c.State
	}

	// A container that ended while podman was asked does not count.
	still := e.livingContainers()
	fine := true
	for id, pid := range living {
		state, known := states[id]
		says := ""

		switch {
		case still[id] != pid:
			continue
		case !known:
			says = "podman does not know container " + id
		case state == "exited", state == "stopped":
			says = fmt.Sprintf("podman says that container %s is %s", id, state)
		case state == "stopping" && mainThreadEnded(pid):
			says = fmt.Sprintf("podman cannot stop container %s, whose main thread has ended", id)
		default:
			continue
		}

		fine = false
		e.warn(fmt.Sprintf("%s, but its process %d lives and holds a token; if no other engine runs the container, take its token away", says, pid),
			e.ourselves("revoke", "--container", id))
	}

	if fine {
		e.ok("none")
	}
}

// livingContainers returns, by id, the pid of each container whose token is tied to a living process.
func (e *examination) livingContainers() map[string]int {
	entries, err := e.tokens.Entries()
	if err != nil {
		return nil // reported already
	}
	living := map[string]int{}
	for _, entry := range entries {
		if entry.Container != "" && entry.State() == store.Live {
			living[entry.Container] = entry.Process.PID
		}
	}
	return living
}

// mainThreadEnded reports whether the main thread of a process has ended: the state in /proc/PID/stat is that
// of the main thread (proc_pid_stat(5)). Another thread may still run.
func mainThreadEnded(pid int) bool {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
	return strings.HasPrefix(after, "Z")
}
