package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

// machine is a machine like our users': systemd is its process 1, there are a journal,
// log-ins and user services, and podman is as its packages set it up. Its root file system
// starts as a copy of ours (an overlay, in memory), without home directories, containers,
// our package, and what the administrator has enabled. It has no network but loopback.
type machine struct {
	dir    string    // holds what it changes
	init   *exec.Cmd // its process 1; nil while it is off
	ended  chan struct{}
	cgroup string      // relative to the root of the tree
	lacks  machineLack // what it lacks because our machine does
}

// machineLack is what a build machine may lack and a user's machine has.
type machineLack struct {
	resource bool // CAP_SYS_RESOURCE
	pids     bool // the pids controller, of cgroup v2
}

// setUpDisk fills $1/root, which becomes the root file system, before the first boot.
const setUpDisk = `
cd "$1"
mkdir upper work root state state/home state/containers
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" terok-e2e root
cd root
mkdir -p etc/systemd/system etc/systemd/user home var/lib/containers
rm -rf etc/systemd/system/* etc/systemd/user/* etc/containers/containers.conf* var/lib/systemd/linger var/lib/terok
if [ -e var/lib/dpkg/info/terok-gate-hook.list ]; then
	rm -f var/lib/dpkg/info/terok-gate-hook.p* # they would stop services
	chroot . dpkg --purge terok-gate-hook >/dev/null
	rm -rf var/lib/terok-gate var/log/terok-gate
fi
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id.new
mv etc/machine-id.new etc/machine-id
echo machine >etc/hostname
: >etc/fstab
# These units would change the kernel, which is not ours alone, or wait for a terminal.
for unit in systemd-sysctl.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount getty.target; do
	ln -s /dev/null etc/systemd/system/$unit
done`

// bootDisk is process 1 until it becomes systemd, in new namespaces. Podman's storage is
// not on the overlay, since an overlay cannot be on another. /sys is read-only: otherwise
// udev would manage our devices. /proc is writable and nothing is mounted on it: otherwise
// a container in a user namespace could not mount its own.
const bootDisk = `
cd "$1"
mount --make-rprivate /
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" terok-e2e root
mount --bind state/home root/home
mount --bind state/containers root/var/lib/containers
cd root
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=0755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=0700 tmpfs root
mount -t tmpfs -o mode=0755 tmpfs dev
mkdir dev/pts dev/net
mount -t devpts -o newinstance,mode=0620,ptmxmode=0666,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for device in null zero full random urandom tty fuse net/tun; do
	[ ! -e /dev/$device ] || cp -a /dev/$device dev/$device
done
chmod 0666 dev/fuse dev/net/tun 2>/dev/null || true # as udev does
mkdir -p old
pivot_root . old
umount -l old
mount --make-rshared /
exec env -i container=terok-e2e PATH=/usr/sbin:/usr/bin:/sbin:/bin \
	setpriv --bounding-set -sys_module,-sys_rawio,-sys_time,-syslog \
	/lib/systemd/systemd --unit=multi-user.target --log-target=journal --show-status=no`

// newMachine boots a machine. It is gone when the test is over.
func newMachine(t *testing.T) *machine {
	t.Helper()
	testenv.NeedAlone(t)
	testenv.Need(t, "podman", "crun", "runc", "busybox", "newuidmap", "unshare", "pivot_root", "nsenter", "setpriv", "runuser", "dbus-daemon", "loginctl")

	for what, pattern := range map[string]string{
		"systemd":                   "/lib/systemd/systemd",
		"the PAM module of systemd": "/lib/*/security/pam_systemd.so",
		"the message bus of users' services in D-Bus": "/usr/lib/systemd/user/dbus.socket",
	} {
		if found, _ := filepath.Glob(pattern); len(found) == 0 {
			testenv.Cannot(t, "%s is not installed", what)
		}
	}

	dir, err := os.MkdirTemp(testenv.Dir, "machine")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("terok-e2e", dir, "tmpfs", 0, "mode=0755"); err != nil {
		t.Fatalf("mount a disk: %v", err)
	}

	m := &machine{dir: dir}
	t.Cleanup(func() {
		m.off(t)
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount the disk: %v", err)
		}
	})

	if out, err := exec.Command("unshare", "--mount", "sh", "-euc", setUpDisk, "sh", dir).CombinedOutput(); err != nil {
		testenv.Cannot(t, "the root file system cannot be copied: %v: %s", err, out)
	}

	m.boot(t)
	m.makeUp(t)
	return m
}

