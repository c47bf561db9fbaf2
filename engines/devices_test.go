package engines

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	oci "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// deviceWorld is an installation with these projects, and its registration.
func deviceWorld(t *testing.T, projects ...string) (Place, Registration) {
	t.Helper()
	dir := openDir(t)
	place := Place{
		Hooks: filepath.Join(dir, "hooks.d"), Units: filepath.Join(dir, "units"),
		Devices: filepath.Join(dir, "cdi", devicesName), Repos: filepath.Join(dir, "repos"),
	}
	r := Registration{
		Binary: "/usr/bin/" + binary, Gate: true, Repos: place.Repos,
		Settings: hook.Settings{Tokens: store.File{Path: filepath.Join(dir, "gate/tokens.json")}, GateSocket: "/run/terok-gate/control"},
	}
	for _, project := range projects {
		testenv.Must(t, os.MkdirAll(filepath.Join(place.Repos, project+".git"), 0o755))
	}
	files, err := r.files(place, nil)
	testenv.Must(t, err)
	for _, f := range files {
		testenv.Must(t, f.Write())
	}
	return place, r
}

func (p Place) writeDevices(t *testing.T, r Registration) (left []string) {
	t.Helper()
	projects, err := projectsIn(r.Repos)
	testenv.Must(t, err)
	file, left, err := r.devices(p, projects)
	testenv.Must(t, err)
	testenv.Must(t, file.Write())
	return left
}

// inject gives a container devices as engines do, with the CDI project's own package.
func inject(t *testing.T, place Place, devices ...string) (*oci.Spec, error) {
	t.Helper()
	cache, err := cdi.NewCache(cdi.WithSpecDirs(filepath.Dir(place.Devices)), cdi.WithAutoRefresh(false))
	testenv.Must(t, err)
	for path, errs := range cache.GetErrors() {
		t.Errorf("%s: %v", path, errs)
	}
	spec := &oci.Spec{Process: &oci.Process{}}
	for i, name := range devices {
		devices[i] = DeviceKind + "=" + name
	}
	_, err = cache.InjectDevices(spec, devices...)
	return spec, err
}

func TestADeviceIsAProject(t *testing.T) {
	place, r := deviceWorld(t, "demo", "2nd")
	place.writeDevices(t, r)
	common := []string{"TEROK_GATE_URL=http://127.0.0.1:9418", "no_proxy=127.0.0.1", "NO_PROXY=127.0.0.1"}
	for _, row := range []struct {
		device, own string
		env         []string
	}{
		{"demo", "--project demo --task-id", append(slices.Clone(common), "CODE_REPO=http://127.0.0.1:9418/demo.git")},
		{"2nd", "--project 2nd --task-id", append(slices.Clone(common), "CODE_REPO=http://127.0.0.1:9418/2nd.git")},
		{AnnotatedDevice, "--annotated", common},
	} {
		spec, err := inject(t, place, row.device)
		testenv.Must(t, err)
		slices.Sort(row.env)
		slices.Sort(spec.Process.Env)
		if diff := cmp.Diff(row.env, spec.Process.Env); diff != "" {
			t.Errorf("%s: the environment (-want +got):\n%s", row.device, diff)
		}
		if spec.Hooks == nil || len(spec.Hooks.CreateRuntime) != 1 || len(spec.Hooks.Poststop) != 1 {
			t.Fatalf("%s: the hooks are %+v", row.device, spec.Hooks)
		}
		start, stop := spec.Hooks.CreateRuntime[0], spec.Hooks.Poststop[0]
		tokens := "terok-gate-hook --token-file " + r.Settings.Tokens.Path
		if got, want := strings.Join(start.Args, " "), tokens+" createRuntime --gate-socket /run/terok-gate/control --withhold-token "+row.own; got != want {
			t.Errorf("createRuntime runs\n%s\nnot\n%s", got, want)
		}
		if got, want := strings.Join(stop.Args, " "), tokens+" poststop --gate-socket /run/terok-gate/control"; got != want {
			t.Errorf("poststop runs\n%s\nnot\n%s", got, want)
		}
		if start.Path != r.Binary || stop.Path != r.Binary || start.Timeout == nil || *start.Timeout < 30 {
			t.Errorf("the hooks are %+v and %+v", start, stop)
		}
	}
	if _, err := inject(t, place, "gone"); err == nil {
		t.Error("a project that is not there is a device")
	}
}

// The environment of a container that gets its token has what podman's precreate hook puts there.
func TestADeviceThatGivesATokenTellsGitWhereItIs(t *testing.T) {
	place, r := deviceWorld(t, "demo")
	r.Token = true
	place.writeDevices(t, r)
	spec, err := inject(t, place, "demo")
	testenv.Must(t, err)
	env := strings.Join(spec.Process.Env, "\n")
	for _, want := range []string{"TEROK_GATE_ENV=/run/terok/gate.env", "CODE_REPO=http://127.0.0.1:9418/demo.git", "GIT_CONFIG_PARAMETERS=", "GIT_CONFIG_SYSTEM="} {
		if !strings.Contains(env, want) {
			t.Errorf("%s is not in\n%s", want, env)
		}
	}
	if slices.Contains(spec.Hooks.CreateRuntime[0].Args, "--withhold-token") {
		t.Error("the token is withheld")
	}
	if installed, _, err := place.Registration(); err != nil || !installed.Token {
		t.Errorf("read back: token %v, %v", installed.Token, err)
	}
}

