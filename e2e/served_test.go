package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/internal/testenv"
)

// The gate as install sets it up, on a machine with a real systemd: from nothing to the
// first clone, and through all that can happen to the gate while containers live.

const gateUnit = "terok-gate.service"

// newGateAccounts is newAccounts, with the gate's program beside the hook's. Alice
// lingers.
func newGateAccounts(t *testing.T, m *machine) (root, alice account) {
	t.Helper()
	testenv.Need(t, "git")
	root, alice = newAccounts(t, m)
	path, err := gateBinary()
	if err != nil {
		t.Fatal(err)
	}
	m.put(t, path, "/usr/bin/terok-gate", 0o755)
	m.must(t, "root", "getent passwd terok-gate >/dev/null && userdel terok-gate || true; rm -rf /var/lib/terok-gate; loginctl enable-linger alice")
	return root, alice
}

// installGate runs install, and makes a project demo.
func (a account) installGate(t *testing.T, common, flags string) (said string) {
	t.Helper()
	if a.user == "root" {
		a.must(t, "useradd --system --user-group --home-dir /var/lib/terok-gate --shell /usr/sbin/nologin terok-gate")
	}
	said = a.install(t, common, flags)
	a.addDemo(t)
	return said
}

// addDemo makes a project of a repository of the user's.
func (a account) addDemo(t *testing.T) {
	t.Helper()
	a.must(t, `export GIT_AUTHOR_NAME=a GIT_COMMITTER_NAME=a EMAIL=a@example.org
		mkdir -p ~/src; git init --quiet --initial-branch=main ~/src/demo; git -C ~/src/demo commit --quiet --allow-empty --message begin
		terok-gate add demo ~/src/demo`)
}

// gitter is podman run for a container of ours without a network, whose image has git.
func (a account) gitter(t *testing.T, flags string) string {
	t.Helper()
	return "podman run --network none --annotation terok.project=demo --annotation terok.task=1 " +
		"--env GIT_AUTHOR_NAME=a --env GIT_COMMITTER_NAME=a " + strings.Join(withGitAlone(t), " ") + " " + flags + " " + image
}

// start starts a container that lives on, and returns its id.
func (a account) start(t *testing.T, flags string) string {
	t.Helper()
	return strings.TrimSpace(a.must(t, a.gitter(t, "--detach "+flags)+" sleep 600 2>/dev/null"))
}

// works checks that git fetches and pushes in a running container.
func (a account) works(t *testing.T, id, branch string) {
	t.Helper()
	a.must(t, fmt.Sprintf(`podman exec %s sh -ec 'set -a; . /run/terok/gate.env; cd /dev/shm; rm -rf w; git clone --quiet $CODE_REPO w; cd w
		git commit --quiet --allow-empty --message work; git push --quiet origin HEAD:refs/heads/%s'`, id, branch))
}

func TestInstallSetsTheGateUpToo(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	root, alice := newGateAccounts(t, m)
	for _, a := range []account{root, alice} {
		t.Run(a.user, func(t *testing.T) {
			t.Parallel()
			defer m.logIn(t, a.user)()
			before := a.files(t)
			if a.user == "root" {
				out, err := m.sh("root", "terok-gate-hook install --allow-project 'demo*'")
				_, remedy, _ := strings.Cut(strings.TrimSpace(out), "and there is none: ")
				if err == nil || remedy == "" || a.files(t) != before {
					t.Fatalf("without the gate's user, install says %q", out)
				}
				a.must(t, remedy)
			}

			// The main job.
			said := a.install(t, "", "")
			if !strings.Contains(said, "started "+gateUnit) || strings.Contains(said, watchUnit) {
				t.Errorf("install says %q", said)
			}
			a.addDemo(t)
			const clone = "git clone http://127.0.0.1:9418/demo.git"
			a.must(t, a.gitter(t, "--rm --workdir /tmp")+" "+clone)
			id := a.start(t, "")
			a.works(t, id, "work")
			if out := a.must(t, "podman exec "+id+" sh -c 'cat /sys/class/net/*/address'"); strings.Count(out, "\n") != 1 {
				t.Errorf("the container has a network: %s", out)
			}

			// The gate alone revokes what nobody else is left to.
			a.kill(t, id)
			testenv.Eventually(t, "the gate revokes the dead container's token", func() bool { return !a.has(t, a.tokenFile, id) })
			a.gateIsWell(t)

			// Again, it changes nothing; and the token is withheld if it is told so.
			installed := a.files(t)
			a.must(t, "terok-gate-hook install")
			if diff := cmp.Diff(installed, a.files(t)); diff != "" {
				t.Errorf("a second install changes something (-first +second):\n%s", diff)
			}
			a.must(t, "terok-gate-hook install --withhold-token --hashed --push 'refs/heads/{task}/**' --gate-listen 127.0.0.1:99")
			id = a.start(t, "")
			a.must(t, fmt.Sprintf(`podman exec --workdir /dev/shm %s sh -ec 'git clone --quiet http://127.0.0.1:99/demo.git; cd demo
				git commit --quiet --allow-empty --message work; git push --quiet origin HEAD:refs/heads/1/a; ! git push --quiet origin HEAD:refs/heads/2/a'`, id))
			a.must(t, "podman rm --force --time 0 "+id)

			said = a.must(t, "terok-gate-hook uninstall")
			if diff := cmp.Diff(before, a.files(t)); diff != "" {
				t.Errorf("uninstall leaves something (-before +after):\n%s", diff)
			}
			if state := a.must(t, a.systemctl+" show --property LoadState,ActiveState "+gateUnit); state != "LoadState=not-found\nActiveState=inactive\n" {
				t.Errorf("after uninstall systemd still knows the gate: %s", state)
			}
			if !strings.Contains(said, "the repositories stay, in ") {
				t.Errorf("uninstall says %q", said)
			}
			a.must(t, "terok-gate projects | grep demo; test -e "+a.tokenFile)
		})
	}
}

// gateIsWell checks that the gate runs under systemd, and what it has logged.
func (a account) gateIsWell(t *testing.T) {
	t.Helper()
	show := a.must(t, a.systemctl+" show --property ActiveState,UnitFileState,NRestarts "+gateUnit)
	for _, want := range []string{"ActiveState=active", "UnitFileState=enabled", "NRestarts=0"} {
		if !strings.Contains(show, want+"\n") {
			t.Errorf("%s: not %s:\n%s", a.user, want, show)
		}
	}
	if said := a.machine.must(t, "root", "journalctl --quiet --output cat --priority warning "+strings.ReplaceAll(a.journal, watchUnit, gateUnit)); said != "" {
		t.Errorf("%s: the gate says %s", a.user, said)
	}
}