// boot starts the machine and waits until it has started all that it should.
func (m *machine) boot(t *testing.T) {
	t.Helper()
	group, err := m.makeCgroup()
	if err != nil {
		testenv.Cannot(t, "no cgroup of version 2 for a machine: %v", err)
	}
	defer group.Close()

	var said bytes.Buffer
	// unshare --cgroup makes a cgroup namespace that begins at the cgroup of the process,
	// so the process must be in the machine's cgroup by then.
	m.init = exec.Command("unshare", "--cgroup", "sh", "-euc", bootDisk, "sh", m.dir)
	m.init.Stdout, m.init.Stderr = &said, &said
	m.init.WaitDelay = time.Second
	m.init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
		UseCgroupFD: true,
		CgroupFD:    int(group.Fd()),
	}
	if err := m.init.Start(); err != nil {
		m.init = nil
		t.Fatalf("boot: %v", err)
	}

	m.ended = make(chan struct{})
	go func() {
		_ = m.init.Wait()
		close(m.ended)
	}()

	late := time.After(time.Minute)
	for {
		out, _ := m.enter("systemctl", "is-system-running", "--wait")
		switch strings.TrimSpace(out) {
		case "running":
			return
		case "degraded":
			failed, _ := m.enter("systemctl", "list-units", "--failed", "--no-legend", "--plain")
			t.Logf("the machine boots, but: %s", failed)
			if strings.Contains(failed, "terok-gate") {
				t.Error("one of our units failed")
			}
			return
		}

		select {
		case <-time.After(20 * time.Millisecond):
			continue
		case <-m.ended:
		case <-late:
		}

		m.off(t)
		t.Fatalf("the machine does not boot: %s: %s", out, &said)
	}
}

// makeCgroup makes a cgroup for the machine. A new process can be put into it.
func (m *machine) makeCgroup() (*os.File, error) {
	var group *os.File
	err := m.atCgroups(func(tree string) error {
		path, err := os.MkdirTemp(tree, "terok-e2e-machine")
		if err != nil {
			return err
		}
		m.cgroup = filepath.Base(path)
		if err := os.Chmod(path, 0o755); err != nil { // users have cgroups below it
			return err
		}
		controllers, err := os.ReadFile(filepath.Join(path, "cgroup.controllers"))
		if err != nil {
			return err
		}
		m.lacks.pids = !slices.Contains(strings.Fields(string(controllers)), "pids")
		group, err = os.Open(path)
		return err
	})
	return group, err
}

// atCgroups mounts the tree of cgroup v2 while do runs.
func (m *machine) atCgroups(do func(tree string) error) error {
	tree := filepath.Join(m.dir, "cgroups")
	if err := os.Mkdir(tree, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := unix.Mount("cgroup2", tree, "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	return errors.Join(do(tree), unix.Unmount(tree, unix.MNT_DETACH))
}

// off cuts the power of the machine.
func (m *machine) off(t *testing.T) {
	t.Helper()
	if m.init == nil {
		return
	}

	_ = m.init.Process.Kill() // and with process 1 all the rest
	<-m.ended
	m.init = nil

	err := m.atCgroups(func(tree string) error {
		var groups []string
		err := filepath.WalkDir(filepath.Join(tree, m.cgroup), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				groups = append(groups, path)
			}
			return err
		})
		for _, group := range slices.Backward(groups) {
			err = errors.Join(err, os.Remove(group))
		}
		return err
	})
	if err != nil {
		t.Errorf("remove the machine's cgroups: %v", err)
	}
}

