package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

// A container's process can end its main thread and go on in another thread. Podman then
// cannot end the process, and may forget the container.
func TestDoctorFindsAContainerThatPodmanHasForgotten(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		h := newHome(t, e)
		goesOn := filepath.Join(e.tempDir(t), "goeson")
		build := exec.Command("go", "build", "-o", goesOn, "./goeson")
		build.Env = append(build.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}

		h.must(t, h.terokGate(t, installFlags))
		id := strings.TrimSpace(h.must(t, fmt.Sprintf("podman run --detach --volume %q:/goeson:ro --annotation terok.project=demo --annotation terok.task=1 --rootfs %q /goeson",
			goesOn, e.rootfs(t))))

		var process struct{ PID int }
		for _, held := range h.tokens(t) {
			if err := json.Unmarshal(held.Process, &process); err != nil || held.Container != id {
				t.Fatalf("a token of %s, %v", held.Container, err)
			}
		}

		if process.PID <= 0 { // a signal to 0 would kill the tests
			t.Fatalf("no token names the process of container %s", id)
		}

		t.Cleanup(func() {
			e.signal(t, process.PID, unix.SIGKILL)
			h.must(t, "podman rm --force --ignore --time 0 "+id)
		})
		testenv.Eventually(t, "the main thread has ended", func() bool { return statFields(t, process.PID)[0] == "Z" })
		finds(t, h.doctor(t, ""), "forgotten", "ok", "none")

		// Podman 4.3.1 forgets the container at the second removal, and podman 5.4 not at
		// all.
		remove := "podman rm --force --time 0 " + id
		says := "podman does not know container " + id
		if _, err := h.sh(remove); err != nil {
			cannot := fmt.Sprintf("podman cannot stop container %s, whose main thread has ended", id)
			finds(t, h.doctor(t, ""), "forgotten", "warning", fmt.Sprintf("%s, but its process %d lives", cannot, process.PID))
			if _, err := h.sh(remove); err != nil {
				t.Log(err)
				says = cannot
			}
		}

		all := h.doctor(t, "")
		finds(t, all, "forgotten", "warning", fmt.Sprintf("%s, but its process %d lives and holds a token", says, process.PID))
		for _, f := range all {
			if f.Check == "forgotten" {
				if said := h.must(t, f.Remedy); said != "revoked 1\n" {
					t.Errorf("%s says %s", f.Remedy, said)
				}
			}
		}

		finds(t, h.doctor(t, ""), "forgotten", "ok", "none")
	})
}
