package hook

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// planVar holds the plan of a container in the environment of its process, which
// is this test binary again.
const planVar = "TEROK_HOOK_TEST_CONTAINER"

// tracedVar makes this test binary a hook, for strace to trace. Its value is the token file's path.
const tracedVar = "TEROK_HOOK_TEST_TRACED"

func TestMain(m *testing.M) {
	if plan := os.Getenv(planVar); plan != "" {
		err := waitAsContainer(plan)
		fmt.Println(err)
		os.Exit(1)
	}
	if path := os.Getenv(tracedVar); path != "" {
		runtime.LockOSThread() // strace counts the calls of each thread
		if _, err := (Settings{Tokens: store.File{Path: path}}).Prestart(os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// plan says what a runtime would set up for a container before it runs the container's hooks.
type plan struct {
	Rootfs string
	Mounts []mount
}

type mount struct {
	Source, Target, Type string // as for mount(2); paths are those of the host
	Flags                uintptr
}

// container is a process that waits in namespaces of its own, with its mounts
// made, before pivot_root(2): what a hook finds at prestart.
type container struct {
	pid     int
	base    string // holds all of the rest
	rootfs  string
	outside string // a directory outside the image
	bundle  string
	hook    Settings
	end     func()
}

// prepare makes the directories of a container: a root file system with the usual
// directories, which a test can make hostile, and a bundle recorded from a real runtime.
func prepare(t *testing.T) *container {
	t.Helper()
	base, err := os.MkdirTemp("", "terok-hook-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(base) })
	c := &container{
		base: base, rootfs: filepath.Join(base, "rootfs"), outside: filepath.Join(base, "outside"),
		bundle: filepath.Join(base, "bundle"), hook: Settings{Tokens: store.File{Path: filepath.Join(base, "gate/tokens.json")}},
	}
	// The root user of a user namespace, who is another user on the host, must be able to pass.
	must(t, os.Chmod(base, 0o755))
	for _, dir := range []string{"rootfs", "rootfs/bin", "rootfs/proc", "rootfs/var/other", "outside/directory", "bundle"} {
		must(t, os.MkdirAll(filepath.Join(base, dir), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(c.outside, "file"), []byte("untouched\n"), 0o644))
	c.configure(t, nil)
	return c
}

// configure writes the bundle's config.json: the recorded one with our root file
// system, and changed by edit.
func (c *container) configure(t *testing.T, edit func(config map[string]any)) {
	t.Helper()
	config := readJSON(t, "../testdata/crun/bundle/config.json")
	config["root"] = map[string]any{"path": c.rootfs}
	if edit != nil {
		edit(config)
	}
	writeJSON(t, filepath.Join(c.bundle, "config.json"), config)
}

// start starts the container's process. With flags of clone(2) beyond CLONE_NEWNS
// and CLONE_NEWPID it has more namespaces; in a user namespace of its own, its ids
// 0 to 65535 are the host's 100000 and on.
func (c *container) start(t *testing.T, flags uintptr, mounts ...mount) {
	t.Helper()
	testenv.NeedRoot(t)
	planned, err := json.Marshal(plan{c.rootfs, mounts})
	must(t, err)

	cmd := testenv.Again()
	cmd.Path = "/proc/self/exe" // the root user of a user namespace cannot reach the program by its path
	cmd.Env = append(cmd.Env, planVar+"="+string(planned))
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | flags}

	if flags&unix.CLONE_NEWUSER != 0 {
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = ids, ids
		cmd.SysProcAttr.Credential = &syscall.Credential{}
		for _, dir := range []string{c.rootfs, filepath.Join(c.rootfs, "var"), filepath.Join(c.rootfs, "run")} {
			if err := os.Lchown(dir, 100000, 100000); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
	}

	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	c.pid = cmd.Process.Pid

	ended := false
	c.end = func() {
		if !ended {
			ended = true
			stdin.Close()
			cmd.Wait()
		}
	}
	t.Cleanup(c.end)

	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the container's process says %q, %v", line, err)
	}
}

func waitAsContainer(planned string) error {
	var p plan
	if err := json.Unmarshal([]byte(planned), &p); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount(p.Rootfs, p.Rootfs, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind the root file system: %w", err)
	}
	for _, m := range p.Mounts {
		if err := unix.Mount(m.Source, m.Target, m.Type, m.Flags, ""); err != nil {
			return fmt.Errorf("mount %+v: %w", m, err)
		}
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
	return nil
}

// prestart runs the hook with the recorded state of a runtime, in which the pid and the bundle are
// this container's, and which edit has changed.
func (c *container) prestart(t *testing.T, runtime string, edit func(state map[string]any)) (Outcome, error) {
	t.Helper()
	return c.hook.Prestart(c.state(t, runtime+"/prestart-pid.json", edit))
}

// prestartTraced runs prestart in a process of its own, which must succeed, and
// returns what strace writes of it.
func (c *container) prestartTraced(t *testing.T, flags ...string) string {
	t.Helper()
	strace := testenv.Tool(t, "strace")
	self, err := os.Executable()
	must(t, err)
	trace := filepath.Join(c.base, "trace")
	cmd := exec.Command(strace, append([]string{"-f", "-s", "1024", "-o", trace}, append(flags, self)...)...)
	cmd.Env = append(os.Environ(), tracedVar+"="+c.hook.Tokens.Path)
	cmd.Stdin = c.state(t, "crun/prestart-pid.json", nil)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("prestart: %v\n%s", err, out)
	}
	content, err := os.ReadFile(trace)
	must(t, err)
	return string(content)
}

func (c *container) state(t *testing.T, sample string, edit func(state map[string]any)) io.Reader {
	t.Helper()
	state := readJSON(t, "../testdata/"+sample)
	if _, ok := state["pid"]; ok {
		state["pid"] = c.pid
	}
	state["bundle"] = c.bundle
	if edit != nil {
		edit(state)
	}
	content, err := json.Marshal(state)
	must(t, err)
	return strings.NewReader(string(content))
}

// inside is a path by which a test reaches a file in the container's root file system, through the
// mount namespace of the container's process.
func (c *container) inside(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", c.pid, filepath.Join(c.rootfs, path))
}

// mounts lists the mounts of a process: the line of mountinfo(5) for each mount point. If there are
// several lines for a mount point, it is the last one.
func mounts(t *testing.T, pid string) map[string]string {
	t.Helper()
	content, err := os.ReadFile("/proc/" + pid + "/mountinfo")
	must(t, err)
	all := map[string]string{}
	for line := range strings.Lines(string(content)) {
		all[strings.Fields(line)[4]] = line
	}
	return all
}

// newMounts returns the mount points that are new or changed in after, and those that are in before
// but not in after.
func newMounts(before, after map[string]string) []string {
	var points []string
	for point, line := range after {
		if before[point] != line {
			points = append(points, point)
		}
	}
	for point := range before {
		if _, ok := after[point]; !ok {
			points = append(points, "gone: "+point)
		}
	}
	slices.Sort(points)
	return points
}

// tree lists a directory and what is in it, with what lstat(2) tells about each. That includes the
// change time, which no program can set back.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var s unix.Stat_t
		if err := unix.Lstat(path, &s); err != nil {
			return err
		}
		all[path] = fmt.Sprintf("mode %o, owner %d:%d, links %d, size %d, changed %v", s.Mode, s.Uid, s.Gid, s.Nlink, s.Size, s.Ctim)
		return nil
	}))
	return all
}

func sameTree(t *testing.T, before, after map[string]string) {
	t.Helper()
	paths := maps.Clone(before)
	maps.Copy(paths, after)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		if before[path] != after[path] {
			t.Errorf("%s changed:\nfrom %q\nto   %q", path, before[path], after[path])
		}
	}
}

func readJSON(t *testing.T, path string) map[string]any {
	t.Helper()
	content, err := os.ReadFile(path)
	must(t, err)
	var value map[string]any
	must(t, json.Unmarshal(content, &value))
	return value
}

func writeJSON(t *testing.T, path string, value any) {
	t.Helper()
	content, err := json.Marshal(value)
	must(t, err)
	must(t, os.WriteFile(path, content, 0o644))
}

var must = testenv.Must
