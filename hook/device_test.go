package hook

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/control"
	"terok-gate-hook/store"
)

func TestADeviceNamesProjectAndTask(t *testing.T) {
	const project, task = ProjectAnnotation, TaskAnnotation
	device := Settings{Project: "demo", TaskID: true}
	for _, row := range []struct {
		name        string
		settings    Settings
		id          string
		annotations map[string]string
		grant       store.Grant
		err         string
	}{
		{"nothing but the device", device, someID, nil, store.Grant{Project: "demo", Task: "0123456789ab"}, ""},
		{"an id that is short", device, "web", nil, store.Grant{Project: "demo", Task: "web"}, ""},
		{"an id that is no task", device, "_web", nil, store.Grant{}, "the container's id cannot be its task"},
		{"a task", device, someID, map[string]string{task: "7"}, store.Grant{Project: "demo", Task: "7"}, ""},
		{"the same project", device, someID, map[string]string{project: "demo", task: "7"}, store.Grant{Project: "demo", Task: "7"}, ""},
		{"the same project alone", device, someID, map[string]string{project: "demo"}, store.Grant{Project: "demo", Task: "0123456789ab"}, ""},
		{"another project", device, someID, map[string]string{project: "other"}, store.Grant{}, `annotation terok.project: "other" is another project than the device's, demo`},
		{"an empty project", device, someID, map[string]string{project: ""}, store.Grant{}, "is another project than the device's"},
		{"an empty task", device, someID, map[string]string{task: ""}, store.Grant{}, `annotation terok.task: "" is refused`},
		{"no task, and a device that makes no task", Settings{Project: "demo"}, someID, nil, store.Grant{}, "annotation terok.project is there, terok.task is not"},
		{"a project that is not admitted", Settings{Project: "demo", TaskID: true, AllowProjects: []string{"web"}}, someID, nil, store.Grant{}, "is not among those that are admitted"},
		{"annotations are needed, both are there", Settings{Annotated: true}, someID, map[string]string{project: "demo", task: "7"}, store.Grant{Project: "demo", Task: "7"}, ""},
		{"annotations are needed, neither is there", Settings{Annotated: true}, someID, map[string]string{"a": "b"}, store.Grant{}, "the device needs annotations terok.project and terok.task"},
		{"annotations are needed, only one is there", Settings{Annotated: true}, someID, map[string]string{project: "demo"}, store.Grant{}, "annotation terok.project is there, terok.task is not"},
	} {
		t.Run(row.name, func(t *testing.T) {
			annotations, err := row.settings.ofDevice(row.annotations, row.id)
			var want request
			asked := true
			if err == nil {
				want, asked, err = row.settings.request(annotations)
			}
			if row.err != "" {
				if !errors.Is(err, ErrRefused) || !strings.Contains(Detail(err), row.err) {
					t.Errorf("the error is no refusal with %q: %v", row.err, err)
				}
				return
			}
			must(t, err)
			if want.Grant != row.grant || !asked {
				t.Errorf("grant %+v, asked %v", want.Grant, asked)
			}
		})
	}
}

// Two devices are two hooks of one container. If both gave it a token, the last one would win.
func TestAContainerGetsOneTokenInItsLife(t *testing.T) {
	c := prepare(t)
	c.start(t, 0)
	c.hook.Project, c.hook.TaskID = "demo", true
	create := func() (Outcome, error) {
		return c.hook.CreateRuntime(c.state(t, "crun/prestart-pid.json", func(state map[string]any) { delete(state, "annotations") }))
	}
	first, err := create()
	must(t, err)

	c.hook.Project = "other"
	before, err := os.ReadFile(c.hook.Tokens.Path)
	must(t, err)
	out, err := create()
	printed(t, err, "refused: the container has a token already: ask for one device terok.dev/project, and for other projects with the annotations terok.read and terok.write", "")
	if !errors.Is(err, ErrRefused) || out.Token != "" {
		t.Errorf("the outcome is %+v", out)
	}
	if after, err := os.ReadFile(c.hook.Tokens.Path); err != nil || string(after) != string(before) {
		t.Errorf("the token file changed: %v", err)
	}

	// Its next life is another process, even if poststop has not run yet.
	c.end()
	c.start(t, 0)
	out, err = create()
	must(t, err)
	if out.Token == first.Token || len(out.Revoked) != 1 || out.Revoked[0].Token != first.Token {
		t.Errorf("the next life gets %+v", out)
	}
}

