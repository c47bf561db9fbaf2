package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok-gate-hook/internal/testenv"
)

// The .deb on a machine like our users'. By itself, the package activates nothing. After
// `terok-gate install`, containers clone and push. Removing the package revokes the tokens.

// A user may have put any file among the definitions. Removal reads only definitions, and
// revokes the user's tokens whatever else is there.
func TestNoFileAmongAUsersDefinitionsMakesRemovalHang(t *testing.T) {
	t.Parallel()
	testenv.Need(t, "find", "grep", "mkfifo", "truncate")

	script, err := os.ReadFile("../packaging/preremove")
	if err != nil {
		t.Fatal(err)
	}

	_, forUser, _ := strings.Cut(string(script), "for_user='")
	forUser, _, ok := strings.Cut(forUser, "'\n")
	if !ok {
		t.Fatal("packaging/preremove has no part for a user")
	}

	for name, row := range map[string]struct {
		make string // in the directory of definitions
		want string
	}{
		"a definition":  {`echo '"HOOK"' >99-terok-gate-prestart.json`, "for user:\nuninstall --revoke\n"},
		"a link to one": {`echo '"HOOK"' >it; ln -s it 99-terok-gate-prestart.json`, "for user:\nuninstall --revoke\n"},
		"a definition beside what cannot be read": {`mkfifo 99-terok-gate-a.json; ln -s 99-terok-gate-a.json 99-terok-gate-b.json; ln -s /dev/zero 99-terok-gate-c.json; mkdir 99-terok-gate-d.json; ln -s loop.json 99-terok-gate-loop.json; echo '"HOOK"' >99-terok-gate-prestart.json`, "for user:\nuninstall --revoke\n"},
		"a huge file":                  {`truncate -s 8T 99-terok-gate-a.json || truncate -s 1T 99-terok-gate-a.json`, ""},
		"a fifo alone":                 {`mkfifo 99-terok-gate-a.json`, ""},
		"another program's definition": {`echo '"/other"' >99-terok-gate-prestart.json`, ""},
		"no file":                      {"", ""},
	} {
		home := t.TempDir()
		hook, gate := filepath.Join(home, "hook"), filepath.Join(home, "gate")
		definitions := filepath.Join(home, ".config/containers/oci/podman-hooks.d")
		if err := errors.Join(os.MkdirAll(definitions, 0o700), os.WriteFile(gate, []byte("#!/bin/sh\necho \"$@\"\n"), 0o755)); err != nil {
			t.Fatal(err)
		}

		make := exec.Command("sh", "-ec", strings.ReplaceAll(row.make, "HOOK", hook))
		make.Dir = definitions
		if out, err := make.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}

		ctx, cancel := context.WithTimeout(t.Context(), testenv.AWhile)
		defer cancel()
		cmd := exec.CommandContext(ctx, "sh", "-c", forUser, "sh", hook, gate)
		cmd.WaitDelay = time.Second // a program that the script leaves behind may hold on to our pipe
		cmd.Env = []string{"HOME=" + home, "USER=user", "PATH=" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()

		said := strings.TrimPrefix(string(out), "terok-gate-hook: ")
		if err != nil || said != row.want {
			t.Errorf("%s: %v: it says %q, want %q", name, err, said, row.want)
		}
	}
}

