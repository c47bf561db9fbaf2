//go:build engines

package docker

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

const (
	cri = "ctr --address /run/cri/containerd.sock --namespace k8s.io "
	// As in a node's, but for what this machine's kernel lacks. containerd 2 takes it as well.
	criConfig = `version = 2
root = "/var/lib/containerd/cri"
state = "/run/cri"
[grpc]
  address = "/run/cri/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/pause:latest"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/terok"
`
	network = `{"cniVersion": "0.3.1", "name": "pods", "type": "ptp", "ipam": {"type": "host-local", "subnet": "10.88.7.0/24"}}`
	pod     = `{"metadata": {"name": "pod", "namespace": "default", "uid": "1", "attempt": 1}, "log_directory": "/tmp/pods", "linux": {}}`
	inPod   = `{"metadata": {"name": "NAME"}, "image": {"image": "docker.io/library/` + image + `:latest"}, "command": ["sleep", "1000"],
		"CDI_devices": [{"name": "terok.dev/project=PROJECT"}], "log_path": "NAME.log", "linux": {}}`
)

// The containers of a pod share a network, so each has a token, in a file.
func TestPodsOfContainerdTakeTheDevice(t *testing.T) {
	write := func(path, content string) {
		testenv.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		testenv.Must(t, os.WriteFile(path, []byte(content), 0o644))
	}
	t.Log(must(t, "containerd --version"))
	write("/etc/containerd/config.toml", criConfig)
	t.Cleanup(func() { must(t, "rm /etc/containerd/config.toml") })
	doctor := func() string { out, _ := sh("PATH=/opt/cri:$PATH terok-gate doctor"); return out }
	if strings.Contains(must(t, "containerd --version"), " 1.7.") {
		if out := doctor(); !strings.Contains(out, `its setting enable_cdi is off → in /etc/containerd/config.toml, below [plugins."io.containerd.grpc.v1.cri"], set enable_cdi = true; then: restart containerd`) {
			t.Error(out)
		}
		must(t, `sed -i 's/^  disable_apparmor/  enable_cdi = true\n&/' /etc/containerd/config.toml`)
	}
	if out := doctor(); !strings.Contains(out, "containerd: containerd ") || !strings.Contains(out, " reads /etc/cdi") {
		t.Error(out)
	}

	write("/etc/cni/terok/10-pods.conf", network)
	write("/cri/pod.json", pod)
	for name, project := range map[string]string{"one": "demo", "two": "demo", "none": "none"} {
		write("/cri/"+name+".json", strings.NewReplacer("NAME", name, "PROJECT", project).Replace(inPod))
	}
	must(t, `tar -C /image -c . | docker import -c 'ENTRYPOINT ["/bin/sleep", "1000"]' - pause`)
	daemon := exec.Command("containerd")
	testenv.Must(t, start(daemon, "containerd for pods", cri+"version"))
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	})
	must(t, "docker save pause "+image+" | "+cri+"images import -")

	crictl := "/opt/cri/crictl --runtime-endpoint unix:///run/cri/containerd.sock --timeout 1m "
	made := func(command string) (id string) { // there are warnings before it
		lines := strings.Split(must(t, crictl+command), "\n")
		return lines[len(lines)-1]
	}
	id := made("runp /cri/pod.json")
	create := func(name string) string { return made("create " + id + " /cri/" + name + ".json /cri/pod.json") }
	one, two := create("one"), create("two")
	must(t, crictl+"start "+one+" "+two)
	refused(t, crictl+"create "+id+" /cri/none.json /cri/pod.json && "+crictl+"start $("+crictl+"ps -aq --name none)", "unresolvable CDI devices terok.dev/project=none")

	before := must(t, "git -C /var/lib/terok-gate/repos/demo.git rev-parse main")
	must(t, crictl+"exec "+one+" sh -ec 'set -a; . /run/terok/gate.env; '"+work)
	if after := must(t, "git -C /var/lib/terok-gate/repos/demo.git rev-parse main"); after == before {
		t.Error("nothing was pushed")
	}
	refused(t, crictl+"exec "+one+" git ls-remote "+repo, "could not read Username")

	// One ends, its neighbour goes on.
	must(t, crictl+"stop -t 0 "+one)
	testenv.Eventually(t, "its token is gone", func() bool { return !strings.Contains(must(t, "terok-gate list"), one[:12]) })
	must(t, crictl+"exec "+two+" sh -ec 'set -a; . /run/terok/gate.env; git ls-remote $CODE_REPO'")
	must(t, crictl+"rmp -f "+id)
	testenv.Eventually(t, "no token is left", func() bool { return must(t, "terok-gate list --json") == "[]" })
}
