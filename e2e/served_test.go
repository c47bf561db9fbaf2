package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/testenv"
)

// The gate as install sets it up, on a machine with a real systemd: from nothing to the
// first clone, and through all that can happen to the gate while containers live.

const gateUnit = "terok-gate.service"

// newGateAccounts is newAccounts for an installation with the gate. Alice lingers.
func newGateAccounts(t *testing.T, m *machine) (root, alice account) {
	t.Helper()
	testenv.Need(t, "git")
	root, alice = newAccounts(t, m)
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

// addDemo makes the project demo from a repository of the user's.
func (a account) addDemo(t *testing.T) {
	t.Helper()
	a.must(t, `export GIT_AUTHOR_NAME=a GIT_COMMITTER_NAME=a EMAIL=a@example.org
		mkdir -p ~/src; git init --quiet --initial-branch=main ~/src/demo; git -C ~/src/demo commit --quiet --allow-empty --message begin
		terok-gate add demo ~/src/demo`)
}

// gitter returns a command that runs a container with our annotations and git, and without a
// network.
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

// devices checks that podman takes a project as a device, for containers and for builds.
// Podman reads only root's devices.
func (a account) devices(t *testing.T) {
	t.Helper()
	device := " --network none --device terok.dev/project=demo " + strings.Join(withGitAlone(t), " ") + " "
	const list = "git ls-remote http://127.0.0.1:9418/demo.git"
	a.must(t, "podman run --rm"+device+image+" "+list+" main | grep main")
	out, err := a.sh(a.user, `context=$(mktemp -d); printf 'FROM `+image+`\nRUN `+list+` main | grep main\n' >$context/Containerfile
		TMPDIR=/dev/shm podman build --quiet`+device+`$context`)
	if buildsWithDevices(t) != (err == nil) {
		t.Errorf("podman build with a device: %v\n%s", err, out)
	}
	id := strings.TrimSpace(a.must(t, "podman run --detach"+device+image+" sleep 600 2>/dev/null"))
	a.must(t, "podman exec "+id+" "+list+" main | grep main && podman rm --force --time 0 "+id)
	a.must(t, "! podman run --rm --network none --device terok.dev/project=other "+image+" true")
}

// buildsWithDevices reports whether this podman's build takes devices (CDI), as 5.4 does and 4.3
// does not.
func buildsWithDevices(t *testing.T) bool {
	t.Helper()
	major, _, err := engines.Version(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return major >= 5
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
				out, err := m.sh("root", "terok-gate install --allow-project 'demo*'")
				_, remedy, _ := strings.Cut(strings.TrimSpace(out), "which does not exist: ")
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
			if a.user == "root" {
				a.devices(t)
			}
			id := a.start(t, "")
			a.works(t, id, "work")
			if out := a.must(t, "podman exec "+id+" sh -c 'cat /sys/class/net/*/address'"); strings.Count(out, "\n") != 1 {
				t.Errorf("the container has a network: %s", out)
			}

			// With podman's processes killed, only the gate can revoke the token.
			a.kill(t, id)
			testenv.Eventually(t, "the gate revokes the dead container's token", func() bool { return !a.has(t, a.tokenFile, id) })
			a.gateIsWell(t)

			// A second install changes nothing. After an install with --withhold-token and
			// other flags, git works with nothing sourced.
			installed := a.files(t)
			a.must(t, "terok-gate install")
			if diff := cmp.Diff(installed, a.files(t)); diff != "" {
				t.Errorf("a second install changes something (-first +second):\n%s", diff)
			}
			a.must(t, "terok-gate install --withhold-token --hashed --push 'refs/heads/{task}/**' --gate-listen 127.0.0.1:99")
			id = a.start(t, "")
			a.must(t, fmt.Sprintf(`podman exec --workdir /dev/shm %s sh -ec 'git clone --quiet http://127.0.0.1:99/demo.git; cd demo
				git commit --quiet --allow-empty --message work; git push --quiet origin HEAD:refs/heads/1/a; ! git push --quiet origin HEAD:refs/heads/2/a'`, id))
			a.must(t, "podman rm --force --time 0 "+id)

			// Upstream's commits come in by themselves.
			a.must(t, "git -C ~/src/demo -c user.name=a -c user.email=a@example.org commit --quiet --allow-empty --message more; terok-gate sync --every 1h")
			testenv.Eventually(t, "the timer brings upstream's commit in", func() bool {
				_, err := m.sh(a.user, "terok-gate who demo $(git -C ~/src/demo rev-parse HEAD) | grep 'came in by sync, to main'")
				return err == nil
			})

			said = a.must(t, "terok-gate uninstall")
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

// Root's installation was made without the gate, so its token file and log file belong to
// root. Root gives the token file to the gate, and the gate gets a log file of its own.
func TestAnInstallationWithoutTheGateGetsTheGate(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	root, _ := newGateAccounts(t, m)
	root.must(t, "useradd --system --user-group --home-dir /var/lib/terok-gate --shell /usr/sbin/nologin terok-gate")

	if said := root.install(t, "--log-file /var/log/terok-gate-hook.log", "--no-gate"); !strings.Contains(said, "started "+watchUnit) {
		t.Errorf("install --no-gate says %q", said)
	}
	before := root.start(t, "")

	if said := root.must(t, "terok-gate install"); strings.Contains(said, gateUnit) {
		t.Errorf("install without --no-gate=false sets up the gate: %q", said)
	}

	files := root.files(t)
	out, err := m.sh("root", "terok-gate install --no-gate=false")
	_, remedy, _ := strings.Cut(strings.TrimSpace(out), root.tokenFile+": ")
	if err == nil || remedy == "" || root.files(t) != files {
		t.Fatalf("install says %q, or changes something", out)
	}

	root.must(t, remedy)
	if said := root.must(t, "terok-gate install --no-gate=false"); !strings.Contains(said, "started "+gateUnit) || !strings.Contains(said, "removed ") {
		t.Errorf("after %s, install says %q", remedy, said)
	}

	root.addDemo(t)
	root.works(t, root.start(t, ""), "work")
	root.must(t, `grep '"event":"push"' /var/log/terok-gate/gate/trail.log`)
	root.must(t, `grep '"event":"issued"' /var/log/terok-gate-hook.log; ! grep '"event":"push"' /var/log/terok-gate-hook.log`)
	root.must(t, "! systemctl is-active "+watchUnit)

	root.kill(t, before)
	testenv.Eventually(t, "the gate revokes the dead container's token", func() bool { return !root.has(t, root.tokenFile, before) })
	root.gateIsWell(t)
}

// gateIsWell checks that the gate runs under systemd, and that it has logged no warning.
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

// Clients do not notice a restart of the gate: requests that are under way end well, and
// new ones wait. When the gate is killed, or stopped and started, all containers are served
// again.
func TestContainersOutliveTheGate(t *testing.T) {
	t.Parallel()
	const many = 50
	m := newMachine(t)
	root, alice := newGateAccounts(t, m)

	for _, a := range []account{root, alice} {
		t.Run(a.user, func(t *testing.T) {
			defer m.logIn(t, a.user)()
			a.installGate(t, "", "")
			a.must(t, "mkdir ~/flags")
			flags := strings.TrimSpace(a.must(t, "echo ~/flags"))

			// Each time that the next flag file appears, all containers run git at once.
			const lives = `sh -c 'for flag in meanwhile killed started; do
				until [ -e /flags/$flag ]; do sleep 0.5; done
				git ls-remote --exit-code $CODE_REPO refs/heads/main >/dev/null 2>/flags/$flag-said-$HOSTNAME && touch /flags/$flag-ok-$HOSTNAME
			done; exec sleep 600'`
			for range many / 10 {
				a.must(t, "for i in 1 2 3 4 5 6 7 8 9 10; do "+a.gitter(t, "--detach --volume ~/flags:/flags")+" "+lives+" 2>/dev/null; done")
			}

			ids := strings.Fields(a.must(t, "podman ps --quiet"))
			succeedsInAll := func(flag string) {
				t.Helper()
				if !testenv.Wait(func() bool {
					return strings.TrimSpace(a.must(t, "ls ~/flags | grep --count "+flag+"-ok || true")) == fmt.Sprint(many)
				}) {
					t.Errorf("%s: git fails: %s", flag, a.must(t, "ls ~/flags; sort ~/flags/"+flag+"-said-* | uniq --count"))
				}
			}

			// A request that takes long keeps the old gate from ending.
			slow := make(chan error, 1)
			go func() {
				_, err := m.sh(a.user, "podman exec --workdir /dev/shm "+ids[0]+` sh -ec 'mkfifo in; nc 127.0.0.1 9418 <in >out & exec 3>in
					auth="Authorization: Basic $(sed -n "s/^username=\(.*\)/\1:/p" /run/terok/credential | tr -d "\n" | base64 -w 0)"
					printf "POST /demo.git/git-upload-pack HTTP/1.1\r\nHost: 127.0.0.1:9418\r\nConnection: close\r\nGit-Protocol: version=2\r\n" >&3
					printf "%s\r\nContent-Type: application/x-git-upload-pack-request\r\nContent-Length: 24\r\n\r\n0014comman" "$auth" >&3
					touch /flags/slow; until [ -e /flags/go-on ]; do sleep 0.1; done
					printf "d=ls-refs\n0000" >&3; wait; cat out; grep -q refs/heads/main out'`)
				slow <- err
			}()

			m.eventually(t, "test -e "+flags+"/slow")
			restarted := make(chan error, 1)
			go func() {
				_, err := m.sh(a.user, a.systemctl+" restart "+gateUnit)
				restarted <- err
			}()

			m.eventually(t, a.asUser(a.systemctl+" show --property ActiveState "+gateUnit+" | grep deactivating"))
			a.must(t, "touch ~/flags/meanwhile")
			m.eventually(t, fmt.Sprintf("test $(pgrep --count git-remote-http) = %d", many))
			a.must(t, "touch ~/flags/go-on")

			if err := <-slow; err != nil {
				t.Errorf("the slow request: %v", err)
			}
			if err := <-restarted; err != nil {
				t.Error(err)
			}

			succeedsInAll("meanwhile")
			a.gateIsWell(t)

			a.must(t, a.systemctl+" kill --kill-who main --signal KILL "+gateUnit+"; touch ~/flags/killed")
			succeedsInAll("killed")
			if show := a.must(t, a.systemctl+" show --property NRestarts "+gateUnit); show != "NRestarts=1\n" {
				t.Errorf("after a kill: %s", show)
			}

			// Systemd keeps nothing for a service that was stopped.
			a.must(t, a.systemctl+" stop "+gateUnit)
			if _, err := m.sh(a.user, "podman exec "+ids[0]+" git ls-remote http://127.0.0.1:9418/demo.git"); err == nil || !strings.Contains(err.Error(), "onnect") {
				t.Errorf("there is no gate, and git says %v", err)
			}
			a.must(t, a.systemctl+" start "+gateUnit+"; touch ~/flags/started")
			succeedsInAll("started")
			a.works(t, ids[1], "after-all")

			a.must(t, "podman stop --time 0 "+strings.Join(ids, " "))
			testenv.Eventually(t, "systemd keeps nothing of containers that are gone", func() bool {
				return strings.HasSuffix(a.must(t, a.systemctl+" show --property NFileDescriptorStore "+gateUnit), "=0\n")
			})
		})
	}
}

// asUser returns a script with which root runs the user's script.
func (a account) asUser(script string) string {
	return fmt.Sprintf("runuser --login %s --command '%s'", a.user, script)
}

// Without systemd, install does the rest and says how to start the gate. Until the gate
// runs, no container with a project starts.
func TestWithoutSystemdAUserStartsTheGate(t *testing.T) {
	onRootless(t, func(t *testing.T, e *engine) {
		h := newHome(t, e)
		dir := e.tempDir(t)

		for name, build := range map[string]func() (string, error){"terok-gate-hook": hookBinary, "terok-gate": gateBinary} {
			path, err := build()
			if err == nil {
				err = copyFile(path, filepath.Join(dir, name), 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
		}

		out := h.must(t, fmt.Sprintf(`PATH=%s:$PATH
			terok-gate install --allow-project 'demo*' 2>&1
			terok-gate add demo
			run="podman run --rm --network none --annotation terok.project=demo --annotation terok.task=1 %s --rootfs %s git ls-remote --symref http://127.0.0.1:9418/demo.git HEAD"
			$run && { echo "a container starts without the gate"; exit 1; }
			terok-gate serve 2>$HOME/log & gate=$!
			trap "kill $gate; wait" EXIT
			until [ -S $XDG_RUNTIME_DIR/terok-gate/control ] || ! kill -0 $gate; do sleep 0.1; done
			$run && echo served`, dir, strings.Join(withGitAlone(t), " "), e.rootfs(t)))

		for _, want := range []string{"no container of a project starts until you run it yourself: terok-gate serve\n", "served\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("there is no %q: %s", want, out)
			}
		}
	})
}
