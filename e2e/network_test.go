package e2e

import (
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// ways are the ways in which a rootless container reaches a gate on its host, as
// docs/other-gates.md gives them. On port 9418 a gate listens on all addresses, on port
// 9419 on loopback alone.
var ways = []struct {
	name         string
	url, network string
	reaches      bool
	podmans
}{
	{name: "podman's own choice, by podman's name for the host", url: "http://host.containers.internal:9418", reaches: true},
	{name: "podman's own choice, not the host's loopback", url: "http://host.containers.internal:9419"},

	{name: "slirp4netns, by podman's name for the host", url: "http://host.containers.internal:9418",
		network: "slirp4netns", reaches: true, podmans: podmans{until: [2]int{6, 0}}},
	{name: "slirp4netns, not the host's loopback", url: "http://host.containers.internal:9419",
		network: "slirp4netns", podmans: podmans{until: [2]int{6, 0}}},
	{name: "slirp4netns, the host's loopback if that was opened", url: "http://10.0.2.2:9419",
		network: "slirp4netns:allow_host_loopback=true", reaches: true, podmans: podmans{until: [2]int{6, 0}}},

	{name: "pasta, by podman's name for the host", url: "http://host.containers.internal:9418",
		network: "pasta", reaches: true, podmans: podmans{since: [2]int{5, 3}}},
	{name: "pasta, not the host's loopback", url: "http://host.containers.internal:9419",
		network: "pasta", podmans: podmans{since: [2]int{5, 3}}},
	{name: "pasta, the host's loopback if that was opened", url: "http://169.254.1.2:9419",
		network: "pasta:--map-host-loopback=169.254.1.2", reaches: true, podmans: podmans{since: [2]int{5, 3}}},

	{name: "the host's network", url: "http://127.0.0.1:9419", network: "host", reaches: true},
	{name: "no network", url: "http://127.0.0.1:9419", network: "none"},
}

// Doctor's probe container asks the gate with git.
func TestARootlessContainerReachesAGateOnItsHost(t *testing.T) {
	t.Parallel()
	testenv.Need(t, "slirp4netns", "git", "ip")
	if podmanIs(t, 5, 0) {
		testenv.Need(t, "pasta")
	}

	m := newMachine(t)
	_, alice := newAccounts(t, m)

	// pasta copies the routes of the interface that has the default route. These routes must
	// not be down.
	m.must(t, "root", `loginctl enable-linger alice
		ip link add eth0 type veth peer name elsewhere
		ip link set elsewhere up
		ip address add 10.9.8.7/24 dev eth0
		ip link set eth0 up
		ip route add default via 10.9.8.1`)

	alice.must(t, `git init --quiet --bare repos/demo.git
		systemd-run --user --quiet terok-gate --token-file "$(terok-gate path)" serve --repos "$HOME/repos" \
			--listen 0.0.0.0:9418 --listen 127.0.0.1:9419 --insecure-http`)
	alice.install(t, "", "--gate-url http://host.containers.internal:9418")
	if podmanIs(t, 5, 0) {
		if own := strings.TrimSpace(alice.must(t, "podman info --format '{{.Host.RootlessNetworkCmd}}'")); own != "pasta" {
			t.Errorf("podman's own choice is %s", own)
		}
	}

	for _, way := range ways {
		if !way.haveOurs(t) {
			continue
		}
		doctor := []string{"terok-gate", "doctor", "--gate-url", way.url}
		if way.network != "" {
			doctor = append(doctor, "--network", way.network)
		}
		says := "✗ gate: "
		if way.reaches {
			says = "✓ gate: "
		}

		said, err := m.sh("alice", strings.Join(doctor, " "))
		if !strings.Contains(said, "✓ probe: ") || !strings.Contains(said, says) {
			t.Errorf("%s: doctor says %s (%v)", way.name, said, err)
		}
	}
}
