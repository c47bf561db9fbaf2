//go:build engines

// Package node has what the tests of Kubernetes need of a node: containerd, an image, and the
// settings of a kubelet. The tests run in a root file system of their own (scripts/engines).
package node

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// Image is the image of every container of the tests. It has a shell, git and our programs.
const Image = "docker.io/library/terok-gate:1"

const containerdConfig = `version = 3
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/usr/lib/cni']
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '` + Image + `'
`

// podNetwork is the configuration of the network of a node's pods. %q stands for their addresses.
const podNetwork = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
	{"type": "ptp", "ipam": {"type": "host-local", "subnet": %q, "routes": [{"dst": "0.0.0.0/0"}]}}]}`

// Pods are the addresses of this node's pods.
const Pods = "10.88.0.0/24"

// archive is the file that has the image.
const archive = "/image.tar"

// KubeletConfig does without what the tests' host may lack: cgroups of version 2, a limit for huge
// pages, and the right to adjust scores of the OOM killer.
const KubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
address: 127.0.0.1
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
evictionHard: {memory.available: 0%, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%}
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
featureGates: {KubeletInUserNamespace: true}
syncFrequency: 1s
`

// Prepare makes this machine a node without a kubelet: it builds our programs into /usr/bin, starts
// containerd, and imports the image.
func Prepare() (containerd *Daemon, err error) {
	for path, content := range map[string]string{
		"/etc/containerd/config.toml":     containerdConfig,
		"/etc/cni/net.d/10-pods.conflist": fmt.Sprintf(podNetwork, Pods),
	} {
		if err := Write(path, content); err != nil {
			return nil, err
		}
	}
	if containerd, err = StartContainerd(); err != nil {
		return nil, err
	}

	out, err := Sh(`
		[ ! -d /sys/kernel/mm/hugepages ] || mount -t tmpfs tmpfs /sys/kernel/mm/hugepages # the cgroups for huge pages may be missing
		go -C ../.. build -o /usr/bin/ . ./cmd/terok-gate
		go -C ../../nri build -o /usr/bin/terok-nri .

		mkdir -p /image/bin /image/usr/lib/git-core /image/usr/bin /image/tmp /image/etc /image/var && cd /image
		cp /usr/bin/git bin/git && cp /usr/lib/git-core/git-remote-http usr/lib/git-core/
		cp /usr/bin/terok-gate /usr/bin/terok-gate-hook /usr/bin/terok-nri usr/bin/ && ln -s ../run var/run
		cp /usr/bin/busybox bin/ && for name in sh sleep cat cp mv mkdir chmod ls date env id test; do ln -s busybox bin/$name; done
		ldd bin/git usr/lib/git-core/git-remote-http | grep -o '/[^ ]*\.so[^ ]*' | sort -u | tar -C / -ch --files-from=- 2>/dev/null | tar -x
		echo root:x:0:0::/:/bin/sh >etc/passwd && echo root:x:0: >etc/group

		mkdir /archive && tar -cf /archive/layer.tar . && cd /archive
		echo '{"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin:/usr/bin"], "Cmd": ["sleep", "100000"]},
			"rootfs": {"type": "layers", "diff_ids": ["sha256:'$(sha256sum layer.tar | cut -d" " -f1)'"]}}' >config.json
		echo '[{"Config": "config.json", "RepoTags": ["terok-gate:1", "registry.example/terok-gate:1", "docker.io/alpine/git:v2.49.1"], "Layers": ["layer.tar"]}]' >manifest.json
		tar -cf ` + archive + ` . && ctr --namespace k8s.io images import ` + archive)
	fmt.Println(out)
	return containerd, err
}

// StartContainerd starts containerd.
func StartContainerd() (*Daemon, error) {
	return Start(func() error { _, err := Sh("ctr version"); return err }, "containerd")
}

// Daemon is a program that runs until it is killed.
type Daemon struct {
	*exec.Cmd
	ended chan struct{}
}

// Start starts a daemon and waits until it is up.
func Start(up func() error, name string, args ...string) (*Daemon, error) {
	return start(up, name, exec.Command(name, args...))
}

func start(up func() error, name string, cmd *exec.Cmd) (*Daemon, error) {
	log, err := os.OpenFile(Log(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d := &Daemon{cmd, make(chan struct{})}
	d.Stdout, d.Stderr = log, log
	if err := d.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = d.Wait()
		close(d.ended)
	}()

	var last error
	testenv.Wait(func() bool {
		last = up()
		select {
		case <-d.ended:
			return true
		default:
			return last == nil
		}
	})
	if last != nil {
		tail, _ := Sh("tail -n 30 " + Log(name))
		last = fmt.Errorf("%s does not come up: %w: %s", name, last, tail)
	}
	return d, last
}

// Kill kills a daemon.
func (d *Daemon) Kill(t *testing.T) {
	t.Helper()
	testenv.Must(t, d.Process.Kill())
	<-d.ended
}

// Log returns the path of a daemon's log.
func Log(name string) string { return "/tmp/" + name + ".log" }

// There returns an error if the file does not exist.
func There(path string) error {
	_, err := os.Stat(path)
	return err
}

// Says returns an error if a daemon's log does not have the text.
func Says(daemon, text string) error {
	log, err := os.ReadFile(Log(daemon))
	if err == nil && !strings.Contains(string(log), text) {
		err = fmt.Errorf("the log of %s has no %q", daemon, text)
	}
	return err
}

// Write writes a file, and makes its directory.
func Write(path, content string) error {
	if err := os.MkdirAll(path[:strings.LastIndex(path, "/")], 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

// Sh runs a script and returns what the script writes to both outputs.
func Sh(script string) (string, error) { return sh(exec.Command, script) }

func sh(command func(string, ...string) *exec.Cmd, script string) (string, error) {
	out, err := command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return string(out), err
}

// Must is Sh for a script that must not fail. It returns what the script writes, without blanks
// around it.
func Must(t *testing.T, script string) string {
	t.Helper()
	out, err := Sh(script)
	testenv.Must(t, err)
	return strings.TrimSpace(out)
}
