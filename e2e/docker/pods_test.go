//go:build engines

package docker

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

const (
	cri = "ctr --address /run/cri/containerd.sock --namespace k8s.io "
	// The configuration of a node, without what this machine's kernel lacks. containerd 2 accepts it, too.
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
	podNetwork = `{"cniVersion": "0.3.1", "name": "pods", "type": "ptp", "ipam": {"type": "host-local", "subnet": "10.88.7.0/24"}}`
	pod        = `{"metadata": {"name": "pod", "namespace": "default", "uid": "1", "attempt": 1}, "log_directory": "/tmp/pods", "linux": {}}`
	inPod      = `{"metadata": {"name": "NAME"}, "image": {"image": "docker.io/library/` + image + `:latest"}, "command": COMMAND,
		"CDI_devices": [{"name": "terok.dev/project=PROJECT"}], "log_path": "NAME.log", "linux": {"resources": {"memory_limit_in_bytes": 31457280}}}`
	crictl = "/opt/cri/crictl --runtime-endpoint unix:///run/cri/containerd.sock --timeout 1m "
)

func write(t *testing.T, path, content string) {
	t.Helper()
	testenv.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	testenv.Must(t, os.WriteFile(path, []byte(content), 0o644))
}

// isContainerd1 reports whether this containerd needs enable_cdi to give pods devices.
func isContainerd1(t *testing.T) bool {
	t.Helper()
	return strings.Contains(must(t, "containerd --version"), " 1.7.")
}

// enableCDI makes containerd give pods devices, if it needs the setting for that.
func enableCDI(t *testing.T) {
	t.Helper()
	if isContainerd1(t) {
		must(t, `sed -i 's/^  disable_apparmor/  enable_cdi = true\n&/' /etc/containerd/config.toml`)
	}
}

func configureContainerd(t *testing.T) {
	t.Helper()
	t.Log(must(t, "containerd --version"))
	write(t, "/etc/containerd/config.toml", criConfig)
	t.Cleanup(func() { must(t, "rm /etc/containerd/config.toml") })
}

func TestDoctorFindsWhatKeepsPodsFromDevices(t *testing.T) {
	configureContainerd(t)
	doctor := func() string { out, _ := sh("PATH=/opt/cri:$PATH terok-gate doctor"); return out }
	if isContainerd1(t) {
		if out := doctor(); !strings.Contains(out, `its setting enable_cdi is off → in /etc/containerd/config.toml, below [plugins."io.containerd.grpc.v1.cri"], set enable_cdi = true; then: restart containerd`) {
			t.Error(out)
		}
	}
	enableCDI(t)
	if out := doctor(); !strings.Contains(out, "containerd: containerd ") || !strings.Contains(out, " reads /etc/cdi") {
		t.Error(out)
	}
}

// containerd is a daemon for pods, besides Docker's.
type containerd struct{ daemon *exec.Cmd }

func startContainerd(t *testing.T) *containerd {
	t.Helper()
	configureContainerd(t)
	enableCDI(t)
	write(t, "/etc/cni/terok/10-pods.conf", podNetwork)
	write(t, "/cri/pod.json", pod)
	must(t, `tar -C /image -c . | docker import -c 'ENTRYPOINT ["/bin/sleep", "1000"]' - pause`)

	c := &containerd{}
	c.start(t)
	t.Cleanup(func() {
		if c.runs() {
			c.kill(t)
		}
	})
	must(t, "docker save pause "+image+" | "+cri+"images import -")
	return c
}

func (c *containerd) start(t *testing.T) {
	t.Helper()
	c.daemon = exec.Command("containerd")
	testenv.Must(t, start(c.daemon, "containerd for pods", crictl+"pods"))
}

func (c *containerd) runs() bool { return c.daemon.ProcessState == nil }

func (c *containerd) kill(t *testing.T) {
	t.Helper()
	kill(t, c.daemon.Process.Pid)
	_ = c.daemon.Wait()
}

// answer runs a command of crictl, and returns the last line, which is the answer: warnings may
// come before it.
func answer(t *testing.T, command string) string {
	t.Helper()
	lines := strings.Split(must(t, crictl+command), "\n")
	return lines[len(lines)-1]
}

// container writes a container's configuration, and returns its path.
func container(t *testing.T, name, project string, command ...string) (path string) {
	t.Helper()
	words, err := json.Marshal(command)
	testenv.Must(t, err)
	path = "/cri/" + name + ".json"
	write(t, path, strings.NewReplacer("NAME", name, "PROJECT", project, "COMMAND", string(words)).Replace(inPod))
	return path
}

// The containers of a pod share a network, so each has a token, in a file.
func TestPodsOfContainerdTakeTheDevice(t *testing.T) {
	startContainerd(t)
	id := answer(t, "runp /cri/pod.json")
	create := func(name string) string {
		return answer(t, "create "+id+" "+container(t, name, "demo", "sleep", "1000")+" /cri/pod.json")
	}
	one, two := create("one"), create("two")
	must(t, crictl+"start "+one+" "+two)
	refused(t, crictl+"create "+id+" "+container(t, "none", "none", "true")+" /cri/pod.json && "+crictl+"start $("+crictl+"ps -aq --name none)", "unresolvable CDI devices terok.dev/project=none")

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
	noTokenRemains(t, "terok-gate")
}