// makeUp configures podman to make up for what the machine lacks and a user's machine has. Without
// CAP_SYS_RESOURCE, podman's limits and crun as root fail; without the pids controller of
// cgroup v2, podman's limit of processes fails. The settings are in a drop-in: from podman 6
// on, a user's containers.conf hides other files, but never a drop-in.
func (m *machine) makeUp(t *testing.T) {
	t.Helper()
	held, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	m.lacks.resource = held == 0
	containers, engine := "", ""
	if m.lacks.pids {
		containers = "pids_limit = 0\n"
	}
	if m.lacks.resource {
		containers += "default_ulimits = [\"nofile=1024:1024\", \"nproc=1000:1000\"]\n"
		engine = "runtime = \"runc\"\n"
	}
	if conf := "[containers]\n" + containers + "[engine]\n" + engine; containers != "" {
		m.must(t, "root", fmt.Sprintf("mkdir -p /etc/containers/containers.conf.d; cat >/etc/containers/containers.conf.d/10-machine.conf <<'END'\n%sEND", conf))
	}
}

// addUser makes a user who can log in and run rootless containers, with crun. If our own machine
// has a user of the same name, addUser first removes the copy of that user from this machine.
func (m *machine) addUser(t *testing.T, name string, flags ...string) {
	t.Helper()
	m.must(t, "root", fmt.Sprintf("! getent passwd %s >/dev/null || userdel --force %[1]s; ! getent group %[1]s >/dev/null || groupdel --force %[1]s", name))
	m.must(t, "root", "useradd --create-home --shell /bin/bash "+strings.Join(flags, " ")+" "+name)
	if m.lacks.resource {
		m.must(t, name, "mkdir -p ~/.config/containers/containers.conf.d; printf '[engine]\\nruntime = \"crun\"\\n' >~/.config/containers/containers.conf.d/20-user.conf")
	}
}

// addImage gives the user's podman the image of the tests.
func (m *machine) addImage(t *testing.T, user string) {
	t.Helper()
	tarball, err := rootfsTar()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(m.path("/srv/rootfs.tar")); err != nil {
		m.put(t, tarball, "/srv/rootfs.tar", 0o644)
	}
	m.must(t, user, "podman import --quiet /srv/rootfs.tar "+image)
}

// path returns the path at which the test sees a file of the machine's.
func (m *machine) path(name string) string {
	return filepath.Join("/proc", strconv.Itoa(m.init.Process.Pid), "root", name)
}

// put copies a file of ours into the machine.
func (m *machine) put(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	if err := copyFile(from, m.path(to), mode); err != nil {
		t.Fatal(err)
	}
}

// enter runs a command in the machine's namespaces and returns both of its outputs.
func (m *machine) enter(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := m.command(ctx, name, args...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (m *machine) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	args = append([]string{"--all", "--target", strconv.Itoa(m.init.Process.Pid), name}, args...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.WaitDelay = time.Second // a container may hold on to our pipes
	return cmd
}

// sh logs a user in, runs a shell script, logs the user out and returns what the script
// said on both outputs.
func (m *machine) sh(user, script string) (string, error) {
	out, err := m.enter("runuser", "--login", user, "--command", "set -e; exec 2>&1; "+script)
	if err != nil {
		err = fmt.Errorf("%s: %s: %w\n%s", user, script, err, out)
	}
	return out, err
}

func (m *machine) must(t *testing.T, user, script string) string {
	t.Helper()
	out, err := m.sh(user, script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// eventually waits until the script succeeds, as root and without a log-in.
func (m *machine) eventually(t *testing.T, script string) {
	t.Helper()
	testenv.Eventually(t, "this succeeds in the machine: "+script, func() bool {
		_, err := m.enter("sh", "-ec", script)
		if err != nil {
			time.Sleep(50 * time.Millisecond) // leaves the processor to the machine
		}
		return err == nil
	})
}

// logIn logs a user in until the function that it returns is called.
func (m *machine) logIn(t *testing.T, user string) (logOut func()) {
	t.Helper()
	cmd := m.command(context.Background(), "runuser", "--login", user, "--command", "echo; exec cat >/dev/null")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, err = stdout.Read(make([]byte, 1))
	}
	if err != nil {
		t.Fatalf("%s cannot log in: %v", user, err)
	}
	return func() {
		stdin.Close()
		_ = cmd.Wait()
	}
}
