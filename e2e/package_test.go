package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// The .deb on a machine like our users': it activates nothing, install from it works,
// and when it goes, the tokens go with it.

func TestThePackageComesWorksAndGoes(t *testing.T) {
	t.Parallel()
	testenv.Need(t, "dpkg", "apt-get", "make", "go", "gzip", "git", "man", "jq", "logrotate", "pgrep")
	m := newMachine(t)
	if out, err := exec.Command("make", "--no-print-directory", "--silent", "-C", "..", "packages").CombinedOutput(); err != nil {
		t.Fatalf("make packages: %v\n%s", err, out)
	}
	debs, _ := filepath.Glob("../dist/*.deb")
	if len(debs) != 1 {
		t.Fatalf("packages are %q", debs)
	}
	m.put(t, debs[0], "/srv/terok-gate-hook.deb", 0o644)
	m.addUser(t, "alice")
	m.addUser(t, "runner", "--system", "--add-subids-for-system") // a service's, with a small uid
	users := []string{"alice", "runner"}
	m.addImage(t, "root")
	for _, user := range users {
		m.addImage(t, user)
		m.must(t, "root", "loginctl enable-linger "+user)
	}
	// What is on the machine, but for what the packages' own programs keep.
	const files = "find / -xdev ! -path '/var/lib/dpkg/*' ! -path '/var/cache/*' ! -path '/var/log/*' ! -path '/var/lib/apt/*' " +
		"! -path '/root/*' ! -path '/var/lib/systemd/*' ! -path '/var/lib/PackageKit/*' ! -path '/var/lib/logrotate/*' ! -path '/var/lib/containers/*' ! -path '/etc/containers/*' | sort >"
	m.must(t, "root", "mkdir /etc/containers/containers.conf.d 2>/dev/null || true; "+files+"/tmp/before")
	const install = "DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends /srv/terok-gate-hook.deb"

	m.must(t, "root", install)
	out := m.must(t, "root", `man --where terok-gate-hook terok-gate.env
		ls /usr/share/bash-completion/completions/terok-gate-hook /usr/share/terok-gate-hook/hooks.d
		systemctl is-active `+watchUnit+` || true
		terok-gate-hook doctor || true`)
	for _, want := range []string{"/man8/terok-gate-hook.8.gz", "/man5/terok-gate.env.5.gz", "99-terok-gate-prestart.json", "inactive", "no hook is registered"} {
		if !strings.Contains(out, want) {
			t.Errorf("the package comes, and there is no %q: %s", want, out)
		}
	}

	const registers = "terok-gate-hook --log-file %s install --allow-project 'dem*'; "
	const runs = "podman run --detach --name lives --network none --annotation terok.project=demo --annotation terok.task=1 " + image + " sleep 600; " +
		"podman exec lives grep -q TEROK_GATE_TOKEN /run/terok/gate.env; test $(terok-gate-hook list --json | jq length) = 1; "
	m.must(t, "root", strings.Replace(registers, "%s", "/var/log/terok-gate-hook.log", 1)+runs)
	for _, user := range users {
		m.must(t, user, strings.Replace(registers, "%s", "$HOME/audit.log", 1)+runs)
	}
	// Anybody could have put these there: nobody's word on what is to be revoked.
	m.must(t, "root", `useradd --system --home-dir /tmp --no-create-home homeless
		install -d /tmp/.config/containers/oci
		cp -r /home/alice/.config/containers/oci/podman-hooks.d /tmp/.config/containers/oci`)
	m.must(t, "root", "logrotate --force /etc/logrotate.d/terok-gate-hook; test -e /var/log/terok-gate-hook.log.1")

	// A newer package, or the same again: nothing changes for what lives.
	const service = "systemctl show -p MainPID " + watchUnit
	pid := m.must(t, "root", service)
	m.must(t, "root", "dpkg --install /srv/terok-gate-hook.deb; systemctl is-active "+watchUnit)
	if m.must(t, "root", service) == pid {
		t.Error("the service runs on with the old program")
	}
	m.must(t, "alice", "test $(terok-gate-hook list --json | jq length) = 1")

	m.must(t, "root", "terok-gate-hook create --project demo --task operator >/dev/null")
	out = m.must(t, "root", "apt-get remove --yes terok-gate-hook")
	for _, want := range []string{"for root:", "for alice:", "for runner:", "operator"} {
		if !strings.Contains(out, want) {
			t.Errorf("removal does not say %q: %s", want, out)
		}
	}
	if n := strings.Count(out, "revoked tokens of containers: 1"); n != 3 || strings.Contains(out, "for homeless") {
		t.Errorf("removal revokes %d times one token, not thrice, or believes what is in /tmp: %s", n, out)
	}
	for _, user := range users {
		m.must(t, "root", fmt.Sprintf("grep -q revoked /home/%s/audit.log; ! grep demo.*1 /home/%[1]s/.local/share/terok/sandbox/gate/tokens.json; "+
			"test -z \"$(find /home/%[1]s/.config -name '*terok*')\"", user))
	}
	m.must(t, "root", "grep -q revoked /var/log/terok-gate-hook.log; ! pgrep --full 'reap --watch'; userdel homeless; rm -r /tmp/.config")
	// The containers run on, and end as any.
	for _, user := range append(users, "root") {
		m.must(t, user, "podman stop --time 0 lives; podman rm lives")
	}

	out = m.must(t, "root", "apt-get purge --yes terok-gate-hook")
	if !strings.Contains(out, "left as it is") {
		t.Errorf("purge says nothing of the operator's token: %s", out)
	}
	m.must(t, "root", install+"; terok-gate-hook revoke --project demo --task operator; apt-get purge --yes terok-gate-hook")
	if out := m.must(t, "root", files+"/tmp/after; diff /tmp/before /tmp/after || true; find /etc/containers /var/log -name '*terok*'"); out != "" {
		t.Errorf("purged, it leaves or takes %s", out)
	}
}
