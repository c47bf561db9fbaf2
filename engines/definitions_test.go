package engines

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"go.podman.io/common/pkg/hooks"

	"terok-gate-hook/hook"
	"terok-gate-hook/store"
)

// All engines read definitions with one library, and differ in the stages that they
// run themselves: podman (4.3.1 to 5.6.0) names two, CRI-O (1.34.0) and NRI's
// hook-injector none. A stage that neither the engine nor the runtime knows is an error.
var podmanRuns = []string{"precreate", "poststop"}

// writeDefinitions writes the repository's definitions of these stages and those of install,
// each into a directory of their own, with a binary that exists.
func writeDefinitions(t *testing.T, stages ...string) map[string]string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}

	dirs := map[string]string{"the repository's": t.TempDir(), "the installed": t.TempDir()}
	installed, err := Registration{
		Binary: self, Settings: hook.Settings{Tokens: store.File{Path: "/tokens.json"}},
	}.files(Place{Hooks: dirs["the installed"], DropIn: filepath.Join(t.TempDir(), "none")}, &hookLists{inForce: []string{dirs["the installed"]}})
	if err != nil {
		t.Fatal(err)
	}

	for _, stage := range stages {
		name := "99-terok-gate-" + stage + ".json"
		text, err := os.ReadFile("../hooks.d/" + name)
		if err != nil {
			t.Fatal(err)
		}

		quoted, _ := json.Marshal(self)
		moved := strings.Replace(string(text), `"/usr/bin/terok-gate-hook"`, string(quoted), 1)
		if err := os.WriteFile(filepath.Join(dirs["the repository's"], name), []byte(moved), 0o644); err != nil {
			t.Fatal(err)
		}

		i := slices.IndexFunc(installed, func(f File) bool { return filepath.Base(f.Path) == name })
		if err := installed[i].Write(); err != nil {
			t.Fatal(err)
		}
	}
	return dirs
}

func TestEveryEngineReadsTheDefinitions(t *testing.T) {
	both := map[string]string{"terok.project": "demo", "terok.task": "1"}

	for _, engine := range []struct {
		name   string
		stages []string // of which it has definitions
		runs   []string // the stages that it runs itself
		all    []string // the stages of a container of ours
	}{
		{"podman", []string{"precreate", "prestart", "poststop"}, podmanRuns, []string{"precreate", "prestart", "poststop"}},
		{"CRI-O and NRI's hook-injector", []string{"prestart", "poststop"}, nil, []string{"prestart", "poststop"}},
	} {
		for whose, dir := range writeDefinitions(t, engine.stages...) {
			manager, err := hooks.New(context.Background(), []string{dir}, engine.runs)
			if err != nil {
				t.Errorf("%s cannot read %s definitions: %v", engine.name, whose, err)
				continue
			}

			for _, row := range []struct {
				name        string
				annotations map[string]string
				want        []string
			}{
				{"both annotations", both, engine.all},
				{"a project alone", map[string]string{"terok.project": "demo"}, engine.all},
				{"a task alone", map[string]string{"terok.task": "1"}, engine.all},
				{"an empty project", map[string]string{"terok.project": ""}, engine.all},
				{"no annotations", nil, nil},
				{"a project as podman kube generate writes it", map[string]string{"terok.project/web.1": "demo"}, engine.all},
				{"a misspelled one", map[string]string{"terok.acess": "read"}, engine.all},
				{"a name with a line break", map[string]string{"terok.project\n": "demo"}, engine.all},
				{"no name", map[string]string{"terok.": "demo"}, engine.all},
				{"others' annotations", map[string]string{"terok.sandbox.sidecar": "1", "terok.sandbox.sidecar/web": "1", "my.terok.task": "1", "terokXproject": "demo", "terok": ""}, nil},
			} {
				if diff := cmp.Diff(row.want, stagesOf(t, manager, row.annotations)); diff != "" {
					t.Errorf("%s, with %s definitions and %s (-want +got):\n%s", engine.name, whose, row.name, diff)
				}
			}
		}
	}
}

// stagesOf returns the stages at which a container with these annotations gets a hook. The
// arguments of each hook must name its stage.
func stagesOf(t *testing.T, manager *hooks.Manager, annotations map[string]string) []string {
	t.Helper()
	var config specs.Spec
	engines, err := manager.Hooks(&config, annotations, false)
	if err != nil {
		t.Fatal(err)
	}

	runtimes := config.Hooks
	if runtimes == nil {
		runtimes = &specs.Hooks{}
	}

	var stages []string
	for _, at := range []struct {
		name  string
		hooks []specs.Hook
	}{
		{"precreate", engines["precreate"]},
		// From version 0.58 on the library has prestart hooks run at createRuntime.
		{"prestart", runtimes.CreateRuntime},
		{"poststop", slices.Concat(engines["poststop"], runtimes.Poststop)},
	} {
		for _, h := range at.hooks {
			if !slices.Contains(h.Args, at.name) || h.Timeout == nil {
				t.Errorf("at %s runs %q", at.name, h.Args)
			}
			stages = append(stages, at.name)
		}
	}
	return stages
}

// With a precreate definition among those that they read, CRI-O and the
// hook-injector do not start.
func TestPrecreateIsForPodmanAlone(t *testing.T) {
	for whose, dir := range writeDefinitions(t, "precreate", "prestart", "poststop") {
		if _, err := hooks.New(context.Background(), []string{dir}, nil); err == nil || !strings.Contains(err.Error(), `unknown stage "precreate"`) {
			t.Errorf("with %s definitions CRI-O starts, or fails to start for another reason: %v", whose, err)
		}
	}
	if place := systemPlace(); place.Hooks == hooks.DefaultDir || place.Hooks == hooks.OverrideDir {
		t.Errorf("install puts the definitions into %s, which other engines read", place.Hooks)
	}
}
