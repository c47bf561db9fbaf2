package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// crun appends what a hook prints to the file of the host that the annotation
// run.oci.hooks.stderr names, which may be a shell's start-up file. Before podman 4.6, an
// image can carry this annotation.

// command is what a hostile author wants printed, for the user to paste.
const command = "$(touch /tmp/canary)"

// hostile are containers that our stages refuse for one of their values.
var hostile = []struct {
	name        string
	annotations map[string]string
	args        []string
	reason      string // in the log
}{
	{name: "a mode", annotations: map[string]string{"terok.project": "demo", "terok.task": "1", "terok.env-mode": command}, reason: "terok.env-mode"},
	{name: "a project", annotations: map[string]string{"terok.project": command, "terok.task": "1"}, reason: "terok.project"},
	{name: "a task", annotations: map[string]string{"terok.project": "demo", "terok.task": command}, reason: "terok.task"},
	{name: "a variable", annotations: map[string]string{"terok.project": "demo", "terok.task": "1"}, args: []string{"--env", "GIT_CONFIG_PARAMETERS=" + command}, reason: "GIT_CONFIG_PARAMETERS"},
}

func TestNothingHostileGetsIntoAFileOfTheHost(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		tokens := e.withTokenFile(t, othersTokens)
		flags := hookFlags{prestart: []string{"--gate-url", "http://gate:1"}}
		alone := tokens.withHooks(t, flags, nil)
		filtered := tokens.withHooks(t, flags, func(dir string) error { return tokens.addPrecreate(dir, "--gate-url", "http://gate:1") })

		for _, row := range hostile {
			for _, by := range []string{"the command line", "the image"} {
				for _, stage := range []string{"prestart", "precreate"} {
					t.Run(fmt.Sprintf("%s of %s at %s", row.name, by, stage), func(t *testing.T) {
						t.Parallel()
						e := map[string]*engine{"prestart": alone, "precreate": filtered}[stage]
						file := filepath.Join(e.tempDir(t), "profile")
						annotations := map[string]string{"run.oci.hooks.stderr": file, "run.oci.hooks.stdout": file}
						for name, value := range row.annotations {
							annotations[name] = value
						}

						args, from := append([]string{"create"}, row.args...), image
						if by == "the image" {
							from = e.annotatedImage(t, annotations)
						} else {
							for name, value := range annotations {
								args = append(args, asCSV("--annotation="+name+"="+value))
							}
						}

						id := e.podman(t, append(args, from, "echo", "started")...)
						t.Cleanup(func() { e.podman(t, "rm", "--force", "--time", "0", id) })
						out, err := e.tryPodman("start", "--attach", id)
						if err == nil && by == "the command line" {
							t.Errorf("the container starts: %q", out)
						}
						if strings.Contains(fmt.Sprint(err), "canary") {
							t.Errorf("podman shows %v", err)
						}

						content, readErr := os.ReadFile(file)
						if strings.Contains(string(content), "canary") {
							t.Errorf("the file of the host says\n%s", content)
						}
						if err == nil {
							return // a podman to which an image's annotations mean nothing
						}

						reason := row.reason
						if stage == "precreate" {
							if !errors.Is(readErr, os.ErrNotExist) {
								t.Errorf("crun ran, and made the file: %q, %v", content, readErr)
							}
							if reason == "GIT_CONFIG_PARAMETERS" {
								reason = "run.oci.hooks" // annotations are judged first
							}
						}

						if systemLog.Listening() && len(systemLog.SoFar(t, with(id, stage+": ", reason))) == 0 {
							t.Errorf("the system log does not name %s: %q", reason, systemLog.SoFar(t, with(id)))
						}
					})
				}
			}
		}
	})
}

// If crun is to write to a file, precreate refuses the container before crun runs, even if
// the container's values are valid.
func TestPrecreateRefusesAContainerThatMakesCrunWriteToTheHost(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		own := e.withTokenFile(t, othersTokens)
		own = own.withHooks(t, hookFlags{}, func(dir string) error { return own.addPrecreate(dir) })
		file := filepath.Join(e.tempDir(t), "profile")
		annotation := "--annotation=run.oci.hooks.stderr=" + file
		c := own.create(t, append(annotations("demo", "stderr"), annotation)...)
		if out, err := c.tryPodman("start", c.id); err == nil {
			t.Errorf("the container starts: %q", out)
		}
		if systemLog.Listening() && len(systemLog.SoFar(t, with("refused", c.id, "precreate: refused: annotation", "run.oci.hooks.stderr"))) == 0 {
			t.Error("the system log does not say why")
		}
		if _, err := os.Lstat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the file of the host: %v", err)
		}
		// A container without our annotations is left alone.
		own.podman(t, "run", "--rm", annotation, image, "true")
	})
}

// annotatedImage makes an image of the root file system that carries annotations,
// and returns its id.
func (e *engine) annotatedImage(t *testing.T, annotations map[string]string) string {
	t.Helper()
	tarball, err := rootfsTar()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := os.ReadFile(tarball)
	if err != nil {
		t.Fatal(err)
	}

	dir := e.tempDir(t)
	// OCI image layout 1.0.0.
	write := func(path string, content []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}

	blob := func(kind string, content []byte) map[string]any {
		digest := fmt.Sprintf("%x", sha256.Sum256(content))
		write("blobs/sha256/"+digest, content)
		return map[string]any{"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + digest, "size": len(content)}
	}

	encoded := func(v any) []byte {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}

	layers := blob("layer.v1.tar", layer)
	config := blob("config.v1+json", encoded(map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{
			"Env":    []string{"PATH=/bin"},
			"Labels": annotations, // so that each image has an id of its own: the hash of its configuration
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []any{layers["digest"]}},
	}))
	manifest := blob("manifest.v1+json", encoded(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": config, "layers": []any{layers}, "annotations": annotations,
	}))

	write("index.json", encoded(map[string]any{"schemaVersion": 2, "manifests": []any{manifest}}))
	write("oci-layout", []byte(`{"imageLayoutVersion": "1.0.0"}`))

	return e.podman(t, "pull", "--quiet", "oci:"+dir)
}
