package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Where annotations can come from beside podman's command line.

func TestAnnotationsOfContainersConfGiveEveryContainerAToken(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		e = e.withHooks(t, hookFlags{}, nil)
		conf, err := os.ReadFile(e.conf)
		if err != nil {
			t.Fatal(err)
		}
		with := strings.Replace(string(conf), "[containers]\n", "[containers]\nannotations = [\"terok.project=demo\", \"terok.task=default\"]\n", 1)
		other := *e
		other.conf = filepath.Join(e.tempDir(t), "containers.conf")
		if err := os.WriteFile(other.conf, []byte(with), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, row := range []struct {
			name string
			args []string
			task string
		}{
			{"by default", nil, "default"},
			{"and the command line's own go before", []string{"--annotation", "terok.task=own"}, "own"},
		} {
			t.Run(row.name, func(t *testing.T) {
				l := other.create(t, row.args...).start(t)
				for _, want := range []string{"TEROK_PROJECT=demo", "TEROK_TASK=" + row.task} {
					if !slices.Contains(l.env, want) {
						t.Errorf("gate.env, of %d lines, has no %s", len(l.env), want)
					}
				}
			})
		}
	})
}

// A directory of hooks on the command line is read in the place of ours, and podman says
// nothing of it: the manual does.
func TestAHooksDirOnTheCommandLineTakesOursOutOfForce(t *testing.T) {
	onRootless(t, func(t *testing.T, e *engine) {
		run := append(append([]string{"--hooks-dir", e.tempDir(t), "run", "--rm"}, annotations("demo", "other")...), image, "ls", "/run/terok")
		if out, err := e.tryPodman(run...); err == nil || !strings.Contains(err.Error(), "No such file") {
			t.Errorf("the container has %q, %v", out, err)
		}
	})
}
