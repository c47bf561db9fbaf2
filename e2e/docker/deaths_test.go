//go:build engines

package docker

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

// network is a container's network namespace.
type network struct {
	*os.File
	link string // as /proc names it
}

func networkOf(t *testing.T, pid int) network {
	t.Helper()
	path := fmt.Sprintf("/proc/%d/ns/net", pid)
	file, err := os.Open(path)
	testenv.Must(t, err)
	t.Cleanup(func() { file.Close() })
	link, err := os.Readlink(path)
	testenv.Must(t, err)
	return network{file, link}
}

func (n network) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--net=/proc/self/fd/3", name}, args...)...)
	cmd.ExtraFiles = []*os.File{n.File}
	return cmd
}

// served returns nil if the gate answers a request in the network. credential is the path of a
// file with the credential, empty if the token is withheld.
func (n network) served(credential string) error {
	args := []string{"ls-remote", repo}
	if credential != "" {
		args = append([]string{"-c", "credential.helper=!cat " + credential + " #"}, args...)
	}
	if out, err := n.command("git", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// listeners returns the listening TCP sockets in the network.
func (n network) listeners(t *testing.T) string {
	t.Helper()
	out, err := n.command("ss", "--listening", "--tcp", "--numeric", "--no-header").CombinedOutput()
	testenv.Must(t, err)
	return strings.TrimSpace(string(out))
}

// holders returns what keeps the network, after the test has closed its file: processes in the
// network, open files, and mounts.
func (n network) holders() (holders []string) {
	for _, pattern := range []string{"/proc/[0-9]*/ns/net", "/proc/[0-9]*/fd/*"} {
		paths, _ := filepath.Glob(pattern)
		holders = append(holders, slices.DeleteFunc(paths, func(path string) bool {
			at, err := os.Readlink(path)
			return err != nil || at != n.link
		})...)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, n.link) {
			holders = append(holders, line)
		}
	}
	return holders
}

// goes waits until the network is gone.
func (n network) goes(t *testing.T) {
	t.Helper()
	testenv.Must(t, n.Close())
	if !testenv.Wait(func() bool { return len(n.holders()) == 0 }) {
		t.Errorf("its network is still there: %q", n.holders())
	}
}

// death is a container named dying, and the way in which it ends.
type death struct {
	name, flags, command string
	die                  func(t *testing.T, pid int)
	again                bool // it starts again, with another token
}

// strikes makes the container's process die. It checks that nothing is served afterwards, and
// that neither token nor listener is left. gate is the beginning of commands to the container's
// gate.
func (d death) strikes(t *testing.T, pid int, n network, credential, gate string) {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	testenv.Must(t, err)
	defer unix.Close(pidfd)
	testenv.Must(t, n.served(credential))
	if n.listeners(t) == "" {
		t.Error("the container is served, but ss shows no listener")
	}
	before := must(t, gate+" list --json")

	d.die(t, pid)
	testenv.Must(t, ended(pidfd))
	testenv.Must(t, n.command("ip", "link", "set", "lo", "up").Run()) // the end of a pod takes it down, and then connecting takes minutes
	if err := n.served(credential); err == nil {
		t.Error("a request that began after the death was served")
	}
	if !testenv.Wait(func() bool { return n.listeners(t) == "" }) {
		t.Errorf("listeners remain: %s", n.listeners(t))
	}
	if !testenv.Wait(func() bool { return must(t, gate+" list --json") != before }) {
		t.Error("its token is still there")
	}
}

// ended waits until the process has ended.
func ended(pidfd int) error {
	for {
		switch n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(testenv.AWhile.Milliseconds())); {
		case n == 1:
			return nil
		case err != unix.EINTR: // a signal of Go's own causes EINTR
			return fmt.Errorf("it lives: %v", err)
		}
	}
}

// happens starts the container with Docker, and makes it die. docker and gate are the
// beginnings of commands.
func (d death) happens(t *testing.T, docker, gate string) {
	must(t, docker+" run -d --memory 30m --stop-timeout 1 --name dying "+d.flags+" "+device+image+" "+d.command)
	t.Cleanup(func() { _, _ = sh(docker + " rm -f dying") })
	pid, err := strconv.Atoi(must(t, docker+" inspect -f '{{.State.Pid}}' dying"))
	testenv.Must(t, err)
	network := networkOf(t, pid)

	d.strikes(t, pid, network, "", gate)
	network.goes(t)
	if d.command == outOfMemory {
		testenv.Eventually(t, "memory was the reason", func() bool { return must(t, docker+" inspect -f '{{.State.OOMKilled}}' dying") == "true" })
	}
	if d.again {
		testenv.Eventually(t, "it is served again", func() bool { _, err := sh(docker + " exec dying git ls-remote " + repo); return err == nil })
	}
}

const (
	forEver  = "sleep 1000"
	untilEnd = "sh -c 'while ! [ -e /tmp/end ]; do sleep 0.05; done'"
	// Once /tmp/end exists, the process takes all the memory that it is allowed.
	outOfMemory = "sh -c 'while ! [ -e /tmp/end ]; do sleep 0.05; done; exec tail /dev/zero'"
)

// does returns a way to die, by this command.
func does(command string) func(*testing.T, int) {
	return func(t *testing.T, _ int) { t.Helper(); must(t, command) }
}

// killShim kills the parent of the container's process, which is a process of the engine, and then
// the container's process.
func killShim(t *testing.T, pid int) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	testenv.Must(t, err)
	shim, err := strconv.Atoi(strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))[1])
	testenv.Must(t, err)
	kill(t, shim)
	kill(t, pid)
}

func noTokenRemains(t *testing.T, gate string) {
	t.Helper()
	if !testenv.Wait(func() bool { return must(t, gate+" list --json") == "[]" }) {
		t.Errorf("tokens remain: %s", must(t, gate+" list"))
	}
}

func TestNothingIsServedAfterADeath(t *testing.T) {
	end := does("docker exec dying sh -c '>/tmp/end'")
	for _, d := range []death{
		{name: "exit", command: untilEnd, die: end},
		{name: "kill -9 of the process", command: forEver, die: kill},
		{name: "kill -9, with a restart policy", flags: "--restart always", command: forEver, die: kill, again: true},
		{name: "docker kill", command: forEver, die: does("docker kill dying")},
		{name: "docker stop", command: forEver, die: does("docker stop -t 0 dying")},
		{name: "docker rm -f", command: forEver, die: does("docker rm -f dying")},
		{name: "docker restart", command: forEver, die: does("docker restart -t 0 dying"), again: true},
		{name: "out of memory", command: outOfMemory, die: end},
		{name: "its shim killed", command: forEver, die: killShim},
		{name: "the daemon killed, and back", command: forEver, die: func(t *testing.T, _ int) {
			killDocker(t)
			testenv.Must(t, startDocker())
		}},
		{name: "the daemon killed first", command: forEver, die: func(t *testing.T, pid int) {
			killDocker(t)
			kill(t, pid)
			testenv.Must(t, startDocker())
		}},
	} {
		t.Run(d.name, func(t *testing.T) { d.happens(t, "docker", "terok-gate") })
	}
	noTokenRemains(t, "terok-gate")
}
