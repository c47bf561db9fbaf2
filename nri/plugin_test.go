package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"

	"terok-gate-hook/engines"
	"terok-gate-hook/hook"
)

// onNode returns a plugin on a node where the hook is installed with the settings.
func onNode(t *testing.T, settings hook.Settings, allow string) *plugin {
	t.Helper()
	program := filepath.Join(t.TempDir(), "terok-gate-hook")
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	settings.Annotated = true
	type object = map[string]any
	content, err := json.Marshal(object{"cdiVersion": "0.5.0", "kind": engines.DeviceKind, "devices": []object{{
		"name": engines.AnnotatedDevice, "containerEdits": object{"hooks": []object{{
			"hookName": "createRuntime", "path": program, "args": append([]string{"terok-gate-hook"}, settings.Args("createRuntime")...),
		}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	devices := filepath.Join(t.TempDir(), "terok.json")
	if err := os.WriteFile(devices, content, 0o644); err != nil {
		t.Fatal(err)
	}

	p := &plugin{allowed: allowed{}, place: engines.Place{Devices: devices}}
	if err := p.allowed.Set(allow); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAContainerOfAnAnnotatedPodGetsTheDeviceOrIsRefused(t *testing.T) {
	p := onNode(t, hook.Settings{AllowProjects: []string{"demo*", "lib"}}, "team=demo team=secret other=lib")
	for _, row := range []struct {
		name, annotations string
		gets              bool
		refused           string
	}{
		{"no annotations", "", false, ""},
		{"another program's", "terok.sandbox.sidecar=x", false, ""},
		{"another container's", "terok.project/test=demo terok.task/test=1", false, ""},
		{"the pod's", "terok.project=demo terok.task=1", true, ""},
		{"its own", "terok.project/work=demo terok.task=1", true, ""},
		{"half of them", "terok.project=demo", false, "set both or neither"},
		{"misspelled", "terok.projet=demo", false, "is not known"},
		{"another namespace's project", "terok.project=lib terok.task=1", false, `pods of namespace "team" may not name project "lib": terok-nri needs --allow team=lib`},
		{"to read another namespace's", "terok.project=demo terok.task=1 terok.read=lib", false, `may not name project "lib"`},
		{"to write another namespace's", "terok.project=demo terok.task=1 terok.write=lib", false, `may not name project "lib"`},
		{"not admitted on the node", "terok.project=secret terok.task=1", false, "not among those that are admitted"},
	} {
		t.Run(row.name, func(t *testing.T) {
			pod := &api.PodSandbox{Namespace: "team", Annotations: map[string]string{}}
			for _, annotation := range strings.Fields(row.annotations) {
				key, value, _ := strings.Cut(annotation, "=")
				pod.Annotations[key] = value
			}
			got, updates, err := p.CreateContainer(context.Background(), pod, &api.Container{Name: "work"})
			if len(updates) > 0 {
				t.Errorf("updates of other containers: %v", updates)
			}
			if row.refused != "" {
				if err == nil || !strings.Contains(err.Error(), row.refused) || got != nil {
					t.Errorf("no refusal with %q: %v", row.refused, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if (got != nil) != row.gets {
				t.Fatalf("got %v", got)
			}
			if row.gets && (len(got.CDIDevices) != 1 || got.CDIDevices[0].Name != "terok.dev/project=annotated" || got.Annotations["terok.project"] != "demo" || got.Annotations["terok.task"] != "1") {
				t.Errorf("got %v", got)
			}
		})
	}
}

// Engines can be told to pass a pod's annotations on to its containers.
func TestTheHookGetsNoAnnotationThatNamesAContainer(t *testing.T) {
	p := onNode(t, hook.Settings{}, "team=demo")
	annotations := map[string]string{"terok.project": "demo", "terok.task/work": "1", "terok.task/test": "2", "example.com/x": "y"}
	got, err := p.adjust(&api.PodSandbox{Namespace: "team", Annotations: annotations}, &api.Container{Name: "work", Annotations: annotations})
	if err != nil {
		t.Fatal(err)
	}
	for name := range annotations {
		_, removed := got.Annotations[api.MarkForRemoval(name)]
		if removed != strings.HasPrefix(name, "terok.task/") {
			t.Errorf("%s: removed %v", name, removed)
		}
	}
}

// Device plugins, for example, can give a container annotations that its pod does not have.
func TestTheHookReadsOnlyAnnotationsOfThePod(t *testing.T) {
	p := onNode(t, hook.Settings{}, "team=demo")
	pod := map[string]string{"terok.project": "demo", "terok.task": "1"}
	of := map[string]string{"terok.project": "demo", "terok.task": "2", "terok.read": "secret", "terok.access": "write", "terok.x.y": "z", "example.com/x": "y"}
	got, err := p.adjust(&api.PodSandbox{Namespace: "team", Annotations: pod}, &api.Container{Name: "work", Annotations: of})
	if err != nil {
		t.Fatal(err)
	}
	if got.Annotations["terok.task"] != "1" {
		t.Errorf("the task is not the pod's: %v", got.Annotations)
	}
	for name := range of {
		_, removed := got.Annotations[api.MarkForRemoval(name)]
		if removed != (name == "terok.read" || name == "terok.access") {
			t.Errorf("%s: removed %v", name, removed)
		}
	}
}

func TestAContainerGetsTheVariablesThatItLacks(t *testing.T) {
	p := onNode(t, hook.Settings{GateSocket: "/run/terok-gate/control", WithholdToken: true}, "team=demo")
	pod := &api.PodSandbox{Namespace: "team", Annotations: map[string]string{"terok.project": "demo", "terok.task": "1"}}
	got, err := p.adjust(pod, &api.Container{Name: "work", Env: []string{"PATH=/bin", "CODE_REPO=mine", "GIT_CONFIG_PARAMETERS='a.b=c'"}})
	if err != nil {
		t.Fatal(err)
	}
	var env []string
	for _, v := range got.Env {
		env = append(env, v.Key+"="+v.Value)
	}
	if !slices.Contains(env, "GIT_CONFIG_PARAMETERS='a.b=c' 'include.path=/run/terok/gitconfig'") || !slices.Contains(env, "TEROK_GATE_ENV=/run/terok/gate.env") {
		t.Errorf("env %q", env)
	}
	for _, v := range got.Env {
		if v.Key == "CODE_REPO" || v.Key == "PATH" {
			t.Errorf("%s is replaced", v.Key)
		}
	}
}

func TestOnANodeWithoutDeviceOrHookAnAnnotatedPodIsRefused(t *testing.T) {
	pod := &api.PodSandbox{Namespace: "team", Annotations: map[string]string{"terok.project": "demo", "terok.task": "1"}}
	for _, row := range []struct {
		name, why string
		take      func(p *plugin, program string) error
	}{
		{"no file", "has no device annotated", func(p *plugin, _ string) error { return os.Remove(p.place.Devices) }},
		{"no hook", "no such file or directory", func(_ *plugin, program string) error { return os.Remove(program) }},
		{"a hook that cannot be run", "permission denied", func(_ *plugin, program string) error { return os.Chmod(program, 0o644) }},
		{"a file that is cut off", "terok.json", func(p *plugin, _ string) error { return os.Truncate(p.place.Devices, 20) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := onNode(t, hook.Settings{}, "team=demo")
			_, program, err := p.place.ReadDevices()
			if err != nil {
				t.Fatal(err)
			}
			if err := row.take(p, program); err != nil {
				t.Fatal(err)
			}
			if _, err := p.adjust(pod, &api.Container{Name: "work"}); err == nil || !strings.Contains(err.Error(), row.why) {
				t.Errorf("no refusal with %q: %v", row.why, err)
			}
			if got, err := p.adjust(&api.PodSandbox{Namespace: "team"}, &api.Container{Name: "work"}); got != nil || err != nil {
				t.Errorf("a pod without annotations: %v, %v", got, err)
			}
		})
	}
}