func TestThePackageIsInstalledWorksAndIsRemoved(t *testing.T) {
	t.Parallel()
	testenv.Need(t, "dpkg", "apt-get", "make", "go", "gzip", "git", "man", "jq", "pgrep")
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
	m.addUser(t, "runner", "--system", "--add-subids-for-system") // a service's account, with a small uid

	users := []string{"alice", "runner"}
	accounts := []account{{machine: m, user: "root"}, {machine: m, user: "alice"}, {machine: m, user: "runner"}}
	for _, a := range accounts {
		m.addImage(t, a.user)
		m.must(t, "root", "loginctl enable-linger "+a.user)
	}
	m.must(t, "root", "userdel terok-gate 2>/dev/null || true") // our own machine may have this user

	// All files of the machine, except those that the package managers keep.
	const files = "find /etc /opt /srv /usr /var -xdev ! -path '/var/lib/dpkg/*' ! -path '/var/cache/*' ! -path '/var/log/*' ! -path '/var/lib/apt/*' " +
		"! -path '/var/lib/systemd/*' ! -path '/var/lib/PackageKit/*' ! -path '/var/lib/containers/*' ! -path '/etc/containers/*' | sort >"
	m.must(t, "root", "mkdir /etc/containers/containers.conf.d 2>/dev/null || true; rmdir /etc/cdi 2>/dev/null || true; "+files+"/tmp/before")
	const install = "DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends /srv/terok-gate-hook.deb"

	m.must(t, "root", install)
	out := m.must(t, "root", `man --where terok-gate-hook terok-gate terok-gate.env
		cd /usr/share/bash-completion/completions; test -e terok-gate
		ls /usr/share/terok-gate-hook/hooks.d
		getent passwd terok-gate; getent group terok-gate
		systemctl is-active `+watchUnit+" "+gateUnit+` || true
		terok-gate doctor || true`)
	for _, want := range []string{
		"/man8/terok-gate-hook.8.gz", "/man8/terok-gate.8.gz", "/man5/terok-gate.env.5.gz", "99-terok-gate-prestart.json",
		"/var/lib/terok-gate:/usr/sbin/nologin\nterok-gate:x:", "inactive\ninactive", "no hook is registered",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("after the package is installed, there is no %q: %s", want, out)
		}
	}

	for _, a := range accounts {
		a.must(t, "terok-gate install --allow-project 'dem*'")
		a.addDemo(t)
		a.must(t, a.gitter(t, "--rm --workdir /tmp")+" git clone http://127.0.0.1:9418/demo.git")
		a.start(t, "--name lives")
		a.works(t, "lives", "before")
		a.must(t, "test $(terok-gate list --json | jq length) = 1")
	}

	// Any user could have put these files into /tmp, so they do not decide what is revoked.
	m.must(t, "root", `useradd --system --home-dir /tmp --no-create-home homeless
		install -d /tmp/.config/containers/oci
		cp -r /home/alice/.config/containers/oci/podman-hooks.d /tmp/.config/containers/oci`)
	m.must(t, "root", "grep issued /var/log/terok-gate/trail.log; grep moved /var/log/terok-gate/gate/trail.log")

	// When a newer package is installed, or the same one again, nothing changes for living
	// containers.
	const service = "systemctl show -p MainPID " + gateUnit
	pid := m.must(t, "root", service)
	m.must(t, "root", "dpkg --install /srv/terok-gate-hook.deb; systemctl is-active "+gateUnit)
	if m.must(t, "root", service) == pid {
		t.Error("the service runs on with the old program")
	}
	for _, a := range accounts {
		a.works(t, "lives", "after")
	}

	m.must(t, "root", "terok-gate create --project demo --task operator >/dev/null")
	const hooks = ".config/containers/oci/podman-hooks.d"
	m.must(t, "alice", "mkfifo "+hooks+"/99-terok-gate-a.json")
	out = m.must(t, "root", "apt-get remove --yes terok-gate-hook")
	for _, want := range []string{"for root:", "for alice:", "for runner:", "operator"} {
		if !strings.Contains(out, want) {
			t.Errorf("removal does not say %q: %s", want, out)
		}
	}
	if n := strings.Count(out, "revoked tokens of containers: 1"); n != 3 || strings.Contains(out, "for homeless") {
		t.Errorf("removal revokes one token %d times, not 3 times, or believes the files in /tmp: %s", n, out)
	}

	m.must(t, "alice", "rm "+hooks+"/99-terok-gate-a.json")
	for _, user := range users {
		m.must(t, "root", fmt.Sprintf("cd /home/%s; grep -q revoked .local/state/terok-gate/trail.log; test \"$(cat .local/share/terok/sandbox/gate/tokens.json)\" = {}; "+
			"test -z \"$(find .config -name '*terok*')\"", user))
	}
	m.must(t, "root", "grep -q revoked /var/log/terok-gate/trail.log; test -z \"$(pgrep terok-gate)\"; userdel homeless; rm -r /tmp/.config")

	// The containers run on, and end like any others.
	for _, a := range accounts {
		a.must(t, "podman stop --time 0 lives; podman rm lives")
	}

	out = m.must(t, "root", "apt-get purge --yes terok-gate-hook")
	for _, want := range []string{"tokens.json is left as it is", "repos is left as it is"} {
		if !strings.Contains(out, want) {
			t.Errorf("purge does not say %q: %s", want, out)
		}
	}
	m.must(t, "root", install+"; terok-gate revoke --project demo --task operator; rm -r /var/lib/terok-gate/repos/demo.git; apt-get purge --yes terok-gate-hook")
	if out := m.must(t, "root", files+"/tmp/after; diff /tmp/before /tmp/after || true; find /etc/containers /var/log -name '*terok*'"); out != "" {
		t.Errorf("the purge leaves files of ours, or removes other files: %s", out)
	}
}
