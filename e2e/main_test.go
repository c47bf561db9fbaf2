package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
)

// systemLog is what processes in our namespaces, such as the hook, send to the system log
// at /dev/log.
var systemLog testenv.Log

// with matches the messages that contain all of parts.
func with(parts ...string) func(message string) bool {
	return func(message string) bool {
		return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(message, part) })
	}
}

func TestMain(m *testing.M) {
	if status, isHook := gate.RunHook(os.Args[0]); isHook {
		testenv.ExitPromptly(status)
	}
	var namespaces uintptr
	if os.Geteuid() == 0 {
		namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID
	}
	testenv.Main(namespaces, func() (status int, err error) {
		if testenv.Alone {
			if err := furnish(); err != nil {
				return 0, err
			}
		}
		if os.Geteuid() != 0 {
			defer endOwnEngines()
		}
		return m.Run(), nil
	})
}

// furnish makes the new namespaces a place where podman runs and does not change the
// machine.
func furnish() error {
	// Our mounts are cut off from the machine, and then shared among the namespaces
	// below ours, as systemd does on any machine: as root with --uidmap, podman runs
	// conmon in a mount namespace of its own, and relies on unmounts there reaching
	// our namespace, too. (Otherwise `podman rm` fails now and then with "userdata/shm: device
	// or resource busy", podman 4.3.1.)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}

	if err := hideHybridCgroup(); err != nil {
		return err
	}
	if err := hideSystemd(); err != nil {
		return err
	}

	if err := mountOver("/etc/cdi"); err != nil { // what root's install writes for other engines
		return err
	}
	if err := mountOver("/var/log/terok-gate"); err != nil { // the trail of root's hooks
		return err
	}
	if err := addTestUser(); err != nil {
		return err
	}

	if err := systemLog.Listen(); err != nil {
		return err
	}
	return furnishNetworks()
}

// mountOver mounts an empty directory over one of the machine's.
func mountOver(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("terok-e2e", dir, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount at %s: %w", dir, err)
	}
	return nil
}

const tun = "/dev/net/tun"

// furnishNetworks prepares for tests with podman's networks. CNI keeps addresses in
// /var/lib/cni by default. slirp4netns and pasta need a device that every user may open, as
// udev sets it up.
func furnishNetworks() error {
	if err := mountOver("/var/lib/cni"); err != nil {
		return err
	}
	const ours = "/dev/tun"
	if err := unix.Mknod(ours, unix.S_IFCHR, int(unix.Mkdev(10, 200))); errors.Is(err, unix.EPERM) {
		return nil // wired reports this to the tests that need the device
	} else if err != nil {
		return fmt.Errorf("make %s: %w", ours, err)
	}
	if err := os.Chmod(ours, 0o666); err != nil {
		return err
	}
	if err := unix.Mount(ours, tun, "", unix.MS_BIND, ""); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("mount over %s: %w", tun, err)
	}
	return nil
}

// hideHybridCgroup hides the v2 tree that some machines mount beside cgroup v1: crun 1.8.1
// refuses to run if it sees both.
func hideHybridCgroup() error {
	var base, unified unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &base) != nil || unix.Statfs("/sys/fs/cgroup/unified", &unified) != nil {
		return nil
	}
	if base.Type == unix.CGROUP2_SUPER_MAGIC || unified.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	if err := unix.Unmount("/sys/fs/cgroup/unified", 0); err != nil {
		return fmt.Errorf("unmount the cgroup v2 tree: %w", err)
	}
	return nil
}

// hideSystemd hides the machine's systemd. Otherwise install as root would tell it of
// units, and doctor would examine it. Tests with a systemd boot their own (newMachine).
func hideSystemd() error {
	const dir = "/run/systemd"
	err := unix.Mount("terok-e2e", dir, "tmpfs", 0, "mode=0755")
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("mount at %s: %w", dir, err)
	}
	return nil
}

// The user of the rootless engines if root runs the tests. This user is only in copies of
// the machine's files, which are mounted over the originals in our namespace.
const (
	testUser = "terok-e2e"
	testUID  = 4711
)

func addTestUser() error {
	// With --userns=auto, root's containers get the ids of this name
	// (containers-storage.conf(5)). Since podman 6, the name must also be a user's.
	const containers, containersUID = "containers", testUID + 1

	for file, lines := range map[string]string{
		"/etc/passwd": fmt.Sprintf("%s:x:%d:%[2]d::/:/bin/sh\n%s:x:%d:%[4]d::/:/bin/false\n", testUser, testUID, containers, containersUID),
		"/etc/group":  fmt.Sprintf("%s:x:%d:\n%s:x:%d:\n", testUser, testUID, containers, containersUID),
		"/etc/subuid": testUser + ":1879048192:65536\n" + containers + ":1879113728:65536\n",
		"/etc/subgid": testUser + ":1879048192:65536\n" + containers + ":1879113728:65536\n",
	} {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(file, "/etc/sub") {
			continue // no rootless containers on this machine; engine.setup says so
		}
		if err != nil {
			return err
		}

		if len(text) > 0 && text[len(text)-1] != '\n' {
			text = append(text, '\n')
		}

		ours := filepath.Join(testenv.Dir, filepath.Base(file))
		if err := os.WriteFile(ours, append(text, lines...), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(ours, file, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount over %s: %w", file, err)
		}
	}
	return nil
}

// hookBinary and gateBinary return the paths of the two programs, which are built for this
// run, both in one directory.
var (
	hookBinary = sync.OnceValues(func() (string, error) { return testenv.Build("terok-gate-hook") })
	gateBinary = sync.OnceValues(func() (string, error) {
		if _, err := hookBinary(); err != nil {
			return "", err
		}
		return testenv.Build("terok-gate-hook/cmd/terok-gate")
	})
)

// rootfsTar is the one root file system that all fixtures are made from:
// busybox, its applets, and the directories that a runtime wants to mount on. It has
// no /run/terok, and no /etc/passwd.
var rootfsTar = sync.OnceValues(func() (string, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(testenv.Dir, "rootfs")
	for _, d := range []string{"bin", "dev", "etc", "proc", "run", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return "", err
		}
	}
	if err := copyFile(busybox, filepath.Join(dir, "bin/busybox"), 0o755); err != nil {
		return "", err
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return "", fmt.Errorf("%s --list: %w", busybox, err)
	}
	for _, applet := range strings.Fields(string(applets)) {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", applet)); err != nil && !errors.Is(err, os.ErrExist) {
			return "", err
		}
	}
	path := filepath.Join(testenv.Dir, "rootfs.tar")
	tar := exec.Command("tar", "-C", dir, "--owner=0", "--group=0", "-cf", path, ".")
	if out, err := tar.CombinedOutput(); err != nil {
		return "", fmt.Errorf("tar: %w\n%s", err, out)
	}
	return path, os.Chmod(path, 0o644)
})

func copyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
