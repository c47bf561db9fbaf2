package hook

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// canary is text that a container's author would like to have written to a file of the
// host. It can be part of a path.
const canary = "$(id>canary)`id`"

// printed checks what a stage that failed prints, to the letter, and that the value
// that is to blame is in the log.
func printed(t *testing.T, err error, want, logged string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %q", want)
	}
	if err.Error() != want {
		t.Errorf("the error prints\n%s\nnot\n%s", err, want)
	}
	if shown := fmt.Sprintf("%v %+v %s %q", err, err, err, err); strings.Contains(shown, "canary") {
		t.Errorf("package fmt shows %s", shown)
	}
	if errors.Unwrap(err) != nil {
		t.Errorf("the error unwraps to %v", errors.Unwrap(err))
	}
	if !strings.Contains(Detail(err), logged) {
		t.Errorf("the log does not have %s: %s", logged, Detail(err))
	}
}

// annotated sets annotations of a state or a configuration.
func annotated(pairs ...string) func(map[string]any) {
	return func(of map[string]any) {
		annotations := map[string]any{ProjectAnnotation: "demo", TaskAnnotation: "1"}
		for i := 0; i < len(pairs); i += 2 {
			annotations[pairs[i]] = pairs[i+1]
		}
		of["annotations"] = annotations
	}
}

const useName = "use letters, digits, '.', '_' and '-', a letter or digit first, at most 128"

// Annotations that are refused at prestart and at precreate.
var foreignAnnotations = []struct {
	name    string
	of      func(map[string]any)
	printed string
	logged  string
}{
	{"a project", annotated(ProjectAnnotation, canary), "refused: annotation terok.project: " + useName, fmt.Sprintf("%q", canary)},
	{"a long project", annotated(ProjectAnnotation, strings.Repeat(canary, 20)), "refused: annotation terok.project: " + useName, "longer than 128"},
	{"a task", annotated(TaskAnnotation, canary), "refused: annotation terok.task: " + useName, fmt.Sprintf("%q", canary)},
	{"a mode", annotated(EnvModeAnnotation, canary), "refused: annotation terok.env-mode: use 0400, 0440 or 0444", fmt.Sprintf("%q", canary)},
	{"an access", annotated(AccessAnnotation, canary), "refused: annotation terok.access: use read or append", fmt.Sprintf("%q", canary)},
	{"an access that narrows nothing", annotated(AccessAnnotation, "write"), "refused: annotation terok.access: use read or append", `"write"`},
	{"an empty access", annotated(AccessAnnotation, ""), "refused: annotation terok.access: use read or append", `""`},
	{"a pattern", annotated(PushAnnotation, "refs/heads/a,"+canary), "refused: annotation terok.push: " + usePatterns, fmt.Sprintf("%q", canary)},
	{"a pattern with an unknown placeholder", annotated(PushAnnotation, "refs/heads/{canary}"), "refused: annotation terok.push: " + usePatterns, "{canary}"},
	{"an empty pattern", annotated(PushAnnotation, ""), "refused: annotation terok.push: " + usePatterns, `""`},
	{"many patterns", annotated(PushAnnotation, strings.Repeat("refs/heads/a,", 16)+"refs/heads/a"), "refused: annotation terok.push: " + usePatterns, "17 patterns"},
	{"a long pattern", annotated(PushAnnotation, "refs/heads/"+strings.Repeat("a", 500)), "refused: annotation terok.push: " + usePatterns, "longer than"},
	{"a project that is not admitted", annotated(ProjectAnnotation, "canary"), "refused: the project is not among those that are admitted", `"canary"`},
	{"an unknown annotation", annotated("terok."+canary, "read"), "refused: an annotation terok.NAME is not known: use one of terok.project, terok.task, terok.env-mode, terok.access, terok.push, terok.read, terok.write, terok.services", fmt.Sprintf("%q", "terok."+canary)},
	{"a name of a container that is not known", annotated("terok.project/"+canary, "demo"),
		"an annotation terok.NAME/CONTAINER is for one container of a pod, and the name of this one is not known: podman's storage does not have it", "is not in podman's storage"},
	{"a project to read", annotated(ReadAnnotation, canary), "refused: annotation terok.read: " + useName, fmt.Sprintf("%q", canary)},
	{"a project to write", annotated(WriteAnnotation, canary), "refused: annotation terok.write: " + useName, fmt.Sprintf("%q", canary)},
	{"a project to read that is not admitted", annotated(ReadAnnotation, "canary"), "refused: annotation terok.read: a project is not among those that are admitted for reading", `"canary"`},
	{"a project to write that is not admitted", annotated(WriteAnnotation, "canary"), "refused: annotation terok.write: the project is not among those that are admitted", `"canary"`},
	{"its own project to read", annotated(ReadAnnotation, "demo"), "refused: annotation terok.read: names the container's own project, which is in terok.project", `"demo"`},
	{"its own project to write", annotated(WriteAnnotation, "demo"), "refused: annotation terok.write: names the container's own project, which is in terok.project", `"demo"`},
	{"a project without a task", func(of map[string]any) { of["annotations"] = map[string]any{ProjectAnnotation: canary} },
		"refused: annotation terok.project is there, terok.task is not: set both or neither", ""},
	{"a task without a project", func(of map[string]any) { of["annotations"] = map[string]any{TaskAnnotation: canary} },
		"refused: annotation terok.task is there, terok.project is not: set both or neither", ""},
}

