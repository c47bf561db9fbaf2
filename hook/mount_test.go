package hook

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/store"
)

func TestTheContainerFindsItsTokenInADirectoryOfItsOwn(t *testing.T) {
	t.Parallel()
	for _, runtime := range []string{"crun", "runc"} {
		for name, flags := range map[string]uintptr{"same user namespace": 0, "user namespace of its own": unix.CLONE_NEWUSER} {
			t.Run(runtime+", "+name, func(t *testing.T) {
				t.Parallel()
				c := prepare(t)
				c.hook.GateURL = "http://gate.example:9418"
				c.start(t, flags)
				before := mounts(t, fmt.Sprint(c.pid))

				out, err := c.prestart(t, runtime, nil)
				must(t, err)

				// A mount of its own, with nothing on it that could be run or opened as a device.
				after := mounts(t, fmt.Sprint(c.pid))
				point := filepath.Join(c.rootfs, "run/terok")
				if got := newMounts(before, after); !slices.Equal(got, []string{point}) {
					t.Fatalf("new mounts are %q, not one on %s", got, point)
				}
				if line := after[point]; !strings.Contains(line, " ro,nosuid,nodev,noexec,") || !strings.Contains(line, " - tmpfs terok-gate ") {
					t.Errorf("the mount is not a tmpfs, read-only, nosuid, nodev and noexec: %s", line)
				}
				if err := os.WriteFile(c.inside("/run/terok/more"), nil, 0o600); !errors.Is(err, unix.EROFS) {
					t.Errorf("root writes to the directory: %v", err)
				}

				// The process is user 1234:55, as in the bundle. No other user can read the token.
				uid, gid, root := uint32(1234), uint32(55), uint32(0)
				if flags != 0 {
					uid, gid, root = 101234, 100055, 100000
				}
				want := map[string]string{
					"/run":                   fmt.Sprintf("drwxr-xr-x %d:%d", root, root),
					"/run/terok":             "dr-xr-xr-x 0:0",
					"/run/terok/gate.env":    fmt.Sprintf("-r-------- %d:%d", uid, gid),
					"/run/terok/credential":  fmt.Sprintf("-r-------- %d:%d", uid, gid),
					"/run/terok/gitconfig":   "-r--r--r-- 0:0",
					"/run/terok/gitidentity": "-r--r--r-- 0:0",
				}
				for path, want := range want {
					if got := modeAndOwner(t, c.inside(path)); got != want {
						t.Errorf("%s is %s, not %s", path, got, want)
					}
				}
				files, err := os.ReadDir(c.inside("/run/terok"))
				must(t, err)
				if len(files) != 4 {
					t.Errorf("the directory holds %v", files)
				}

				// The token in the file is the one that the gate knows.
				env, err := os.ReadFile(c.inside("/run/terok/gate.env"))
				must(t, err)
				if first := "TEROK_GATE_TOKEN=" + string(out.Token) + "\nTEROK_PROJECT=demo\nTEROK_TASK=1\n"; !strings.HasPrefix(string(env), first) {
					t.Errorf("gate.env does not begin with token, project and task")
				}
				entries, err := c.hook.Tokens.Entries()
				must(t, err)
				if len(entries) != 1 {
					t.Fatalf("the token file holds %d tokens", len(entries))
				}
				e := entries[0]
				if e.Token != out.Token || e.Grant != (store.Grant{Project: "demo", Task: "1"}) || e.Container != out.Container {
					t.Errorf("the token file says %+v", e)
				}
				if e.Process == nil || e.Process.PID != c.pid || e.Process.Life() != store.Alive {
					t.Errorf("the token is tied to %+v, not to the running process %d", e.Process, c.pid)
				}

				// A poststop of an earlier life comes late: the process of this life is alive.
				late, err := c.hook.Poststop(c.state(t, runtime+"/poststop.json", nil))
				must(t, err)
				if len(late.Revoked) != 0 {
					t.Errorf("a late poststop revoked the token of a living process")
				}
				c.end()
				stop, err := c.hook.Poststop(c.state(t, runtime+"/poststop.json", nil))
				must(t, err)
				if len(stop.Revoked) != 1 || stop.Revoked[0].Token != out.Token {
					t.Errorf("poststop revoked %v", stop.Revoked)
				}
			})
		}
	}
}

