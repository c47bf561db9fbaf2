package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/testenv"
)

// The units that install writes, for root and for a user, under a real systemd.

const watchUnit = "terok-gate-reap.service"

// account is a user of a machine who has podman, the hook and an image.
type account struct {
	*machine
	user      string
	systemctl string
	journal   string // matches what the service logged
	tokenFile string // the default one
	settings  string // directories that install writes to
}

// newAccounts puts the programs on the machine and returns root and alice.
func newAccounts(t *testing.T, m *machine) (root, alice account) {
	t.Helper()
	for name, build := range map[string]func() (string, error){"terok-gate-hook": hookBinary, "terok-gate": gateBinary} {
		path, err := build()
		if err != nil {
			t.Fatal(err)
		}
		m.put(t, path, "/usr/bin/"+name, 0o755)
	}
	m.addUser(t, "alice")
	root = account{
		m, "root", "systemctl", "_SYSTEMD_UNIT=" + watchUnit,
		"/var/lib/terok/sandbox/gate/tokens.json", "/etc/containers /etc/systemd /usr/lib/systemd",
	}
	alice = account{
		m, "alice", "systemctl --user", "_SYSTEMD_USER_UNIT=" + watchUnit,
		"/home/alice/.local/share/terok/sandbox/gate/tokens.json", "/home/alice/.config",
	}
	for _, a := range []account{root, alice} {
		m.addImage(t, a.user)
	}
	return root, alice
}

func (a account) must(t *testing.T, script string) string {
	t.Helper()
	return a.machine.must(t, a.user, script)
}

// install runs install, with flags before and after the command.
func (a account) install(t *testing.T, common, flags string) (said string) {
	t.Helper()
	return a.must(t, fmt.Sprintf("terok-gate %s install --allow-project 'demo*' %s", common, flags))
}

// run starts a container, which gets a token, and returns its id.
func (a account) run(t *testing.T) string {
	t.Helper()
	id := a.must(t, "podman run --detach --network none --annotation terok.project=demo --annotation terok.task=1 "+image+" sleep 600 2>/dev/null")
	return strings.TrimSpace(id)
}

// kill kills a container and its conmon, so that no process is left to run a hook.
func (a account) kill(t *testing.T, id string) {
	t.Helper()
	a.must(t, "kill -9 $(podman inspect --format '{{.State.ConmonPid}} {{.State.Pid}}' "+id+")")
}

// has reports whether a token of the container is in the token file.
func (a account) has(t *testing.T, tokenFile, id string) bool {
	t.Helper()
	content, err := os.ReadFile(a.path(tokenFile))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(content), id)
}

// revokes checks that the service revokes the token of a container that was killed together
// with its conmon, so that no hook can revoke it.
func (a account) revokes(t *testing.T, tokenFile string) (id string) {
	t.Helper()
	id = a.run(t)
	if !a.has(t, tokenFile, id) {
		t.Fatalf("%s: the container has no token in %s", a.user, tokenFile)
	}
	a.kill(t, id)
	testenv.Eventually(t, "the service of "+a.user+" revokes the dead container's token", func() bool { return !a.has(t, tokenFile, id) })
	a.eventually(t, fmt.Sprintf("journalctl --output cat --identifier terok-gate %s | grep swept.*%s", a.journal, id))
	return id
}

// healthy checks that the service runs, and that it has logged nothing but sweeps.
func (a account) healthy(t *testing.T) {
	t.Helper()
	show := a.must(t, a.systemctl+" show --property ActiveState,UnitFileState,NRestarts "+watchUnit)
	for _, want := range []string{"ActiveState=active", "UnitFileState=enabled", "NRestarts=0"} {
		if !strings.Contains(show, want+"\n") {
			t.Errorf("%s: not %s:\n%s", a.user, want, show)
		}
	}
	for line := range strings.Lines(a.machine.must(t, "root", "journalctl --quiet --output cat "+a.journal)) {
		if !strings.HasPrefix(line, "swept ") {
			t.Errorf("%s: the service says %s", a.user, line)
		}
	}
}

// files returns the files that install may have written, with their content.
func (a account) files(t *testing.T) string {
	t.Helper()
	return a.must(t, fmt.Sprintf("mkdir -p %s; find %[1]s -type f -exec sha256sum {} + -o -type l -printf '%%p %%l\\n' | sort", a.settings))
}

