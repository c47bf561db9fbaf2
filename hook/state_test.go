package hook

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const someID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestStatesOfRealRuntimesAreRead(t *testing.T) {
	for _, runtime := range []string{"crun", "runc"} {
		for sample, pid := range map[string]int{"prestart.json": 0, "prestart-pid.json": 4321, "poststop.json": 0} {
			file, err := os.Open(filepath.Join("../testdata", runtime, sample))
			must(t, err)
			defer file.Close()
			state, err := readState(file, stateLimit)
			if err != nil {
				t.Errorf("%s/%s: %v", runtime, sample, err)
				continue
			}
			if len(state.ID) != 64 || state.Pid != pid || !strings.HasSuffix(state.Bundle, "/"+state.ID+"/userdata") ||
				state.Annotations[ProjectAnnotation] != "demo" || state.Annotations[TaskAnnotation] != "1" {
				t.Errorf("%s/%s reads %+v", runtime, sample, state)
			}
		}
	}
}

func TestBadStates(t *testing.T) {
	for _, row := range []struct{ name, state, err string }{
		{"nothing", "", "there is none"},
		{"not JSON", "state", "container state: invalid character"},
		{"half a state", `{"id": "a"`, "container state: unexpected end"},
		{"two states", `{"id": "a"}{"id": "b"}`, "container state: invalid character '{'"},
		{"a list", `["a"]`, "container state: json: cannot unmarshal array"},
		{"null", `null`, "container state: id is missing"},
		{"no id", `{"ociVersion": "1.0.0"}`, "container state: id is missing"},
		{"an id that is a number", `{"id": 1}`, "container state: json: cannot unmarshal number"},
		{"an id that climbs", `{"id": "../a"}`, `container state: id "../a" is refused`},
		{"an id with a slash", `{"id": "a/b"}`, `container state: id "a/b" is refused`},
		{"an id that is two dots", `{"id": ".."}`, `container state: id ".." is refused`},
		{"a hidden id", `{"id": ".a"}`, `container state: id ".a" is refused`},
		{"an id like a flag", `{"id": "-a"}`, `container state: id "-a" is refused`},
		{"an id with a newline", `{"id": "a\nb"}`, `container state: id "a\nb" is refused`},
		{"an id with a NUL", `{"id": "a\u0000b"}`, `container state: id "a\x00b" is refused`},
		{"an id of 201 bytes", `{"id": "` + strings.Repeat("a", 201) + `"}`, "is refused: longer than 200 bytes"},
		{"a negative pid", `{"id": "a", "pid": -1}`, "container state: pid -1 is negative"},
		{"more than 1 MiB", `{"id": "a"}` + strings.Repeat(" ", 1<<20), "more than 1048576 bytes"},
	} {
		t.Run(row.name, func(t *testing.T) {
			state, err := readState(strings.NewReader(row.state), stateLimit)
			if err == nil || !strings.Contains(Detail(err), row.err) {
				t.Errorf("the error is not %q but %v", row.err, err)
			}
			if state.ID != "" && row.name != "a negative pid" {
				t.Errorf("id %q comes with an error", state.ID)
			}
		})
	}
}

func TestAStateThatCannotBeReadIsAnError(t *testing.T) {
	broken := errors.New("broken pipe")
	if _, err := readState(brokenReader{broken}, stateLimit); !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
}

type brokenReader struct{ err error }

func (r brokenReader) Read([]byte) (int, error) { return 0, r.err }

func TestContainerIDs(t *testing.T) {
	for _, id := range []string{someID, "a", "0", "_a", "A.b-c_d+e", strings.Repeat("a", 200)} {
		if err := checkContainerID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestTheBundleOfARealRuntimeIsRead(t *testing.T) {
	for _, runtime := range []string{"crun", "runc"} {
		bundle, err := filepath.Abs(filepath.Join("../testdata", runtime, "bundle"))
		must(t, err)
		config, err := readConfiguration(bundle)
		must(t, err)
		if u := config.Process.User; u.UID != 1234 || u.GID != 55 {
			t.Errorf("%s: the user is %d:%d", runtime, u.UID, u.GID)
		}
		if !strings.HasSuffix(config.Root.Path, "/merged") || len(config.Process.Env) != 5 {
			t.Errorf("%s: root %q, environment %q", runtime, config.Root.Path, config.Process.Env)
		}
	}
}

func TestARelativeRootIsInTheBundle(t *testing.T) {
	bundle := t.TempDir()
	must(t, os.WriteFile(filepath.Join(bundle, "config.json"), []byte(`{"process": {}, "root": {"path": "rootfs"}}`), 0o600))
	config, err := readConfiguration(bundle)
	must(t, err)
	if want := filepath.Join(bundle, "rootfs"); config.Root.Path != want {
		t.Errorf("the root is %s, not %s", config.Root.Path, want)
	}
}

func TestBadBundles(t *testing.T) {
	for _, row := range []struct{ name, config, err string }{
		{"no config.json", "", "config.json: no such file or directory"},
		{"not JSON", "config", "config.json: invalid character"},
		{"half a configuration", `{"process": {}`, "config.json: unexpected end"},
		{"no process", `{"root": {"path": "/r"}}`, "has no process or no root path"},
		{"no root", `{"process": {}}`, "has no process or no root path"},
		{"an empty root path", `{"process": {}, "root": {}}`, "has no process or no root path"},
		{"a user that is no number", `{"process": {"user": {"uid": "root"}}, "root": {"path": "/r"}}`, "cannot unmarshal string"},
		{"a user that is negative", `{"process": {"user": {"uid": -1}}, "root": {"path": "/r"}}`, "cannot unmarshal number -1"},
		{"a user beyond 32 bits", `{"process": {"user": {"gid": 4294967296}}, "root": {"path": "/r"}}`, "cannot unmarshal number 4294967296"},
	} {
		t.Run(row.name, func(t *testing.T) {
			bundle := t.TempDir()
			if row.config != "" {
				must(t, os.WriteFile(filepath.Join(bundle, "config.json"), []byte(row.config), 0o600))
			}
			_, err := readConfiguration(bundle)
			if err == nil || !strings.Contains(Detail(err), "bundle: ") || !strings.Contains(Detail(err), row.err) {
				t.Errorf("the error is not %q but %v", row.err, err)
			}
		})
	}
	if _, err := readConfiguration(""); err == nil || !strings.Contains(Detail(err), "bundle is missing") {
		t.Errorf("no bundle: %v", err)
	}
	if _, err := readConfiguration("bundle"); err == nil || !strings.Contains(Detail(err), "is not an absolute path") {
		t.Errorf("a relative bundle: %v", err)
	}
}
