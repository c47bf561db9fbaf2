package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/forward"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/testenv"
)

// forward starts terok-gate forward beside the gate. It ends with the test.
func (s *servedEngine) forward(t *testing.T, services ...string) {
	t.Helper()
	binary, err := gateBinary()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--token-file", s.tokenFile, "--log-file", s.log, "forward", "--control", control.ForwardSocket(s.control)}
	like, cancel := s.command(binary, append(args, services...)...)
	cancel() // "like" is only a model: it would be killed after a minute, and forward runs longer
	program := exec.Command(like.Path, like.Args[1:]...)
	program.Dir, program.Env, program.SysProcAttr = like.Dir, like.Env, like.SysProcAttr
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = program.Process.Signal(syscall.SIGTERM)
		_ = program.Wait()
	})
	testenv.Eventually(t, "the forwarder listens to hooks", func() bool {
		return exec.Command("test", "-S", control.ForwardSocket(s.control)).Run() == nil
	})
}

func TestAServiceOfTheHostIsInAContainerWithoutANetwork(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "the model")
	}))
	t.Cleanup(server.Close) // the engines' subtests run after this function has returned
	services := []string{"--service", "llm=4000:" + server.Listener.Addr().String(), "--service", "down=4001:127.0.0.1:1"}

	for _, row := range []struct {
		name string
		join func(t *testing.T, s *servedEngine) []string
	}{
		{"without a network", func(*testing.T, *servedEngine) []string { return []string{"--network", "none"} }},
		{"a pod", func(t *testing.T, s *servedEngine) []string { return []string{"--pod", s.pod(t, "none")} }},
		{"--network container:", func(t *testing.T, s *servedEngine) []string {
			return []string{"--network", "container:" + s.startedHost(t)}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			onCrunAndRunc(t, func(t *testing.T, e *engine) {
				s := e.served(t, append(services, "--allow-service", "demo=llm,down")...)
				join := append(row.join(t, s), "--annotation", "terok.services=llm down")

				early := s.create(t, gitter(t, "early", join...)...)
				if _, err := s.tryPodman("start", early.id); err == nil {
					t.Error("a container starts without a forwarder")
				}
				s.forward(t, services...)
				c := s.create(t, gitter(t, "task", join...)...)
				s.podman(t, "start", c.id)
				if err := c.inside(`test "$(http_proxy= wget --tries=1 -q -O - "$TEROK_SERVICE_LLM/v1/models")" = "the model"; ! http_proxy= wget --tries=1 -q -O - "$TEROK_SERVICE_DOWN"`); err != nil {
					t.Error(err)
				}
				s.worksIn(t, c, "task")

				other := s.create(t, append(annotations("other", "task"), join...)...)
				if _, err := s.tryPodman("start", other.id); err == nil {
					t.Error("a container of another project gets the service")
				}
			})
		})
	}
}

const forwardUnit = "terok-gate-forward.service"

// echoes makes the machine's systemd serve an echo at an address of the host, and at a unix
// socket.
func (m *machine) echoes(t *testing.T) {
	t.Helper()
	m.must(t, "root", `cd /etc/systemd/system
		printf '[Socket]\nListenStream=127.0.0.1:4000\nListenStream=/srv/db\nAccept=yes\n' >echo.socket
		printf '[Service]\nExecStart=cat\nStandardInput=socket\n' >echo@.service
		systemctl daemon-reload; systemctl start echo.socket`)
}

// hears checks that the container's echo services answer, and that only they and the gate listen
// there.
func (a account) hears(t *testing.T, id string) {
	t.Helper()
	out := a.must(t, "podman exec "+id+` sh -ec 'for port in 4000 5432; do echo $port | nc 127.0.0.1 $port; done
		awk "\$4 == \"0A\" { print \$2 }" /proc/net/tcp* | sort'`)
	if want := "4000\n5432\n0100007F:0FA0\n0100007F:1538\n0100007F:24CA\n"; out != want {
		t.Errorf("%s: in the container, the echoes and the addresses at which something listens are %q, want %q", a.user, out, want)
	}
}