func TestTheAnnotationOrElseTheHookSetsTheModeOfTheEnvFile(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		hook       string
		annotation string
		want       string
	}{
		{"", "", "-r--------"},
		{"0440", "", "-r--r-----"},
		{"0444", "", "-r--r--r--"},
		{"", "0444", "-r--r--r--"},
		{"0444", "0400", "-r--------"},
	} {
		t.Run(fmt.Sprintf("hook %q, annotation %q", row.hook, row.annotation), func(t *testing.T) {
			t.Parallel()
			c := prepare(t)
			c.hook.EnvMode = row.hook
			c.start(t, 0)

			_, err := c.prestart(t, "crun", func(state map[string]any) {
				if row.annotation != "" {
					state["annotations"].(map[string]any)[EnvModeAnnotation] = row.annotation
				}
			})
			must(t, err)

			if got := modeAndOwner(t, c.inside("/run/terok/gate.env")); got != row.want+" 1234:55" {
				t.Errorf("gate.env is %s", got)
			}
		})
	}
}

func TestAUserWhoIsNotMappedIntoTheContainerIsRefused(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"uid", "gid"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c := prepare(t)
			c.configure(t, func(config map[string]any) {
				config["process"].(map[string]any)["user"].(map[string]any)[kind] = 65536
			})
			c.start(t, unix.CLONE_NEWUSER)
			c.refuses(t, "id 65536 is not mapped into the container's user namespace")
		})
	}
}

