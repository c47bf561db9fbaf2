package hook

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const gate = "http://host.containers.internal:9418"

// ours are the annotations of a container that asks for a token.
const ours = `"annotations":{"terok.project":"demo","terok.task":"1"}`

func TestPrecreateAddsPointersToTheEnvironment(t *testing.T) {
	for _, row := range []struct {
		name string
		hook Settings
		env  string
		want []string
	}{
		{"where the env file is", Settings{}, `["PATH=/bin"]`,
			[]string{"PATH=/bin", "TEROK_GATE_ENV=/run/terok/gate.env"}},
		{"with a gate URL, the repository and git's configuration, too", Settings{GateURL: gate}, `["PATH=/bin"]`,
			[]string{"PATH=/bin", "TEROK_GATE_ENV=/run/terok/gate.env", "TEROK_GATE_URL=" + gate, "CODE_REPO=" + gate + "/demo.git",
				"GIT_CONFIG_PARAMETERS='include.path=/run/terok/gitconfig'", "GIT_CONFIG_SYSTEM=/run/terok/gitidentity"}},
		{"into no environment at all", Settings{}, `null`,
			[]string{"TEROK_GATE_ENV=/run/terok/gate.env"}},
		{"git's parameters follow the container's own, and its other git configuration stays", Settings{GateURL: gate},
			`["GIT_CONFIG_PARAMETERS='a.b=c'","GIT_CONFIG_COUNT=x","GIT_CONFIG_KEY_0=a.b"]`,
			[]string{"GIT_CONFIG_COUNT=x", "GIT_CONFIG_KEY_0=a.b",
				"TEROK_GATE_ENV=/run/terok/gate.env", "TEROK_GATE_URL=" + gate, "CODE_REPO=" + gate + "/demo.git",
				"GIT_CONFIG_PARAMETERS='a.b=c' 'include.path=/run/terok/gitconfig'", "GIT_CONFIG_SYSTEM=/run/terok/gitidentity"}},
		{"prestart gets to know what the container's own GIT_CONFIG_SYSTEM was", Settings{GateURL: gate}, `["GIT_CONFIG_SYSTEM=/opt/gitconfig"]`,
			[]string{"TEROK_GATE_ENV=/run/terok/gate.env", "TEROK_GATE_URL=" + gate, "CODE_REPO=" + gate + "/demo.git",
				"GIT_CONFIG_PARAMETERS='include.path=/run/terok/gitconfig'", "GIT_CONFIG_SYSTEM=/run/terok/gitidentity", "TEROK_GIT_CONFIG_SYSTEM=/opt/gitconfig"}},
		{"without an identity, the container's own GIT_CONFIG_SYSTEM stays", Settings{GateURL: gate, Identity: new("")}, `["GIT_CONFIG_SYSTEM=/opt/gitconfig"]`,
			[]string{"GIT_CONFIG_SYSTEM=/opt/gitconfig", "TEROK_GATE_ENV=/run/terok/gate.env", "TEROK_GATE_URL=" + gate, "CODE_REPO=" + gate + "/demo.git",
				"GIT_CONFIG_PARAMETERS='include.path=/run/terok/gitconfig'"}},
		{"the container's own repository stays", Settings{GateURL: gate}, `["CODE_REPO=elsewhere"]`,
			[]string{"CODE_REPO=elsewhere", "TEROK_GATE_ENV=/run/terok/gate.env", "TEROK_GATE_URL=" + gate,
				"GIT_CONFIG_PARAMETERS='include.path=/run/terok/gitconfig'", "GIT_CONFIG_SYSTEM=/run/terok/gitidentity"}},
		{"the gate in the container's network, which no proxy knows", Settings{GateSocket: "/run/gate/control"}, `["http_proxy=http://proxy","no_proxy=a"]`,
			[]string{"http_proxy=http://proxy", "TEROK_GATE_ENV=/run/terok/gate.env",
				"TEROK_GATE_URL=http://127.0.0.1:9418", "CODE_REPO=http://127.0.0.1:9418/demo.git", "no_proxy=a,127.0.0.1", "NO_PROXY=a,127.0.0.1",
				"GIT_CONFIG_PARAMETERS='include.path=/run/terok/gitconfig'", "GIT_CONFIG_SYSTEM=/run/terok/gitidentity"}},
		{"the gate in the container's network, with the token withheld", Settings{GateSocket: "/run/gate/control", GateListen: "127.0.0.1:80", WithholdToken: true}, `[]`,
			[]string{"TEROK_GATE_ENV=/run/terok/gate.env", "TEROK_GATE_URL=http://127.0.0.1:80", "CODE_REPO=http://127.0.0.1:80/demo.git",
				"no_proxy=127.0.0.1", "NO_PROXY=127.0.0.1", "GIT_CONFIG_PARAMETERS='include.path=/run/terok/gitconfig'", "GIT_CONFIG_SYSTEM=/run/terok/gitidentity"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			config := `{` + ours + `,"process":{"env":` + row.env + `}}`
			out := precreate(t, row.hook, config)
			var got struct{ Process struct{ Env []string } }
			if err := json.Unmarshal(out, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(row.want, got.Process.Env); diff != "" {
				t.Errorf("environment (-want +got):\n%s", diff)
			}

			// Podman may run precreate again on what precreate returned: nothing is added twice.
			again := precreate(t, row.hook, string(out))
			if diff := cmp.Diff(envOf(t, out), envOf(t, again)); diff != "" {
				t.Errorf("a second time (-first +second):\n%s", diff)
			}
		})
	}
}

func TestPrecreateLeavesAConfigurationThatIsNotOursAsItIs(t *testing.T) {
	for _, config := range []string{
		"{}", " {\n\t\"a\" : 1.50e+3 , \"a\":2}\n\n", `{"annotations":null}`, `{"annotations":{}}`,
		`{"annotations":{"other":"x"},"process":null}`, `{"process":{"env":["A=<&>"]}}`,
	} {
		if out := precreate(t, Settings{GateURL: gate}, config); string(out) != config {
			t.Errorf("%q became %q", config, out)
		}
	}
}

func TestPrecreatePassesOnWhatWeDoNotKnow(t *testing.T) {
	samples, err := filepath.Glob("../testdata/*/bundle/config.json")
	if err != nil || len(samples) == 0 {
		t.Fatalf("no sample bundles: %v", err)
	}

	for _, sample := range samples {
		content, err := os.ReadFile(sample)
		if err != nil {
			t.Fatal(err)
		}

		config := strings.Replace(string(content), `"process":`, `"later":{"x":[1e400,18446744073709551616,"<"]},"process":`, 1)
		config = strings.Replace(config, `"args":`, `"unheardOf":{"y":null},"args":`, 1)
		before, after := asAny(t, []byte(config)), asAny(t, precreate(t, Settings{}, config))
		process, _ := before["process"].(map[string]any)
		if before["later"] == nil || process["unheardOf"] == nil {
			t.Fatalf("%s has no process, or its process has no arguments", sample)
		}

		delete(process, "env")
		delete(after["process"].(map[string]any), "env")
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("%s: more than the environment changed (-before +after):\n%s", sample, diff)
		}
	}
}

