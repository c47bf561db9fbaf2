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
