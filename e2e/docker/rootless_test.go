//go:build engines

package docker

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"terok-gate-hook/internal/testenv"
)

const (
	worker        = "setpriv --reuid worker --regid worker --init-groups env -C /home/worker HOME=/home/worker USER=worker XDG_RUNTIME_DIR=/run/user/worker DOCKER_HOST=unix:///run/user/worker/docker.sock PATH=$PATH:/usr/share/docker.io/contrib "
	workersDocker = "docker --host unix:///run/user/worker/docker.sock"
	ownRepo       = "/home/worker/.local/share/terok-gate/repos/demo.git"
	ownConfig     = `{"cdi-spec-dirs": ["/home/worker/.config/cdi"], "data-root": "/var/lib/containers/worker", "bridge": "none", "iptables": false, "ip6tables": false, "storage-driver": "overlay2", "features": {"cdi": true}}`
)

// The user has a daemon, a gate and a file of devices of their own. The daemon gets its network
// from slirp4netns.
func TestRootlessDockerTakesTheDevice(t *testing.T) {
	must(t, `useradd -m worker && install -d -o worker -m 700 /run/user/worker /var/lib/containers/worker
		install -d -o worker -g worker -m 775 /home/worker/.config /home/worker/.config/docker
		docker save `+image+` >/tmp/image.tar
		echo '`+ownConfig+`' >/home/worker/.config/docker/daemon.json`)
	out := must(t, worker+"terok-gate install")
	for _, want := range []string{"/home/worker/.config/cdi/terok.json", `~/.config/docker/daemon.json needs {"features": {"cdi": true}, "cdi-spec-dirs": ["/home/worker/.config/cdi"]}`} {
		if !strings.Contains(out, want) {
			t.Errorf("install does not say %s: %s", want, out)
		}
	}

	startForWorker(t, "worker's gate", "exec "+worker+"terok-gate serve", "test -S /run/user/worker/terok-gate/control")
	must(t, worker+"git init -q -b main demo && "+worker+as+"-C demo commit -q --allow-empty -m one && "+worker+"terok-gate add demo demo")

	const rootless = "exec " + worker + "DOCKERD_ROOTLESS_ROOTLESSKIT_NET=slirp4netns dockerd-rootless.sh"
	for _, row := range []struct{ name, command string }{
		{"cgroups of the machine", rootless},
		{"cgroup v2", "exec unshare --mount sh -ec 'umount --recursive /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; " + rootless + "'"},
	} {
		t.Run(row.name, func(t *testing.T) {
			startForWorker(t, "rootless", row.command, workersDocker+" info")
			if version := must(t, workersDocker+" info -f '{{.CgroupVersion}}'"); row.name == "cgroup v2" && version != "2" {
				t.Errorf("it is cgroup v%s", version)
			}
			workerTakesTheDevice(t)
		})
	}
}

// startForWorker starts a daemon, which runs until the test is over.
func startForWorker(t *testing.T, name, command, until string) {
	t.Helper()
	daemon := exec.Command("sh", "-c", command)
	testenv.Must(t, start(daemon, name, until))
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		_ = daemon.Wait()
	})
}

// workerTakesTheDevice checks how the daemon's containers work, are refused, and die.
func workerTakesTheDevice(t *testing.T) {
	must(t, workersDocker+" load </tmp/image.tar")
	t.Log(must(t, workersDocker+" info -f '{{.ServerVersion}}, {{.SecurityOptions}}, cgroup v{{.CgroupVersion}}'"))

	before := must(t, worker+"git -C "+ownRepo+" rev-parse main")
	must(t, worker+"docker run --rm "+device+image+" sh -ec "+work)
	if after := must(t, worker+"git -C "+ownRepo+" rev-parse main"); after == before {
		t.Error("nothing was pushed")
	}
	must(t, worker+"docker run -d --name exec "+device+image+" "+forEver)
	for _, user := range []string{"0", "65534"} {
		must(t, worker+"docker exec -u "+user+" exec git ls-remote "+repo)
	}
	must(t, worker+"docker rm -f exec")
	refused(t, worker+"docker run --rm --network none --device terok.dev/project=none "+image+" true", "unresolvable CDI devices terok.dev/project=none")
	refused(t, worker+"docker run --rm --network host --device terok.dev/project=demo "+image+" true", "the container is in the host's network")

	for _, d := range []death{
		{name: "exit", command: untilEnd, die: does(workersDocker + " exec dying sh -c '>/tmp/end'")},
		{name: "kill -9 of the process", command: forEver, die: kill},
		{name: "docker rm -f", command: forEver, die: does(workersDocker + " rm -f dying")},
		{name: "docker restart", command: forEver, die: does(workersDocker + " restart -t 0 dying"), again: true},
	} {
		t.Run(d.name, func(t *testing.T) { d.happens(t, workersDocker, worker+"terok-gate") })
	}
	noTokenRemains(t, worker+"terok-gate")

	must(t, worker+"terok-gate doctor")
	must(t, worker+"terok-gate uninstall")
	refused(t, worker+"docker run --rm "+device+image+" true", "unresolvable CDI devices terok.dev/project=demo")
	must(t, worker+"terok-gate install")
}