// With the token withheld, the gate refuses the second hook first, as if it came from another
// container in the network. The hook prints the same reason as when the token file refuses it.
func TestASecondDeviceIsTheReasonEvenIfTheGateRefuses(t *testing.T) {
	c := prepare(t)
	c.start(t, unix.CLONE_NEWNET)
	c.hook.Project, c.hook.TaskID, c.hook.WithholdToken = "demo", true, true
	answers := []string{`{"version":1,"refused":"shared"}`, yes}
	gateOf(t, c, func(control.Request, int) string {
		answer := answers[len(answers)-1]
		answers = answers[:len(answers)-1]
		return answer
	})
	create := func() error {
		_, err := c.hook.CreateRuntime(c.state(t, "crun/prestart-pid.json", func(state map[string]any) { delete(state, "annotations") }))
		return err
	}
	must(t, create())
	printed(t, create(), errTwice().Error(), "has a token already")
}

// The containers of a pod share their network, so they are told apart by their tokens.
func TestInAPodADeviceWithholdsNoToken(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		annotation string
		withheld   bool
	}{
		"a container of its own": {"org.example", true},
		"containerd's pod":       {"io.kubernetes.cri.sandbox-id", false},
		"CRI-O's and podman's":   {"io.kubernetes.cri-o.SandboxID", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := prepare(t)
			c.start(t, unix.CLONE_NEWNET)
			c.hook.Project, c.hook.TaskID, c.hook.WithholdToken = "demo", true, true
			asked := make(chan control.Request, 1)
			gateOf(t, c, func(r control.Request, _ int) string {
				asked <- r
				return yes
			})
			_, err := c.hook.CreateRuntime(c.state(t, "crun/prestart-pid.json", func(state map[string]any) {
				state["annotations"] = map[string]string{row.annotation: someID}
			}))
			must(t, err)
			if r := <-asked; r.Withheld != row.withheld {
				t.Errorf("the gate is told that the token is withheld: %v", r.Withheld)
			}
			if _, err := os.Stat(c.inside(filepath.Join(MountPath, "credential"))); (err != nil) != row.withheld {
				t.Errorf("the credential: %v", err)
			}
		})
	}
}

// gVisor's runsc has no process to name when a container has stopped.
func TestPoststopIgnoresThePid(t *testing.T) {
	c := prepare(t)
	c.start(t, 0)
	out, err := c.prestart(t, "crun", nil)
	must(t, err)
	c.end()
	for range 2 {
		stopped, err := c.hook.Poststop(c.state(t, "crun/poststop.json", func(state map[string]any) {
			state["id"], state["pid"] = out.Container, -1
		}))
		must(t, err)
		if stopped.Container != out.Container {
			t.Errorf("poststop is about %q", stopped.Container)
		}
	}
	if entries, err := c.hook.Tokens.Entries(); err != nil || len(entries) > 0 {
		t.Errorf("the token file holds %d tokens, %v", len(entries), err)
	}
}

func TestAContainerOnAnotherKernelIsRefusedWithTheReason(t *testing.T) {
	c := prepare(t)
	c.start(t, 0)
	_, err := c.prestart(t, "crun", func(state map[string]any) { state["pid"] = -1 })
	printed(t, err, "container state: the pid is negative"+otherKernel, "pid -1 is negative")

	c.configure(t, func(config map[string]any) { config["root"] = map[string]any{"path": filepath.Join(c.base, "nowhere")} })
	_, err = c.prestart(t, "crun", nil)
	printed(t, err, "inject /run/terok into the container: root file system: no such file or directory"+otherKernel, "nowhere")
}