// The attacker made the image. Nothing outside its root file system may be
// created, mounted on or changed, whatever the image holds.
func TestNothingOutsideTheRootIsTouched(t *testing.T) {
	t.Parallel()
	link := func(path, target string) func(*testing.T, *container) {
		return func(t *testing.T, c *container) {
			target := strings.NewReplacer("OUTSIDE", c.outside, "BASE", c.base).Replace(target)
			must(t, os.MkdirAll(filepath.Dir(filepath.Join(c.rootfs, path)), 0o755))
			must(t, os.Symlink(target, filepath.Join(c.rootfs, path)))
		}
	}

	file := func(path string) func(*testing.T, *container) {
		return func(t *testing.T, c *container) {
			must(t, os.MkdirAll(filepath.Dir(filepath.Join(c.rootfs, path)), 0o755))
			must(t, os.WriteFile(filepath.Join(c.rootfs, path), []byte("the image's own\n"), 0o644))
		}
	}

	fifo := func(path string) func(*testing.T, *container) {
		return func(t *testing.T, c *container) {
			must(t, os.MkdirAll(filepath.Dir(filepath.Join(c.rootfs, path)), 0o755))
			must(t, unix.Mkfifo(filepath.Join(c.rootfs, path), 0o666))
		}
	}

	directory := func(path string, mode fs.FileMode) func(*testing.T, *container) {
		return func(t *testing.T, c *container) {
			must(t, os.MkdirAll(filepath.Join(c.rootfs, path), 0o755))
			must(t, os.Chmod(filepath.Join(c.rootfs, path), mode))
		}
	}

	all := func(images ...func(*testing.T, *container)) func(*testing.T, *container) {
		return func(t *testing.T, c *container) {
			for _, image := range images {
				image(t, c)
			}
		}
	}

	const up = "../../../../../../../../../.."
	for _, row := range []struct {
		image    string
		make     func(*testing.T, *container)
		lands    string // where the mount is in the root file system; empty: the hook fails
		inTheWay string // the path that the error names if the hook fails
	}{
		{image: "no /run", make: directory("/bin", 0o755), lands: "/run/terok"},
		{image: "an empty /run/terok", make: directory("/run/terok", 0o755), lands: "/run/terok"},
		{image: "a /run that root may not write to", make: directory("/run", 0o555), lands: "/run/terok"},
		{image: "/run/terok/gate.env is a link to a file outside", make: link("/run/terok/gate.env", "OUTSIDE/file"), lands: "/run/terok"},
		{image: "/run/terok/gitconfig is a link to a file outside", make: link("/run/terok/gitconfig", up+"OUTSIDE/file"), lands: "/run/terok"},
		{image: "/run/terok/gate.env is a directory", make: directory("/run/terok/gate.env", 0o755), lands: "/run/terok"},

		{image: "/run is an absolute link to a directory of the image", make: link("/run", "/var/other"), lands: "/var/other/terok"},
		{image: "/run is a relative link to a directory of the image", make: link("/run", "var/other"), lands: "/var/other/terok"},
		{image: "/run is a link that climbs above the root and back in", make: link("/run", up+"/var/other"), lands: "/var/other/terok"},
		{image: "/run is a link to the root", make: link("/run", "/"), lands: "/terok"},
		{image: "/run is a link to what is above the root", make: link("/run", ".."), lands: "/terok"},
		{image: "/run/terok is an absolute link to a directory of the image", make: link("/run/terok", "/var/other"), inTheWay: "/run/terok"},
		{image: "links to links within the image", make: all(link("/run", "a"), link("/a", "/b"), link("/b", "var/../var/other")), lands: "/var/other/terok"},

		{image: "/run is an absolute link to a directory outside", make: link("/run", "OUTSIDE/directory"), inTheWay: "/run"},
		{image: "/run is a relative link to a directory outside", make: link("/run", "../outside/directory"), inTheWay: "/run"},
		{image: "/run is a link with many .. to a directory outside", make: link("/run", up+"OUTSIDE/directory"), inTheWay: "/run"},
		{image: "/run is a link to a file outside", make: link("/run", "OUTSIDE/file"), inTheWay: "/run"},
		{image: "/run is a link to a file outside that the image has too", make: all(link("/run", "/outside/file"), file("/outside/file")), inTheWay: "/run"},
		{image: "/run is a link to a directory of the image's that the host has too", make: all(link("/run", "OUTSIDE/directory"), theSamePath), lands: "OUTSIDE/directory/terok"},
		{image: "/run/terok is an absolute link to a directory outside", make: link("/run/terok", "OUTSIDE/directory"), inTheWay: "/run/terok"},
		{image: "/run/terok is a relative link to a directory outside", make: link("/run/terok", "../../outside/directory"), inTheWay: "/run/terok"},
		{image: "/run/terok is a link with many .. to a directory outside", make: link("/run/terok", up+"OUTSIDE/directory"), inTheWay: "/run/terok"},
		{image: "/run/terok is a link to a file outside", make: link("/run/terok", "OUTSIDE/file"), inTheWay: "/run/terok"},
		{image: "/run is a link to nothing", make: link("/run", "nothing"), inTheWay: "/run"},
		{image: "/run/terok is a link to nothing", make: link("/run/terok", "/nothing/at/all"), inTheWay: "/run/terok"},

		{image: "/run is a link to itself", make: link("/run", "run"), inTheWay: "/run"},
		{image: "/run and another directory are links to each other", make: all(link("/run", "/other"), link("/other", "/run")), inTheWay: "/run"},
		{image: "/run/terok is a link to itself", make: link("/run/terok", "terok"), inTheWay: "/run/terok"},
		{image: "/run/terok and /run/other are links to each other", make: all(link("/run/terok", "other"), link("/run/other", "/run/terok")), inTheWay: "/run/terok"},

		{image: "/run/terok is a link to /proc, which it would cover", make: link("/run/terok", "/proc"), inTheWay: "/run/terok"},
		{image: "/run/terok is a link to the root", make: link("/run/terok", "/"), inTheWay: "/run/terok"},
		{image: "/run/terok is a link to /run", make: link("/run/terok", "."), inTheWay: "/run/terok"},

		{image: "/run is a magic link to the host's root", make: link("/run", "/proc/1/root"), inTheWay: "/run"},
		{image: "/run leads through a magic link to the outside", make: link("/run", "/proc/1/rootOUTSIDE/directory"), inTheWay: "/run"},
		{image: "/run/terok is a magic link to the working directory", make: link("/run/terok", "/proc/1/cwd"), inTheWay: "/run/terok"},
		{image: "/run is a link into /proc", make: link("/run", "/proc/1"), inTheWay: "/run/terok"},

		{image: "/run is a file", make: file("/run"), inTheWay: "/run"},
		{image: "/run is a fifo", make: fifo("/run"), inTheWay: "/run"},
		{image: "/run/terok is a file", make: file("/run/terok"), inTheWay: "/run/terok"},
		{image: "/run/terok is a fifo", make: fifo("/run/terok"), inTheWay: "/run/terok"},
	} {
		t.Run(row.image, func(t *testing.T) {
			t.Parallel()
			c := prepare(t)
			row.make(t, c)
			row.lands = strings.ReplaceAll(row.lands, "OUTSIDE", c.outside)
			c.hook.GateURL = "http://gate.example"
			c.start(t, 0, mount{Source: "proc", Target: filepath.Join(c.rootfs, "proc"), Type: "proc"})

			outside, ours, theirs := tree(t, c.outside), mounts(t, "self"), mounts(t, fmt.Sprint(c.pid))
			must(t, os.MkdirAll(filepath.Dir(c.hook.Tokens.Path), 0o700))
			rest := tree(t, c.base)
			_, err := c.prestart(t, "crun", nil)

			sameTree(t, outside, tree(t, c.outside))
			c.mountedNothingOutside(t, ours)
			points := newMounts(theirs, mounts(t, fmt.Sprint(c.pid)))
			if row.lands == "" {
				if err == nil || !strings.Contains(Detail(err), row.inTheWay+" in the container's root file system: ") {
					t.Errorf("the error does not name %s: %v", row.inTheWay, err)
				}
				if len(points) != 0 {
					t.Errorf("a failing hook mounted on %q", points)
				}
				withoutRootfs(rest, c)
				now := tree(t, c.base)
				withoutRootfs(now, c)
				sameTree(t, rest, now)
				return
			}

			must(t, err)
			if want := filepath.Join(c.rootfs, row.lands); !slices.Equal(points, []string{want}) {
				t.Errorf("new mounts are %q, not one on %s", points, want)
			}
			if content, err := os.ReadFile(filepath.Join(c.inside(row.lands), "gate.env")); err != nil || !strings.HasPrefix(string(content), "TEROK_GATE_TOKEN=terok-g-") {
				t.Errorf("no gate.env in %s: %v", row.lands, err)
			}
		})
	}
}