func TestInstallRunsAServiceThatRevokesWhenNoHookRuns(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	root, alice := newAccounts(t, m)
	for _, a := range []account{root, alice} {
		t.Run(a.user, func(t *testing.T) {
			t.Parallel()
			defer m.logIn(t, a.user)()
			before := a.files(t)
			if said := a.install(t, "", "--no-gate"); !strings.Contains(said, "started "+watchUnit) {
				t.Errorf("install says %q", said)
			}
			id := a.revokes(t, a.tokenFile)
			a.healthy(t)
			m.must(t, "root", "journalctl --output cat --identifier terok-gate-hook | grep issued.*"+id)

			runs := map[string]string{"root": "✓ service: " + watchUnit + " runs", "alice": "! service: " + watchUnit + " and your containers end when you log out"}
			if says := a.must(t, "terok-gate doctor"); !strings.Contains(says, runs[a.user]) || !strings.Contains(says, "✓ probe: ") {
				t.Errorf("doctor says %s", says)
			}
			if says := a.must(t, "terok-gate --token-file /tmp/other.json doctor || true"); !strings.Contains(says, "! service: "+watchUnit+" watches another token file than /tmp/other.json") {
				t.Errorf("doctor says %s", says)
			}
			if says := a.must(t, a.systemctl+" stop "+watchUnit+"; terok-gate doctor"); !strings.Contains(says, "! service: "+watchUnit+" does not run") {
				t.Errorf("doctor says %s", says)
			}

			// An earlier service is removed, with all its files.
			said := a.install(t, "", "--no-gate --no-watch")
			if state := a.must(t, a.systemctl+" is-active "+watchUnit+" || true"); state != "inactive\n" || !strings.Contains(said, "removed ") {
				t.Errorf("after install --no-watch the service is %s, and install says %q", state, said)
			}
			if files := a.files(t); strings.Contains(files, watchUnit) {
				t.Errorf("install --no-watch leaves the service there:\n%s", files)
			}
			if said := a.must(t, "terok-gate install"); strings.Contains(a.files(t), watchUnit) || !strings.Contains(said, "reap --watch stays off") {
				t.Errorf("the next install brings the service back: %s", said)
			}

			if said := a.must(t, "terok-gate install --no-watch=false"); !strings.Contains(said, "started "+watchUnit) {
				t.Errorf("install --no-watch=false says %q", said)
			}
			a.must(t, "terok-gate uninstall")
			if diff := cmp.Diff(before, a.files(t)); diff != "" {
				t.Errorf("uninstall leaves something (-before +after):\n%s", diff)
			}
			if state := a.must(t, a.systemctl+" show --property LoadState,ActiveState "+watchUnit); state != "LoadState=not-found\nActiveState=inactive\n" {
				t.Errorf("after uninstall systemd still knows the service: %s", state)
			}
		})
	}
}

// The token file and the log file may be at any path that root can name. The service
// revokes a container's token there.
func TestTheServiceReachesTokenFileAndLogWhereverTheyAre(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	root, _ := newAccounts(t, m)
	m.must(t, "root", "useradd --system --create-home --home-dir /var/lib/gate gate; chmod 700 /var/lib/gate")

	for _, row := range []struct{ name, prepare, tokenFile, log string }{
		{"in a directory that does not exist yet, and in root's home", "", "/srv/gate/new/tokens.json", "/root/log"},
		{"among temporary files", "mkdir /tmp/gate", "/tmp/gate/tokens.json", "/var/tmp/log"},
		{"the gate's, and in another user's home", "cd /var/lib/gate; echo {} >tokens.json; chown gate:gate tokens.json; chmod 640 tokens.json",
			"/var/lib/gate/tokens.json", "/home/alice/log"},
		{"in a directory with an odd name", `mkdir -p "$(printf '/srv/o\302\240d \\\\d%%i')"`, "/srv/o\u00a0d \\d%i/tokens.json", "/var/log/odd.log"},
		{"in a directory that is gone at the next boot", "mkdir /run/gate", "/run/gate/tokens.json", "/var/log/terok-gate.log"},
	} {
		t.Run(row.name, func(t *testing.T) {
			root.must(t, row.prepare)
			// The previous row's service still runs, with the previous files.
			root.install(t, "--token-file "+printable.Shell(row.tokenFile)+" --log-file "+row.log, "--no-gate")

			owner := "stat --format '%U:%G %a' " + printable.Shell(row.tokenFile) + " || true"
			before := root.must(t, owner)
			id := root.revokes(t, row.tokenFile)
			for _, event := range []string{"issued", "swept"} {
				root.must(t, fmt.Sprintf("grep '\"event\":\"%s\".*%s' %s", event, id, row.log))
			}

			root.healthy(t)
			if after := root.must(t, owner); strings.HasPrefix(before, "gate:") && after != before {
				t.Errorf("the token file was %s and is %s", before, after)
			}
		})
	}

	m.off(t)
	m.boot(t)
	root.revokes(t, "/run/gate/tokens.json")
	root.healthy(t)
}

