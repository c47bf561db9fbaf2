package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"syscall"
	"testing"

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
	cancel() // it lives longer
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
	t.Cleanup(server.Close) // engines run when this function has returned
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
			onEveryEngine(t, func(t *testing.T, e *engine) {
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