// Containers without a network reach services of the host through the unit that install writes, even
// after that unit was restarted, killed, or stopped and started.
func TestServicesOfTheHostOutliveTheirForwarder(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	root, alice := newGateAccounts(t, m)
	m.echoes(t)

	for _, a := range []account{root, alice} {
		t.Run(a.user, func(t *testing.T) {
			defer m.logIn(t, a.user)()
			before := a.files(t)
			said := a.installGate(t, "", "--service llm=127.0.0.1:4000 --service db=5432:unix:/srv/db --allow-service 'demo*=llm,db'")
			if !strings.Contains(said, "started "+forwardUnit) {
				t.Errorf("install says %q", said)
			}
			id := a.start(t, "--annotation 'terok.services=llm db'")
			a.hears(t, id)
			a.works(t, id, "work")
			if says := a.must(t, "terok-gate doctor || true"); !strings.Contains(says, "✓ services: ") || !strings.Contains(says, " and reaches llm, db\n") {
				t.Errorf("doctor says %s", says)
			}

			// One connection keeps the old forwarder from ending, and another waits for the
			// new one.
			a.must(t, "podman exec "+id+` sh -ec 'cd /dev/shm; mkfifo in; (nc 127.0.0.1 4000 <in >slow) & exec 3>in
				echo one >&3; until grep -q one slow; do sleep 0.1; done
				(until [ -e go-on ]; do sleep 0.1; done; echo two >&3) >/dev/null 2>&1 &'`)
			restarted := make(chan error, 1)
			go func() {
				_, err := m.sh(a.user, a.systemctl+" restart "+forwardUnit)
				restarted <- err
			}()
			m.eventually(t, a.asUser(a.systemctl+" show --property ActiveState "+forwardUnit+" | grep deactivating"))
			a.must(t, "podman exec "+id+` sh -ec 'cd /dev/shm; (echo meanwhile | nc 127.0.0.1 5432 >meanwhile) >/dev/null 2>&1 &
				until grep -q ":1538 01" /proc/net/tcp; do sleep 0.1; done; touch go-on'`)
			if err := <-restarted; err != nil {
				t.Error(err)
			}
			m.eventually(t, a.asUser("podman exec "+id+" grep -qx meanwhile /dev/shm/meanwhile"))
			a.must(t, "podman exec "+id+" grep -qx two /dev/shm/slow")
			a.hears(t, id)
			a.forwarderIsWell(t)

			a.must(t, a.systemctl+" kill --kill-who main --signal KILL "+forwardUnit)
			a.hears(t, id)

			// A stop loses the listeners in the containers' networks. A start makes new ones.
			a.must(t, a.systemctl+" stop "+forwardUnit)
			a.must(t, "! podman exec "+id+" sh -c 'echo x | nc 127.0.0.1 4000'")
			if out, err := m.sh(a.user, a.gitter(t, "--rm --annotation terok.services=llm")+" true"); err == nil {
				t.Errorf("a container starts without the forwarder: %s", out)
			}
			a.must(t, a.systemctl+" start "+forwardUnit)
			a.hears(t, id)

			a.must(t, "terok-gate access --drop db "+id)
			a.must(t, "podman exec "+id+" sh -c 'test $(echo x | nc 127.0.0.1 4000) = x; test -z \"$(echo x | nc 127.0.0.1 5432)\"'")

			a.must(t, "podman stop --time 0 "+id)
			testenv.Eventually(t, "systemd keeps nothing of containers that are gone", func() bool {
				return strings.HasSuffix(a.must(t, a.systemctl+" show --property NFileDescriptorStore "+forwardUnit), "=0\n")
			})
			a.must(t, "terok-gate uninstall")
			if diff := cmp.Diff(before, a.files(t)); diff != "" {
				t.Errorf("uninstall leaves something (-before +after):\n%s", diff)
			}
		})
	}
}

// forwarderIsWell checks that the forwarder runs under systemd, and what it has logged.
// When the forwarder starts, it tests whether it can reach an address that is no service's. It
// cannot with root's unit, and can with a user's.
func (a account) forwarderIsWell(t *testing.T) {
	t.Helper()
	show := a.must(t, a.systemctl+" show --property ActiveState,UnitFileState,NRestarts "+forwardUnit)
	for _, want := range []string{"ActiveState=active", "UnitFileState=enabled", "NRestarts=0"} {
		if !strings.Contains(show, want+"\n") {
			t.Errorf("%s: not %s:\n%s", a.user, want, show)
		}
	}
	said := a.machine.must(t, "root", "journalctl --quiet --output cat "+strings.ReplaceAll(a.journal, watchUnit, forwardUnit))
	if confined := !strings.Contains(said, forward.ErrNotConfined.Error()); confined != (a.user == "root") {
		t.Errorf("%s: the forwarder says %s", a.user, said)
	}
	if strings.Contains(said, "could not isolate itself") {
		t.Errorf("%s: the forwarder is not isolated: %s", a.user, said)
	}
}
