package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// How a rootless container reaches a gate on its host, as the README says it: tried by
// doctor, whose probe container asks the gate with git.
func TestARootlessContainerReachesAGateOnItsHost(t *testing.T) {
	t.Parallel()
	testenv.Need(t, "slirp4netns", "git", "ip")
	m := newMachine(t)
	_, alice := newAccounts(t, m)
	serve := filepath.Join(m.dir, "gate")
	build := exec.Command("go", "build", "-o", serve, "./gate/serve")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	m.put(t, serve, "/usr/bin/gate", 0o755)
	m.must(t, "root", "loginctl enable-linger alice; ip tuntap add dev eth0 mode tap; ip address add 10.9.8.7/24 dev eth0; ip link set eth0 up")
	alice.must(t, `git init --quiet --bare repos/demo.git
		systemd-run --user --quiet gate -token-file "$(terok-gate-hook path)" -repos "$HOME/repos" -listen 0.0.0.0:9418
		systemd-run --user --quiet gate -token-file "$(terok-gate-hook path)" -repos "$HOME/repos" -listen 127.0.0.1:9419`)
	alice.install(t, "", "--gate-url http://host.containers.internal:9418")
	for _, row := range []struct{ name, url, network, says string }{
		{"by podman's name for the host", "http://host.containers.internal:9418", "slirp4netns", "✓ gate: "},
		{"not on the host's loopback", "http://host.containers.internal:9419", "slirp4netns", "✗ gate: "},
		{"on the host's loopback, if that was opened", "http://10.0.2.2:9419", "slirp4netns:allow_host_loopback=true", "✓ gate: "},
		{"in the host's network", "http://127.0.0.1:9419", "host", "✓ gate: "},
		{"not without a network", "http://127.0.0.1:9419", "none", "✗ gate: "},
	} {
		said, err := m.sh("alice", "terok-gate-hook doctor --gate-url "+row.url+" --network "+row.network)
		if !strings.Contains(said, "✓ probe: ") || !strings.Contains(said, row.says) {
			t.Errorf("%s: doctor says %s (%v)", row.name, said, err)
		}
	}
}