func TestPrestartPrintsNothingThatCameFromOutside(t *testing.T) {
	none := func(map[string]any) {}
	env := func(variable string) func(map[string]any) {
		return func(config map[string]any) { config["process"].(map[string]any)["env"] = []string{variable} }
	}

	rows := []struct {
		name    string
		state   func(map[string]any)
		config  func(map[string]any)
		printed string
		logged  string
	}{
		{"an id", func(s map[string]any) { s["id"] = canary }, none,
			"container state: id is refused: use letters, digits, '_', '.', '-' and '+', a letter, digit or '_' first", fmt.Sprintf("%q", canary)},
		{"a long id", func(s map[string]any) { s["id"] = strings.Repeat(canary, 20) }, none, "container state: id is refused: longer than 200 bytes", "canary"},
		{"a pid", func(s map[string]any) { s["pid"] = -4711 }, none, "container state: the pid is negative" + otherKernel, "-4711"},
		{"a value of the wrong type", func(s map[string]any) { s["annotations"] = map[string]any{canary: 1} }, none, "container state: not the JSON that it should be", "cannot unmarshal number"},
		{"a relative bundle", func(s map[string]any) { s["bundle"] = canary }, none, "container state: bundle is not an absolute path", fmt.Sprintf("%q", canary)},
		{"a bundle that is not there", func(s map[string]any) { s["bundle"] = "/" + canary }, none, "bundle: the directory that the state names has no config.json (crun 1.27 to 1.29.1 names the directory that it was started in)", "/" + canary + "/config.json"},

		{"a configuration without a root", none, func(c map[string]any) { delete(c, "root") }, "bundle: config.json: has no process or no root path", "bundle"},
		{"a user", none, func(c map[string]any) { c["process"].(map[string]any)["user"] = canary }, "bundle: config.json: not the JSON that it should be", "cannot unmarshal string"},
		{"a GIT_CONFIG_PARAMETERS", none, env("GIT_CONFIG_PARAMETERS=" + canary), "the container's environment has a GIT_CONFIG_PARAMETERS that git rejects", fmt.Sprintf("%q", canary)},
	}
	for _, row := range foreignAnnotations {
		rows = append(rows, struct {
			name            string
			state, config   func(map[string]any)
			printed, logged string
		}{row.name, row.of, none, row.printed, row.logged})
	}

	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c := prepare(t)
			c.hook.AllowProjects, c.hook.GateURL = []string{"demo"}, "http://gate"
			c.configure(t, row.config)
			c.pid = os.Getpid()
			_, err := c.prestart(t, "crun", row.state)
			printed(t, err, row.printed, row.logged)
		})
	}

	for _, state := range []string{canary, `{"id": ` + canary, `{"` + canary + `"}`} {
		_, err := Settings{}.Prestart(strings.NewReader(state))
		printed(t, err, "container state: not the JSON that it should be", "invalid character")
	}

	_, err := Settings{}.Prestart(brokenReader{&os.PathError{Op: "read", Path: canary, Err: unix.EIO}})
	printed(t, err, "read the container state from standard input: input/output error", canary)
}