// theSamePath gives the image a directory of the same path as the one outside.
func theSamePath(t *testing.T, c *container) {
	must(t, os.MkdirAll(filepath.Join(c.rootfs, c.outside, "directory"), 0o755))
}

// withoutRootfs leaves out what may come and go: the image's own files.
func withoutRootfs(tree map[string]string, c *container) {
	for path := range tree {
		if strings.HasPrefix(path, c.rootfs) {
			delete(tree, path)
		}
	}
}

func TestAReadOnlyRootNeedsItsMountPoint(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, refusal string }{
		{"with a mount point", ""},
		{"without one", "/run/terok in the container's root file system: "},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := prepare(t)
			must(t, os.MkdirAll(filepath.Join(c.rootfs, "run"), 0o755))
			if row.refusal == "" {
				must(t, os.Mkdir(filepath.Join(c.rootfs, "run/terok"), 0o755))
			}

			c.start(t, 0, mount{Target: c.rootfs, Flags: unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY})
			if row.refusal != "" {
				c.refuses(t, row.refusal)
				return
			}

			_, err := c.prestart(t, "crun", nil)
			must(t, err)
			if _, err := os.Stat(c.inside("/run/terok/gate.env")); err != nil {
				t.Error(err)
			}
		})
	}
}

// A volume mounted :shared is one mount with two mount points: what is mounted on
// one appears on the other, here outside the container's root.
func TestAMountWithSharedPropagationIsRefused(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"/run", "/run/terok"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			c := prepare(t)
			volume, target := filepath.Join(c.outside, "directory"), filepath.Join(c.rootfs, at)
			must(t, os.MkdirAll(target, 0o755))
			c.start(t, 0,
				mount{Source: "volume", Target: volume, Type: "tmpfs"},
				mount{Target: volume, Flags: unix.MS_SHARED},
				mount{Source: volume, Target: target, Flags: unix.MS_BIND},
			)

			theirs := mounts(t, fmt.Sprint(c.pid))
			c.refuses(t, "shared propagation", "mount the volume at "+target+" without :shared or :rshared")
			if got := newMounts(theirs, mounts(t, fmt.Sprint(c.pid))); len(got) != 0 {
				t.Errorf("the hook mounted on %q", got)
			}
		})
	}

	t.Run("a private mount above a shared one is fine", func(t *testing.T) {
		t.Parallel()
		c := prepare(t)
		must(t, os.Mkdir(filepath.Join(c.rootfs, "run"), 0o755))
		c.start(t, 0,
			mount{Target: c.rootfs, Flags: unix.MS_SHARED},
			mount{Source: "tmpfs", Target: filepath.Join(c.rootfs, "run"), Type: "tmpfs"},
			mount{Target: filepath.Join(c.rootfs, "run"), Flags: unix.MS_PRIVATE},
		)

		_, err := c.prestart(t, "crun", nil)
		must(t, err)
	})
}

func TestAContainerInTheHostsMountNamespaceIsRefused(t *testing.T) {
	t.Parallel()
	c := prepare(t)
	c.pid = os.Getpid()
	t.Cleanup(func() { unix.Unmount(filepath.Join(c.rootfs, "run/terok"), unix.MNT_DETACH) }) // if it is not refused
	before := mounts(t, "self")
	c.refuses(t, "the container is in the host's mount namespace")
	c.mountedNothingOutside(t, before)
}

func TestAProcessThatIsGoneIsRefused(t *testing.T) {
	t.Parallel()
	c := prepare(t)
	gone := exec.Command("true")
	must(t, gone.Run())
	c.pid = gone.Process.Pid
	c.refuses(t, "container process")
}

