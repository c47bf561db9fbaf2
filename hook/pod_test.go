package hook

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestAnAnnotationForOneContainerOfAPodCountsForIt(t *testing.T) {
	const project, task = ProjectAnnotation, TaskAnnotation
	for _, row := range []struct {
		name        string
		called      string // empty: not asked for
		annotations map[string]string
		want        map[string]string
	}{
		{"annotations of the pod alone", "", map[string]string{project: "demo", "a/b": "c"}, map[string]string{project: "demo", "a/b": "c"}},
		{"other programs'", "", map[string]string{"terok.sandbox.sidecar/web": "1"}, map[string]string{"terok.sandbox.sidecar/web": "1"}},
		{"its own", "pod-web", map[string]string{project + "/web": "demo", task + "/web": "1", "a/web": "c"}, map[string]string{project: "demo", task: "1", "a/web": "c"}},
		{"its own, by its whole name", "web", map[string]string{project + "/web": "demo"}, map[string]string{project: "demo"}},
		{"another's", "pod-db", map[string]string{project + "/web": "demo"}, map[string]string{}},
		{"web's, in the container theweb", "pod-theweb", map[string]string{project + "/web": "demo"}, map[string]string{}},
		{"its own and web's, in the container the-web", "pod-the-web", map[string]string{project + "/web": "demo", project + "/the-web": "own"}, map[string]string{project: "own"}},
		{"a's, in a container that may be a or b-a, since the pod's name is not known", "pod-b-a", map[string]string{project + "/a": "demo"}, map[string]string{project: "demo"}},
		{"its own goes before the pod's", "pod-web", map[string]string{project: "pods", task: "1", project + "/web": "own"}, map[string]string{project: "own", task: "1"}},
		{"another's does not go before the pod's", "pod-db", map[string]string{project: "pods", project + "/web": "own"}, map[string]string{project: "pods"}},
		{"its own, with an unknown NAME", "pod-web", map[string]string{"terok.acess/web": "read"}, map[string]string{"terok.acess": "read"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			for range 8 { // whatever the order of a map
				asked := false
				got, err := ofContainer(maps.Clone(row.annotations), func() (string, error) {
					asked = true
					return row.called, nil
				})
				must(t, err)
				if diff := cmp.Diff(row.want, got); diff != "" || asked != (row.called != "") {
					t.Fatalf("asked for the name: %v (-want +got):\n%s", asked, diff)
				}
			}
		})
	}
}

func TestAContainersNameIsInPodmansStorage(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	graph := t.TempDir()
	root := filepath.Join(graph, "overlay/layer/merged")
	must(t, os.MkdirAll(root, 0o755))
	storage := filepath.Join(graph, "overlay-containers")
	must(t, os.Mkdir(storage, 0o755))
	write := func(name, content string) {
		must(t, os.WriteFile(filepath.Join(storage, name), []byte(content), 0o600))
	}

	if diff := cmp.Diff([]string{storage}, storageOf(root)); diff != "" {
		t.Errorf("the storage (-want +got):\n%s", diff)
	}
	if name, err := nameInStorage(id, storage); err == nil || !strings.Contains(Detail(err), id) {
		t.Errorf("of an empty storage: %q, %v", name, err)
	}
	write("containers.json", `[{"id":"`+strings.Repeat("f", 64)+`","names":["other"]}]`)
	write("volatile-containers.json", `[{"id":"`+id+`","names":["pod-web"],"image":"x"}]`)
	if name, err := nameInStorage(id, "/nonexistent", storage); name != "pod-web" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
	write("containers.json", canary)
	if _, err := nameInStorage(id, storage); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("of a storage that can't be read: %v", err)
	}

	// A fifo there must not hold up the hook.
	must(t, os.Remove(filepath.Join(storage, "containers.json")))
	must(t, unix.Mkfifo(filepath.Join(storage, "containers.json"), 0o600))
	if _, err := nameInStorage(id, storage); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("of a fifo: %v", err)
	}
}
