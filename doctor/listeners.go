// Checks that the gate serves all living containers that may use the gate.

package doctor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/store"
)

func (e *examination) listeners() {
	if e.theGate == nil {
		return
	}

	served, unserved, err := e.whoIsServed(e.settings.GateSocket, "")
	if err != nil {
		e.broken(fmt.Sprintf("the gate at %s: %v", e.settings.GateSocket, err), e.restartGate())
		return
	}

	if len(unserved) == 0 {
		e.ok(fmt.Sprintf("living containers that the gate serves: %d", len(served)))
		return
	}
	missing := e.notDisplaced(served, unserved, "", "its token")
	if len(missing) > 0 {
		e.broken("living containers without the gate: "+named(missing...), e.ourselves("attach"))
	}
}

// whoIsServed divides the living containers that may use a service into those that the program at the control
// socket serves, and the unserved ones. The service "" is the gate.
func (e *examination) whoIsServed(socket, service string) (served, unserved []store.Entry, err error) {
	for _, entry := range e.living() {
		listen := entry.Gate.ListenFor(service)
		if listen == "" {
			continue
		}
		_, err := ask(socket, control.Request{
			Container: entry.Container, Process: entry.Process, Token: entry.Token.Key(),
			Service: service, Listen: listen, Withheld: entry.Gate.Withheld,
		})
		switch {
		case err == nil:
			served = append(served, entry)
		case entry.State() != store.Live: // it ended meanwhile
		case errors.Is(err, control.Absent):
			unserved = append(unserved, entry)
		default:
			return nil, nil, err
		}
	}
	return served, unserved, nil
}

// notDisplaced returns the unserved containers in which no other program listens at the service's address.
// It reports the unserved containers in which another program listens there; exposed is what that program may
// receive. The service "" is the gate.
func (e *examination) notDisplaced(served, unserved []store.Entry, service, exposed string) (missing []store.Entry) {
	before := "the gate"
	if service != "" {
		before = "terok-gate forward"
	}
	for _, entry := range unserved {
		// In a pod, our own listener for another container may listen there.
		ours := slices.ContainsFunc(served, func(s store.Entry) bool { return network(s) == network(entry) })
		listen := entry.Gate.ListenFor(service)
		if ours || !isListenedAt(entry.Process.PID, listen) {
			missing = append(missing, entry)
			continue
		}
		e.broken(fmt.Sprintf("living container %s: another program listens at %s there and may receive %s", named(entry), listen, exposed),
			"restart the container, so that "+before+" listens there first: "+printable.Shell("podman", "restart", "--", entry.Container))
	}
	return missing
}

// network returns the network namespace of a container, or "" if it cannot be read.
func network(entry store.Entry) string {
	name, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", entry.Process.PID))
	return name
}

// living returns the entries of living containers that have the gate in their networks.
func (e *examination) living() (living []store.Entry) {
	_ = e.tokens.Each(func(entry store.Entry) { // an error was reported already
		if entry.Gate != nil && entry.State() == store.Live {
			living = append(living, entry)
		}
	})
	return living
}

// named returns the names of the first few containers, and the number of the others.
func named(entries ...store.Entry) string {
	const most = 10
	var names []string
	for i, entry := range entries {
		if i == most {
			names = append(names, fmt.Sprintf("and %d more", len(entries)-i))
			break
		}
		names = append(names, fmt.Sprintf("%.12s (project %s, task %s)", entry.Container, entry.Project, entry.Task))
	}
	return strings.Join(names, ", ")
}

// isListenedAt reports whether a program listens at an IPv4 address in the network namespace of a process
// (proc_pid_net(5)).
func isListenedAt(pid int, listen string) bool {
	at, err := netip.ParseAddrPort(listen)
	if err != nil || !at.Addr().Is4() {
		return false
	}

	ip := at.Addr().As4()
	address := fmt.Sprintf("%08X", binary.NativeEndian.Uint32(ip[:])) // as the tables have it
	port := fmt.Sprintf("%04X", at.Port())

	for _, table := range []string{"tcp", "tcp6"} {
		sockets, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table)) // without IPv6, there is no tcp6
		for line := range strings.Lines(string(sockets)) {
			const listens = "0A"
			fields := strings.Fields(line)
			if len(fields) < 4 || fields[3] != listens {
				continue
			}

			// A listener at all addresses listens at ours too.
			theirs, theirPort, _ := strings.Cut(fields[1], ":")
			if theirPort == port && (theirs == address || strings.Trim(theirs, "0") == "") {
				return true
			}
		}
	}
	return false
}
