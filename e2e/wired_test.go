package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// wired returns the same engine on a machine that has a network, which is the test's own.
// Podman may make bridges there. One interface has the default route, for slirp4netns and
// pasta to copy; it leads nowhere. program is slirp4netns or pasta if the containers'
// network needs it, else empty.
func (e *engine) wired(t *testing.T, program string) *engine {
	t.Helper()
	testenv.NeedAlone(t)
	testenv.Need(t, "unshare", "nsenter", "ip")
	if program != "" {
		testenv.Need(t, program)
		if device, err := os.Stat(tun); err != nil || device.Mode().Perm()&0o006 != 0o006 {
			testenv.Cannot(t, "%s needs %s, which not every user may open here (%v)", program, tun, err)
		}
	}

	holder := exec.Command("unshare", "--net", "sh", "-ec", `
		ip link set lo up
		ip link add eth0 type veth peer name elsewhere
		ip link set elsewhere up
		ip address add 10.9.8.7/24 dev eth0
		ip link set eth0 up
		ip route add default via 10.9.8.1
		echo ready
		exec sleep 600`)

	stdout, err := holder.StdoutPipe()
	if err == nil {
		err = holder.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { holder.Process.Kill(); holder.Wait() })
	if _, err := stdout.Read(make([]byte, 8)); err != nil {
		t.Fatalf("no network: %v", err)
	}

	other := *e
	other.wire = holder.Process.Pid
	return &other
}

// enterWire returns the arguments with which nsenter runs a command of the engine's user in
// the engine's network.
func (e *engine) enterWire() []string {
	user := "0"
	if e.asUser != nil {
		user = strconv.Itoa(int(e.asUser.Uid))
	}
	return []string{fmt.Sprintf("--net=/proc/%d/ns/net", e.wire), "--setuid", user, "--setgid", user, "--"}
}