func TestPrecreateRefusesWhatItCannotServe(t *testing.T) {
	for _, row := range []struct{ name, config, why string }{
		{"nothing", "", "unexpected end"},
		{"broken JSON", `{"annotations":`, "unexpected end"},
		{"not an object", `[]`, "cannot unmarshal array"},
		{"null", `null`, "not an object"},
		{"annotations of the wrong type", `{"annotations":[]}`, "annotations"},
		{"one annotation without the other", `{"annotations":{"terok.task":"1"}}`, "terok.project is not"},
		{"a hostile project", `{"annotations":{"terok.project":"*","terok.task":"1"}}`, `"*" is refused`},
		{"a project that is not admitted", `{"annotations":{"terok.project":"other","terok.task":"1"}}`, `project "other" is not among those`},
		{"a mode that lets others write", `{"annotations":{"terok.project":"demo","terok.task":"1","terok.env-mode":"0666"},"process":{}}`, "terok.env-mode"},
		{"no process", `{` + ours + `}`, "no process"},
		{"an environment of the wrong type", `{` + ours + `,"process":{"env":"A=b"}}`, "process.env"},
		{"a GIT_CONFIG_PARAMETERS that git rejects", `{` + ours + `,"process":{"env":["GIT_CONFIG_PARAMETERS=x"]}}`, "GIT_CONFIG_PARAMETERS"},
		{"more than there can be", strings.Repeat(" ", configLimit+1), "more than"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := Settings{GateURL: gate, AllowProjects: []string{"d*"}}
			out, _, err := h.Precreate(strings.NewReader(row.config))
			if err == nil || !strings.Contains(Detail(err), row.why) {
				t.Errorf("the error is %v, want one with %q", err, row.why)
			}
			if len(out) > 0 {
				t.Errorf("the hook wrote %q", out)
			}
		})
	}
}