// The main thread never ends. If it entered a container's mount namespace, it would stay there, and
// /proc/self would show that namespace.
func TestTheMainThreadStaysWhereItIs(t *testing.T) {
	for range 200 {
		must(t, onThreadOfItsOwn(func() error {
			if unix.Gettid() == unix.Getpid() {
				return errors.New("this is the main thread")
			}
			return nil
		}))
	}
}

// A zombie still has a pid and a start time.
func TestAProcessThatIsAZombieIsRefused(t *testing.T) {
	t.Parallel()
	c := prepare(t)
	zombie := exec.Command("true")
	must(t, zombie.Start())
	defer zombie.Wait()
	var info unix.Siginfo
	must(t, unix.Waitid(unix.P_PID, zombie.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil))
	c.pid = zombie.Process.Pid
	c.refuses(t, "the process has ended")
}

// A kernel in which SELinux is enabled accepts the option "context", and any other kernel refuses
// it. In the latter case, strace hides the refusal from the hook, so that the hook makes all its
// calls.
func TestTheMountLabelIsTheContextOfTheDirectory(t *testing.T) {
	const label, created = "system_u:object_r:container_file_t:s0:c1,c2", "(created)"
	_, err := os.Stat("/sys/fs/selinux/enforce")
	selinux := err == nil

	for _, row := range []struct {
		name, label string
		options     []string
	}{
		{"with a label", label, []string{"source=terok-gate", "size=64k", "nr_inodes=16", "mode=0555", "context=" + label, "noswap", created}},
		{"without one", "", []string{"source=terok-gate", "size=64k", "nr_inodes=16", "mode=0555", "noswap", created}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := prepare(t)
			c.configure(t, func(config map[string]any) {
				config["linux"].(map[string]any)["mountLabel"] = row.label
			})
			c.start(t, 0)

			flags := []string{"-qqq", "-e", "signal=none", "-e", "trace=fsopen,fsconfig"} // no lines but calls
			if row.label != "" && !selinux {
				flags = append(flags, "-e", "inject=fsconfig:retval=0:when=5")
			}
			trace := c.prestartTraced(t, flags...)

			var options []string
			for _, m := range fsconfig.FindAllStringSubmatch(trace, -1) {
				option := m[2]
				switch m[1] {
				case "FSCONFIG_SET_STRING":
					option += "=" + m[3]
				case "FSCONFIG_CMD_CREATE":
					option = created
				}
				options = append(options, option)
			}
			if !slices.Equal(options, row.options) {
				t.Errorf("the tmpfs is configured with %q, want %q:\n%s", options, row.options, trace)
			}

			line := mounts(t, fmt.Sprint(c.pid))[filepath.Join(c.rootfs, "run/terok")]
			if !strings.Contains(line, "terok-gate") || selinux && !strings.Contains(line, row.label) {
				t.Errorf("the mount is %q", line)
			}
		})
	}
}

// fsconfig matches a call of fsconfig(2) in strace's words: command, key, value.
var fsconfig = regexp.MustCompile(`fsconfig\(\d+, (FSCONFIG_\w+), (?:"([^"]*)"|NULL), (?:"([^"]*)"|NULL), 0\)`)

// refuses runs prestart. It must fail with an error that has each of the texts, and leave no token.
func (c *container) refuses(t *testing.T, what ...string) {
	t.Helper()
	out, err := c.prestart(t, "crun", nil)
	if err == nil {
		t.Fatal("the hook did not fail")
	}
	for _, what := range what {
		if !strings.Contains(Detail(err), what) {
			t.Errorf("the error does not say %q: %v", what, err)
		}
	}
	if out.Token != "" {
		t.Error("a failing hook issued a token")
	}
	if _, err := os.Lstat(c.hook.Tokens.Path); !os.IsNotExist(err) {
		t.Errorf("a failing hook made a token file: %v", err)
	}
}

// mountedNothingOutside fails if our own mount namespace has a mount of the hook's that is
// not in before. Other programs may mount what they like.
func (c *container) mountedNothingOutside(t *testing.T, before map[string]string) {
	t.Helper()
	after := mounts(t, "self")
	for _, point := range newMounts(before, after) {
		if strings.Contains(after[point], "terok-gate") || strings.Contains(point, c.base) {
			t.Errorf("the host has a new mount: %s", after[point])
		}
	}
}

func modeAndOwner(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	s := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%v %d:%d", info.Mode(), s.Uid, s.Gid)
}