// startInAPod starts a container named dying in a pod of its own. The container's credential is
// in a file.
func startInAPod(t *testing.T, command string) (id string, pid int, credential string) {
	t.Helper()
	pod := answer(t, "runp /cri/pod.json")
	t.Cleanup(func() { _, _ = sh(crictl + "rmp --all --force") })
	id = answer(t, "create "+pod+" "+container(t, "dying", "demo", "sh", "-c", "exec "+command)+" /cri/pod.json")
	must(t, crictl+"start "+id)
	pid, err := strconv.Atoi(answer(t, "inspect -o go-template --template '{{.info.pid}}' "+id))
	testenv.Must(t, err)
	credential = "/cri/credential"
	must(t, "umask 077; "+crictl+"exec "+id+" cat /run/terok/credential >"+credential)
	return id, pid, credential
}

func TestNothingIsServedAfterADeathInAPod(t *testing.T) {
	daemon := startContainerd(t)
	end := does(crictl + "exec $(" + crictl + "ps -q --name dying) sh -c '>/tmp/end'")
	for _, d := range []death{
		{name: "exit", command: untilEnd, die: end},
		{name: "kill -9 of the process", command: forEver, die: kill},
		{name: "crictl stop", command: forEver, die: does(crictl + "stop -t 0 $(" + crictl + "ps -q --name dying)")},
		{name: "crictl rm -f", command: forEver, die: does(crictl + "rm -f $(" + crictl + "ps -q --name dying)")},
		{name: "crictl stopp", command: forEver, die: does(crictl + "stopp $(" + crictl + "pods -q)")},
		{name: "crictl rmp -f", command: forEver, die: does(crictl + "rmp -f $(" + crictl + "pods -q)")},
		{name: "out of memory", command: outOfMemory, die: end},
		{name: "its shim killed", command: forEver, die: killShim},
		{name: "containerd killed first", command: forEver, die: func(t *testing.T, pid int) {
			daemon.kill(t)
			kill(t, pid)
		}},
	} {
		t.Run(d.name, func(t *testing.T) {
			id, pid, credential := startInAPod(t, d.command)
			network := networkOf(t, pid)
			d.strikes(t, pid, network, credential, "terok-gate")
			if !daemon.runs() {
				daemon.start(t)
			}
			if d.command == outOfMemory {
				testenv.Eventually(t, "memory was the reason", func() bool {
					return answer(t, "inspect -o go-template --template '{{.status.reason}}' "+id) == "OOMKilled"
				})
			}
			// A containerd whose shim was killed says for a moment that the container runs.
			testenv.Eventually(t, "the pod is removed", func() bool { _, err := sh(crictl + "rmp --all --force"); return err == nil })
			network.goes(t)
		})
	}
	noTokenRemains(t, "terok-gate")
}

func TestAContainerInAPodKeepsItsTokenWhileContainerdIsAway(t *testing.T) {
	daemon := startContainerd(t)
	id, pid, credential := startInAPod(t, forEver)
	network := networkOf(t, pid)

	daemon.kill(t)
	testenv.Must(t, network.served(credential))
	daemon.start(t)
	must(t, crictl+"exec "+id+" sh -ec 'set -a; . /run/terok/gate.env; git ls-remote $CODE_REPO'")

	must(t, crictl+"rmp --all --force")
	noTokenRemains(t, "terok-gate")
}

func TestPodsFailClosed(t *testing.T) {
	startContainerd(t)
	t.Cleanup(func() { _, _ = sh(crictl + "rmp --all --force") })
	write(t, "/cri/host.json", strings.NewReplacer(`"pod"`, `"host"`, `"linux": {}`, `"linux": {"security_context": {"namespace_options": {"network": 2}}}`).Replace(pod))
	inPod, inHost := answer(t, "runp /cri/pod.json"), answer(t, "runp /cri/host.json")

	demo := container(t, "closed", "demo", "true")
	two := container(t, "two", `demo"}, {"name": "terok.dev/project=two`, "true") // with two devices
	// containerd 1.7 may refuse to remove a container that has just ended ("is still running").
	starts := func(pod, container, config string) string {
		return "id=$(" + crictl + "create " + pod + " " + container + " " + config + ") && trap 'until " + crictl + "rm -f $id; do :; done' EXIT && " + crictl + "start $id"
	}
	must(t, "terok-gate add two /root/demo")
	t.Cleanup(func() { must(t, "terok-gate remove two") })

	must(t, starts(inPod, demo, "/cri/pod.json"))
	refused(t, starts(inHost, demo, "/cri/host.json"), "the container is in the host's network")
	refused(t, starts(inPod, two, "/cri/pod.json"), "the container has a token already")
	for _, row := range []struct{ name, file, why string }{
		{"no hook", "/usr/bin/terok-gate-hook", "terok-gate-hook: no such file or directory"},
		{"no gate", "/run/terok-gate/control", "the gate does not answer"},
		{"no file", "/etc/cdi/terok.json", "unresolvable CDI devices terok.dev/project=demo"},
	} {
		t.Run(row.name, func(t *testing.T) {
			must(t, "mv "+row.file+" "+row.file+".away")
			defer must(t, "mv "+row.file+".away "+row.file)
			refused(t, starts(inPod, demo, "/cri/pod.json"), row.why)
		})
	}
	noTokenRemains(t, "terok-gate")
}