func TestPrecreateNamesTheContainerThatItRefuses(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	other := strings.Repeat("f", 64)
	userdata := func(id string) string { return "/run/storage/overlay-containers/" + id + "/userdata/" }
	for _, row := range []struct{ config, id string }{
		{`"linux":{"cgroupsPath":"/libpod_parent/libpod-` + id + `"}`, id},
		{`"linux":{"cgroupsPath":"machine.slice:libpod:` + id + `"}`, id},
		{`"linux":{"cgroupsPath":"/libpod_parent/libpod-` + id[1:] + `"}`, ""},
		{`"linux":{"cgroupsPath":"/` + id[:63] + `/"}`, ""},
		{`"linux":{},"mounts":[{"destination":"/etc/hosts","source":"` + userdata(other) + `hosts"},` +
			`{"destination":"/run/.containerenv","source":"` + userdata(id) + `.containerenv"}]`, id},
		{`"mounts":[{"destination":"/run/.containerenv","source":"/elsewhere"}]`, ""},
		{`"mounts":[{"destination":"/run/.containerenv"}]`, ""},
		{`"linux":["` + id + `"],"mounts":"` + id + `"`, ""},
		{`"linux":null`, ""},
	} {
		config := `{"annotations":{"terok.project":"other","terok.task":"1"},` + row.config + `}`
		_, out, err := Settings{AllowProjects: []string{"d*"}}.Precreate(strings.NewReader(config))
		if !errors.Is(err, ErrRefused) || out.Container != row.id || out.Grant.Project != "other" {
			t.Errorf("%s: the container is %q, the grant %v, the error %v", row.config, out.Container, out.Grant, err)
		}
	}
}

// FuzzPrecreate checks that the output means the same as the input, process.env aside, and is
// the same bytes if the container is not ours.
func FuzzPrecreate(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `{` + ours + `,"process":{}}`, `{` + ours + `,"process":{"env":["A=b",""]},"x":1e9}`,
		`{` + ours + `,"process":{"a":1,"a":2},"process":{"b":"\ud800"}}`,
		`{"annotations":{"terok.project":"demo"}}`, `{"Annotations":{},` + ours + `,"Process":1,"process":{"Env":[]}}`,
	} {
		f.Add([]byte(seed))
	}

	f.Fuzz(func(t *testing.T, config []byte) {
		out, outcome, err := Settings{GateURL: gate}.Precreate(bytes.NewReader(config))
		if err != nil {
			return
		}

		if outcome.Grant.Project == "" {
			if !bytes.Equal(config, out) {
				t.Fatalf("%q is not ours and became %q", config, out)
			}
			return
		}

		before, after := asAny(t, config), asAny(t, out)
		process := after["process"].(map[string]any)
		if len(process["env"].([]any)) == 0 {
			t.Fatalf("%q got no environment", config)
		}

		delete(process, "env")
		delete(before["process"].(map[string]any), "env")
		if diff := cmp.Diff(before, after); diff != "" {
			t.Fatalf("%q became %q (-before +after):\n%s", config, out, diff)
		}
	})
}

func precreate(t *testing.T, h Settings, config string) []byte {
	t.Helper()
	out, _, err := h.Precreate(strings.NewReader(config))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func envOf(t *testing.T, config []byte) []any {
	t.Helper()
	return asAny(t, config)["process"].(map[string]any)["env"].([]any)
}

// asAny is what encoding/json makes of an object, numbers as they are written.
func asAny(t *testing.T, content []byte) map[string]any {
	t.Helper()
	var v map[string]any
	d := json.NewDecoder(bytes.NewReader(content))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}
