//go:build engines

package node

import (
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
)

// Machine stands for another machine than the test's: it has its own processes, network, mounts,
// and directories that programs write to. It shares the test's kernel, programs and settings.
type Machine struct {
	name string
	pid  int // of its process 1
}

// NewMachine makes a machine with this address, and connects it to this machine by a cable. The
// parameter ours is an address that this machine already has. This machine sends to the new machine
// from that address, and the new machine's default route leads to it.
func NewMachine(name, address, ours string) (*Machine, error) {
	first := exec.Command("sleep", "infinity")
	first.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	if err := first.Start(); err != nil {
		return nil, err
	}
	m := &Machine{name, first.Process.Pid}

	if _, err := m.Sh(`
		hostname ` + name + `
		mount --make-rprivate /
		mount -t proc proc /proc
		for directory in /run /tmp /opt /etc/cdi /etc/cni /var/lib/kubelet /var/lib/terok /var/log; do
			mkdir -p $directory
			mount -t tmpfs -o mode=0755 tmpfs $directory
		done
		mount --bind /var/lib/containers /var/lib/containerd # the former is on a disk, and not in use
		tr -d - </proc/sys/kernel/random/uuid >/run/machine-id
		mount --bind /run/machine-id /etc/machine-id
		mount --make-rshared /`); err != nil {
		return nil, err
	}
	if _, err := Sh(fmt.Sprintf(`
		ip link add %[1]s type veth peer name eth0 netns %[2]d
		ip link set %[1]s up
		ip route add %[3]s dev %[1]s src %[4]s`, name, m.pid, address, ours)); err != nil {
		return nil, err
	}
	_, err := m.Sh(fmt.Sprintf(`
		ip link set lo up
		ip link set eth0 up
		ip addr add %s/32 dev eth0
		ip route add default via %s dev eth0 onlink`, address, ours))
	return m, err
}

// Prepare makes the machine a node without a kubelet. The function Prepare, which does the same with
// the test's machine, must have been called before. pods are the addresses of the node's pods.
func (m *Machine) Prepare(pods string) error {
	if _, err := m.Sh("mkdir -p /etc/cni/net.d && cat >/etc/cni/net.d/10-pods.conflist <<'END'\n" + fmt.Sprintf(podNetwork, pods) + "\nEND"); err != nil {
		return err
	}
	if _, err := m.Start(func() error { _, err := m.Sh("ctr version"); return err }, "containerd"); err != nil {
		return err
	}
	_, err := m.Sh("ctr --namespace k8s.io images import " + archive)
	return err
}

// Sh runs a script on the machine, as the function Sh does on the test's.
func (m *Machine) Sh(script string) (string, error) { return sh(m.command, script) }

// Start starts a daemon on the machine, as the function Start does on the test's. The daemon's log
// is among the test's files; its name begins with the machine's.
func (m *Machine) Start(up func() error, name string, args ...string) (*Daemon, error) {
	return start(up, m.name+"-"+name, m.command(name, args...))
}

func (m *Machine) command(name string, args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(m.pid), "--mount", "--pid", "--net", "--ipc", "--uts", "--", name}
	return exec.Command("nsenter", append(enter, args...)...)
}
