package forward_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"testing"

	"terok-gate-hook/forward"
	"terok-gate-hook/internal/testenv"
)

// neighbourVar names a process of the same user, in the environment of the process that isolates
// itself.
const neighbourVar = "TEROK_FORWARD_TEST_NEIGHBOUR"

func TestAnIsolatedProcessReachesNoOtherProcessOfItsUser(t *testing.T) {
	if pid := os.Getenv(neighbourVar); pid != "" {
		isolateFrom(t, "/proc/"+pid)
		return
	}

	neighbour := exec.Command("sleep", "600")
	must(t, neighbour.Start())
	t.Cleanup(func() {
		_ = neighbour.Process.Kill()
		_ = neighbour.Wait()
	})
	again := testenv.Again("-test.run=^" + t.Name() + "$")
	again.Env = append(again.Env, fmt.Sprintf("%s=%d", neighbourVar, neighbour.Process.Pid))
	if out, err := again.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func isolateFrom(t *testing.T, process string) {
	reach := map[string]func() error{
		"its root directory": func() error { _, err := os.ReadDir(process + "/root"); return err },
		"its open files":     func() error { _, err := os.Stat(process + "/fd/0"); return err },
		"its memory": func() error {
			memory, err := os.OpenFile(process+"/mem", os.O_RDWR, 0)
			if err == nil {
				memory.Close()
			}
			return err
		},
	}
	for what, try := range reach {
		if err := try(); err != nil {
			t.Errorf("before, %s: %v", what, err)
		}
	}
	must(t, forward.Isolate())
	for what, try := range reach {
		if err := try(); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := os.ReadFile(process + "/stat"); err != nil { // the forwarder needs this file to check processes
		t.Error(err)
	}
}