func TestTheInjectionPrintsNothingThatCameFromOutside(t *testing.T) {
	testenv.NeedRoot(t)
	const inject = "inject /run/terok into the container: "
	const outside = "/" + canary // a path outside the root file system, such as a link's target

	link := func(t *testing.T, c *container, path string) {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(c.rootfs, path)), 0o755))
		must(t, os.Symlink(outside, filepath.Join(c.rootfs, path)))
	}

	for _, row := range []struct {
		name    string
		given   func(*testing.T, *container) []mount
		printed string
		logged  string
	}{
		{"a root file system that is not there", func(t *testing.T, c *container) []mount {
			c.configure(t, func(config map[string]any) { config["root"] = map[string]any{"path": outside} })
			return nil
		}, inject + "root file system: no such file or directory" + otherKernel, outside},
		{"a mount label", func(t *testing.T, c *container) []mount {
			c.configure(t, func(config map[string]any) { config["linux"].(map[string]any)["mountLabel"] = canary })
			return nil
		}, inject + "make a tmpfs: option context: invalid argument", fmt.Sprintf("%q", canary)},
		{"a link in the place of /run", func(t *testing.T, c *container) []mount {
			link(t, c, "/run")
			return nil
		}, inject + "/run in the container's root file system: no such file or directory", "/run"},
		{"a link in the place of the directory", func(t *testing.T, c *container) []mount {
			link(t, c, "/run/terok")
			return nil
		}, inject + "/run/terok in the container's root file system: is a symbolic link, or not a directory", ""},
		{"a volume's mount point", func(t *testing.T, c *container) []mount {
			link(t, c, "/run") // podman then mounts a volume for /run where the link leads
			volume, target := filepath.Join(c.outside, "directory"), filepath.Join(c.rootfs, outside)
			must(t, os.MkdirAll(filepath.Join(target, "terok"), 0o755))
			return []mount{{Source: "volume", Target: volume, Type: "tmpfs"}, {Target: volume, Flags: unix.MS_SHARED}, {Source: volume, Target: target, Flags: unix.MS_BIND}}
		}, inject + "/run/terok in the container's root file system: the mount point lies on a mount with shared propagation: " +
			"the token would appear on the host and in other containers: mount the volume without :shared or :rshared", canary},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := prepare(t)
			c.start(t, 0, row.given(t, c)...)
			_, err := c.prestart(t, "crun", nil)
			printed(t, err, row.printed, row.logged)
		})
	}
}

