package e2e

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Annotations from containers.conf and Kubernetes files, and mistakes on podman's command line.

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
			{"the command line's annotations win", []string{"--annotation", "terok.task=own"}, "own"},
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

// A directory of hooks on the command line takes the place of ours. Podman does not say so,
// but our manual does.
func TestAHooksDirOnTheCommandLineTakesOursOutOfForce(t *testing.T) {
	onRootless(t, func(t *testing.T, e *engine) {
		run := append(append([]string{"--hooks-dir", e.tempDir(t), "run", "--rm"}, annotations("demo", "other")...), image, "ls", "/run/terok")
		if out, err := e.tryPodman(run...); err == nil || !strings.Contains(err.Error(), "No such file") {
			t.Errorf("the container has %q, %v", out, err)
		}
	})
}

// podman kube generate writes terok.project/NAME for the container NAME, and podman kube
// play hands the annotations of a pod to all of its containers.
func TestWhatPodmanGeneratesForKubernetesGivesItsContainerAToken(t *testing.T) {
	onCrunAndRunc(t, func(t *testing.T, e *engine) {
		e = e.withHooks(t, hookFlags{}, func(dir string) error { return e.addPrecreate(dir, "--gate-url", "http://gate:9418") })
		e = e.withInfraImage(t)
		e.podman(t, append(append([]string{"create", "--name", "web_1"}, annotations("demo", "kube")...), image, "/bin/sleep", "1000")...)
		generated := e.podman(t, "kube", "generate", "web_1")
		e.podman(t, "rm", "web_1")
		if !strings.Contains(generated, "terok.project/web1: demo") {
			t.Fatalf("podman generates\n%s", generated)
		}

		// The pod gets another container, the neighbor. The annotations are not for it.
		play := strings.Replace(generated, "  containers:\n", "  containers:\n  - {name: the-db, image: "+image+", command: [/bin/sleep, \"1000\"]}\n", 1)
		file := filepath.Join(e.tempDir(t), "pod.yaml")
		if err := os.WriteFile(file, []byte(play), 0o644); err != nil {
			t.Fatal(err)
		}

		t.Cleanup(func() { e.tryPodman("pod", "rm", "--force", "--time", "0", "web1-pod") })
		if e.playsPods(t) {
			e.podman(t, "kube", "play", file)
		} else { // the same containers, in a pod whose cgroup is not above theirs
			e.podman(t, "pod", "create", "--share-parent=false", "--name", "web1-pod")
			for _, name := range []string{"web1", "the-db"} {
				e.podman(t, "run", "--detach", "--pod", "web1-pod", "--name", "web1-pod-"+name,
					"--annotation", "terok.project/web1=demo", "--annotation", "terok.task/web1=kube", image, "/bin/sleep", "1000")
			}
		}

		if env := e.podman(t, "exec", "web1-pod-web1", "/bin/cat", "/run/terok/gate.env"); !strings.Contains(env, "TEROK_PROJECT=demo\nTEROK_TASK=kube") {
			t.Errorf("gate.env of the container has %d bytes without project and task", len(env))
		}
		if pointers := e.podman(t, "inspect", "--format", "{{.Config.Env}}", "web1-pod-web1"); strings.Contains(pointers, "terok-g-") {
			t.Error("podman inspect shows a token")
		}
		if _, err := e.tryPodman("exec", "web1-pod-the-db", "/bin/ls", "/bin/sleep"); err != nil {
			t.Errorf("its neighbor does not run: %v", err)
		}
		if _, err := e.tryPodman("exec", "web1-pod-the-db", "/bin/ls", "/run/terok"); err == nil {
			t.Error("its neighbor has a token, too")
		}
	})
}

// playsPods reports whether containers can run in a pod that podman kube play makes.
// Without systemd, a container below a pod's cgroup of version 2 cannot open /dev/null
// (podman 4.3.1, root).
func (e *engine) playsPods(t *testing.T) bool {
	t.Helper()
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return e.rootless || errors.Is(err, fs.ErrNotExist) || podmanIs(t, 5, 0)
}

// withInfraImage returns the same engine with an image for the infra container that podman adds
// to each pod.
func (e *engine) withInfraImage(t *testing.T) *engine {
	t.Helper()
	const infra = "localhost/e2e-infra"
	tarball, err := rootfsTar()
	if err != nil {
		t.Fatal(err)
	}
	e.podman(t, "import", "--change", `CMD ["/bin/sleep", "1000"]`, tarball, infra)

	conf, err := os.ReadFile(e.conf)
	if err != nil {
		t.Fatal(err)
	}
	with := strings.Replace(string(conf), "[engine]\n", "[engine]\ninfra_image = \""+infra+"\"\n", 1)
	other := *e
	other.conf = filepath.Join(e.tempDir(t), "containers.conf")
	if err := os.WriteFile(other.conf, []byte(with), 0o644); err != nil {
		t.Fatal(err)
	}
	return &other
}

// An unknown annotation with a name like ours may be a misspelled limit.
func TestAMisspelledAnnotationIsRefused(t *testing.T) {
	onCrunAndRunc(t, func(t *testing.T, e *engine) {
		own := e.withTokenFile(t, othersTokens).withHooks(t, hookFlags{}, nil)
		own.refuses(t, append(annotations("demo", "1"), "--annotation", "terok.acess=read"), "refused", `annotation \"terok.acess\" is not known`)
		own.refuses(t, []string{"--annotation", "terok.projct=demo"}, "refused", `annotation \"terok.projct\" is not known`)
		if _, out, err := own.runAndRemove(t, "--annotation", "terok.sandbox.sidecar=1", image, "sh", "-c", "ls /run/terok 2>/dev/null || echo none"); err != nil || strings.TrimSpace(out) != "none" {
			t.Errorf("a container with another program's annotation: %q, %v", out, err)
		}
	})
}