// Without lingering, a user's containers end with the user's last session. The service then
// ends, too, but after the containers.
func TestAUsersServiceOutlivesTheUsersContainers(t *testing.T) {
	t.Parallel()
	m := newMachine(t)

	// These are the times that systemd waits for more sessions, and for processes that
	// ignore SIGTERM, as sleep does in a container.
	m.must(t, "root", `mkdir -p /etc/systemd/logind.conf.d /etc/systemd/user.conf.d
		printf '[Login]\nUserStopDelaySec=1s\n' >/etc/systemd/logind.conf.d/test.conf
		printf '[Manager]\nDefaultTimeoutStopSec=2s\n' >/etc/systemd/user.conf.d/test.conf
		systemctl restart systemd-logind`)

	_, alice := newAccounts(t, m)
	const advice = "loginctl enable-linger"

	logOut := m.logIn(t, "alice")
	if said := alice.install(t, "", "--no-gate"); !strings.Contains(said, advice) {
		t.Errorf("without lingering, install says %q", said)
	}

	id := alice.run(t)
	if !alice.has(t, alice.tokenFile, id) {
		t.Fatal("the container has no token")
	}

	logOut()
	m.eventually(t, "! pgrep --euid alice")
	if alice.has(t, alice.tokenFile, id) {
		t.Error("the container ended when its user logged out, but its token is still valid")
	}

	m.must(t, "root", "loginctl enable-linger alice")
	logOut = m.logIn(t, "alice")
	installed := alice.files(t)

	// The environment is as after sudo, which passes on nothing about the user's services.
	said := m.must(t, "root", "runuser --user alice -- env --ignore-environment HOME=/home/alice PATH=$PATH sh -c 'cd; terok-gate install --no-gate --allow-project demo\\* 2>&1'")
	if strings.Contains(said, advice) || !strings.Contains(said, "started "+watchUnit) {
		t.Errorf("with lingering, install says %q", said)
	}
	if diff := cmp.Diff(installed, alice.files(t)); diff != "" {
		t.Errorf("a second install changes something (-first +second):\n%s", diff)
	}

	id = alice.run(t)
	logOut()
	m.eventually(t, "! loginctl list-sessions | grep alice | grep --invert-match manager")
	m.must(t, "root", "pgrep --euid alice --full 'reap --watch'; pgrep --euid alice --full '^sleep 600'")
	if !alice.has(t, alice.tokenFile, id) {
		t.Error("the container goes on when its user logs out, but its token is gone")
	}

	alice.kill(t, id)

	m.off(t)
	m.boot(t)
	m.eventually(t, "pgrep --euid alice --full 'reap --watch'")
	alice.revokes(t, alice.tokenFile)
	alice.healthy(t)
}

// If a container is refused, podman prints a command that shows the reason. The command
// finds it in the file that installed hooks write by default, and in the journal.
func TestARefusalHasAReasonWherePeopleLook(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	root, alice := newAccounts(t, m)
	for _, a := range []account{root, alice} {
		file := map[string]string{"root": "/var/log/terok-gate/trail.log", "alice": "/home/alice/.local/state/terok-gate/trail.log"}[a.user]
		a.install(t, "", "--no-gate")
		out, err := m.sh(a.user, "podman run --name refused --network none --annotation terok.project=demo --annotation terok.task=1 --annotation terok.acess=read "+image+" true 2>&1")
		if err == nil || !strings.Contains(out, "terok-gate why") || strings.Contains(out, "acess") {
			t.Errorf("%s: of a container that is refused podman says %v: %s", a.user, err, out)
		}

		const reason = `(refused) project "demo" task "1"
    precreate: refused: annotation "terok.acess" is not known: use `
		for _, places := range []string{"", "TEROK_GATE_LOG_FILE=/nonexistent "} {
			testenv.Eventually(t, places+"why knows of the refusal of "+a.user+"'s container", func() bool {
				_, err := m.sh(a.user, places+"terok-gate why refused")
				return err == nil
			})
			if out := a.must(t, places+"terok-gate why"); !strings.Contains(out, reason) || strings.Count(out, "precreate") != 1 {
				t.Errorf("%s: %swhy says %s", a.user, places, out)
			}
		}
		if mode := a.must(t, "stat --format '%U %a' "+file); strings.TrimSpace(mode) != a.user+" 600" {
			t.Errorf("%s: %s is %s", a.user, file, mode)
		}
		a.must(t, `terok-gate doctor | grep -q '^! log: .*annotation "terok.acess" is not known.* → more: terok-gate why$'`)
	}
}