func TestPrecreatePrintsNothingThatCameFromOutside(t *testing.T) {
	rows := append(foreignAnnotations, []struct {
		name    string
		of      func(map[string]any)
		printed string
		logged  string
	}{
		{"an annotation of crun's", annotated("run.oci.hooks."+canary, canary), "refused: an annotation run.oci.hooks.*, which makes crun write to files of the host", canary},
		{"annotations of the wrong type", func(c map[string]any) { c["annotations"] = canary }, "configuration: annotations: not the JSON that it should be", "cannot unmarshal string"},
		{"a process of the wrong type", func(c map[string]any) { c["process"] = canary }, "configuration: process: not the JSON that it should be", "cannot unmarshal string"},
		{"an environment of the wrong type", func(c map[string]any) { c["process"] = map[string]any{"env": canary} }, "configuration: process.env: not the JSON that it should be", "cannot unmarshal string"},
		{"a GIT_CONFIG_PARAMETERS", func(c map[string]any) {
			c["process"] = map[string]any{"env": []string{"GIT_CONFIG_PARAMETERS=" + canary}}
		},
			"configuration: the container's environment has a GIT_CONFIG_PARAMETERS that git rejects", fmt.Sprintf("%q", canary)},
	}...)

	h := Settings{AllowProjects: []string{"demo"}, GateURL: gate}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.json")
			config := map[string]any{"process": map[string]any{}}
			annotated()(config)
			row.of(config)
			writeJSON(t, path, config)

			content, err := os.ReadFile(path)
			must(t, err)
			out, _, err := h.Precreate(strings.NewReader(string(content)))
			printed(t, err, row.printed, row.logged)
			if len(out) > 0 {
				t.Errorf("the hook writes %q", out)
			}
		})
	}

	_, _, err := h.Precreate(strings.NewReader(canary))
	printed(t, err, "configuration: not the JSON that it should be", "invalid character")
}

func TestPoststopPrintsNothingThatCameFromOutside(t *testing.T) {
	_, err := Settings{}.Poststop(strings.NewReader(`{"id": "` + canary + `"}`))
	printed(t, err, "container state: id is refused: use letters, digits, '_', '.', '-' and '+', a letter, digit or '_' first", canary)
	_, err = Settings{}.Poststop(strings.NewReader(canary))
	printed(t, err, "container state: not the JSON that it should be", "invalid character")
}

// Of an error, only text of the program itself and the kernel's name for the error are printed.
func TestAnUnexpectedErrorIsOnlyLogged(t *testing.T) {
	for _, row := range []struct {
		err     error
		printed string
	}{
		{errors.New(canary), "the log says why"},
		{&os.PathError{Op: "open", Path: canary, Err: unix.EACCES}, "permission denied"},
		{fmt.Errorf("%s: %w", canary, failure("no bundle")), "no bundle"},
		{errors.Join(errors.New(canary), unix.ENOENT), "no such file or directory"},
		{&store.HeldError{Lock: "/l", Limit: time.Second, PID: 7, Program: canary}, "lock file /l: held for more than 1s by process 7"},
	} {
		printed(t, printableError(row.err), row.printed, canary)
		printed(t, because("mount", row.err), "mount: "+row.printed, canary)
	}
	if err := printableError(nil); err != nil {
		t.Error(err)
	}
}

// A refusal stays one for errors.Is, no matter what it prints.
func TestARefusalIsFoundBehindWhatIsPrinted(t *testing.T) {
	_, err := Settings{AllowProjects: []string{"web"}}.Prestart(strings.NewReader(`{"id":"a","annotations":{"terok.project":"demo","terok.task":"1"}}`))
	if !errors.Is(err, ErrRefused) || !errors.Is(err, errNotAdmitted) {
		t.Errorf("%v is no refusal for the projects that are admitted", err)
	}
}

func TestAnErrorOfTheTokenFileIsLoggedInDetail(t *testing.T) {
	for _, row := range []struct{ content, why, logged string }{
		{"[]\n", "not a JSON object", "byte 1"},
		{`{"` + canary + `": canary}`, "not a JSON object", "byte "},
	} {
		h := trial(t)
		must(t, os.MkdirAll(filepath.Dir(h.Tokens.Path), 0o700))
		must(t, os.WriteFile(h.Tokens.Path, []byte(row.content), 0o600))
		_, err := h.Prestart(sample(t, "crun/prestart.json"))
		printed(t, err, "issue the token: token file "+h.Tokens.Path+": "+row.why, row.logged)
		_, err = h.Poststop(sample(t, "crun/poststop.json"))
		printed(t, err, "revoke the container's tokens: token file "+h.Tokens.Path+": "+row.why, row.logged)
	}
}