// One name that CDI refuses makes an engine drop the whole file.
func TestNamesThatCDIRefusesAreLeftOut(t *testing.T) {
	place, r := deviceWorld(t, "demo", "demo.", "demo_", "demo-", "a.b_c-d", "x", "annotated", "UPPER", "-hidden", "a b", "$(id)")
	testenv.Must(t, os.WriteFile(filepath.Join(place.Repos, "file"), nil, 0o644))
	if left, want := place.writeDevices(t, r), []string{"annotated", "demo-", "demo.", "demo_"}; !slices.Equal(left, want) {
		t.Errorf("left out are %q, not %q", left, want)
	}
	devices, program, err := place.ReadDevices()
	if err != nil || program != r.Binary || len(devices) != 5 {
		t.Errorf("the devices are %v of %s, %v", devices, program, err)
	}
	for _, name := range []string{"demo", "a.b_c-d", "x", "UPPER", AnnotatedDevice} {
		if _, err := inject(t, place, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDevicesKeepInStepWithTheRepositories(t *testing.T) {
	place, r := deviceWorld(t)
	if left, err := place.UpdateDevices(); left != nil || err != nil {
		t.Errorf("without a file: %v, %v", left, err)
	}
	if _, err := os.Lstat(place.Devices); err == nil {
		t.Error("a file of devices was written where install wrote none")
	}

	r.Repos = place.Repos
	testenv.Must(t, File{Path: filepath.Join(place.Units, GateUnitName), Content: []byte(mark + `ExecStart="/usr/bin/terok-gate" "serve" "--repos" "` + place.Repos + `"` + "\n")}.Write())
	place.writeDevices(t, r)
	var adding sync.WaitGroup
	for i := range 8 { // at the same time: none is lost
		adding.Go(func() {
			if err := os.MkdirAll(filepath.Join(place.Repos, fmt.Sprintf("p%d.git", i)), 0o755); err != nil {
				t.Error(err)
			}
			if _, err := place.UpdateDevices(); err != nil {
				t.Error(err)
			}
		})
	}
	adding.Wait()
	for i := range 8 {
		if _, err := inject(t, place, fmt.Sprintf("p%d", i)); err != nil {
			t.Error(err)
		}
	}

	testenv.Must(t, os.Rename(filepath.Join(place.Repos, "p0.git"), filepath.Join(place.Repos, "renamed.git")))
	_, err := place.UpdateDevices()
	testenv.Must(t, err)
	if _, err := inject(t, place, "p0"); err == nil {
		t.Error("the project's old name is a device")
	}
	if _, err := inject(t, place, "renamed"); err != nil {
		t.Error(err)
	}
}

func TestTwoThousandProjectsAreDevices(t *testing.T) {
	var projects []string
	for i := range 2000 {
		projects = append(projects, fmt.Sprintf("a-project-with-a-name-of-some-length-%d", i))
	}
	place, r := deviceWorld(t, projects...)
	place.writeDevices(t, r)
	if _, err := inject(t, place, projects[1999]); err != nil {
		t.Error(err)
	}
	if is, err := isOurs(place.Devices); !is || err != nil {
		t.Errorf("it is ours: %v, %v", is, err)
	}
}

// Engines run the hooks of the file as root.
func TestOnlyRootMayWriteTheDevices(t *testing.T) {
	testenv.NeedRoot(t)
	for _, row := range []struct{ name, make, want string }{
		{"none yet", "", ""},
		{"root's", "mkdir cdi; touch cdi/terok.json", ""},
		{"the gate's", "mkdir cdi; touch cdi/terok.json; chown 1234 cdi/terok.json", "DIR/cdi/terok.json belongs to user 1234"},
		{"in the gate's directory", "mkdir cdi; touch cdi/terok.json; chown 1234 cdi", "DIR/cdi belongs to user 1234"},
		{"a link to the gate's file", "mkdir cdi gate; touch gate/file; chown -R 1234 gate; ln -s ../gate/file cdi/terok.json", "DIR/gate belongs to user 1234"},
		{"for a group", "mkdir cdi; touch cdi/terok.json; chmod 664 cdi/terok.json", "mode 0664 of DIR/cdi/terok.json lets other users"},
		{"in a directory for all", "mkdir -m 777 cdi", "mode 0777 of DIR/cdi lets other users"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := openDir(t)
			sh(t, dir, row.make)
			place := Place{Devices: filepath.Join(dir, "cdi/terok.json")}
			_, _, err := Registration{Binary: "/usr/bin/" + binary}.devices(place, nil)
			want := strings.ReplaceAll(row.want, "DIR", dir)
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
		})
	}
}

// A file that CDI refuses never replaces one that it takes.
func TestABrokenFileOfDevicesIsNotWritten(t *testing.T) {
	place, r := deviceWorld(t, "demo")
	place.writeDevices(t, r)
	before, err := os.ReadFile(place.Devices)
	testenv.Must(t, err)
	r.Binary = "" // a hook without a program
	file, _, err := r.devices(place, []string{"demo"})
	testenv.Must(t, err)
	if err := file.Write(); err == nil {
		t.Error("the broken file was written")
	}
	after, err := os.ReadFile(place.Devices)
	testenv.Must(t, err)
	names, err := os.ReadDir(filepath.Dir(place.Devices))
	testenv.Must(t, err)
	if string(after) != string(before) || len(names) != 1 {
		t.Errorf("the directory holds %v", names)
	}
}
