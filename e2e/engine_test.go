package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/engines"
	"terok-gate-hook/hook"
	"terok-gate-hook/internal/testenv"
)

// engine is podman with one runtime, as root or rootless, with its storage, its
// configuration and its token file in a directory of its own.
type engine struct {
	name     string // "rootless/runc"
	runtime  string
	rootless bool
	asUser   *syscall.Credential // nil: the user who runs the tests

	dir       string // holds all of it
	conf      string // containers.conf
	tokenFile string
	driver    string // of the storage
	wire      int    // a process in podman's own network (wired); 0: podman is in our network

	prepare func() error // once, before the first use
}

// podmanDir is the part of an engine's directory that podman writes to, except for containers' logs
// and pid files. A token that podman leaked would be there.
const podmanDir = "podman"

// image is in every engine's storage: a busybox, whose default command is the shell.
const image = "localhost/e2e"

var allEngines = sync.OnceValue(func() []*engine {
	var all []*engine
	for _, mode := range []string{"root", "rootless"} {
		for _, runtime := range []string{"crun", "runc"} {
			e := &engine{
				name:     mode + "/" + runtime,
				runtime:  runtime,
				rootless: mode == "rootless",
				dir:      filepath.Join(testenv.Dir, mode+"-"+runtime),
			}
			if e.rootless && os.Geteuid() == 0 {
				e.asUser = &syscall.Credential{Uid: testUID, Gid: testUID}
			}
			e.conf = filepath.Join(e.dir, "containers.conf")
			e.tokenFile = filepath.Join(e.dir, "state", "tokens.json")
			e.prepare = sync.OnceValue(e.setup)
			all = append(all, e)
		}
	}
	return all
})

// onEveryEngine runs a test on each engine, all of them at the same time.
func onEveryEngine(t *testing.T, test func(t *testing.T, e *engine)) {
	onEngines(t, test, func(*engine) bool { return true })
}

// onCrunAndRunc runs a test on two engines: one with crun and one with runc, one of root's and a
// rootless one. All four take too long for every test.
func onCrunAndRunc(t *testing.T, test func(t *testing.T, e *engine)) {
	onEngines(t, test, crunAndRunc(t))
}

// crunAndRunc chooses the engines of onCrunAndRunc. The name of the test, or of a row of its table,
// decides which two.
func crunAndRunc(t *testing.T) func(*engine) bool {
	rootlessCrun := isEven(t.Name())
	return func(e *engine) bool { return e.rootless == (e.runtime == "crun" == rootlessCrun) }
}

// onRootOrRootless runs a row of a table on an engine of root's or on a rootless one: the
// row's name decides.
func onRootOrRootless(t *testing.T, test func(t *testing.T, e *engine)) {
	rootless := isEven(t.Name())
	onEngines(t, test, func(e *engine) bool { return e.runtime == "crun" && e.rootless == rootless })
}

// isEven is true for about half of all names.
func isEven(name string) bool {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(name))
	return hash.Sum32()%2 == 0
}

// onRootAndRootless runs a test on an engine of root's and on a rootless one. It is for
// tests for which the runtime makes no difference.
func onRootAndRootless(t *testing.T, test func(t *testing.T, e *engine)) {
	onEngines(t, test, func(e *engine) bool { return e.runtime == "crun" })
}

// onRootless runs a test on a rootless engine. It is for tests that would be no different
// on one of root's.
func onRootless(t *testing.T, test func(t *testing.T, e *engine)) {
	onEngines(t, test, func(e *engine) bool { return e.rootless && e.runtime == "crun" })
}

// onRootsEngines runs a test on each engine of root: only root's containers share
// mounts with the host.
func onRootsEngines(t *testing.T, test func(t *testing.T, e *engine)) {
	onEngines(t, test, func(e *engine) bool { return !e.rootless })
}

func onEngines(t *testing.T, test func(t *testing.T, e *engine), on func(*engine) bool) {
	t.Parallel()
	for _, e := range allEngines() {
		if !on(e) {
			continue
		}
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			e.need(t)
			test(t, e)
		})
	}
}

// need ends the test, as testenv.Cannot does, if the engine cannot run here.
func (e *engine) need(t *testing.T) {
	t.Helper()
	if !e.rootless || os.Geteuid() == 0 {
		testenv.NeedAlone(t)
	}
	testenv.Need(t, "podman", e.runtime, "busybox", "tar")
	if e.rootless {
		testenv.Need(t, "newuidmap")
	}
	if _, err := gateBinary(); err != nil {
		t.Fatal(err) // never a reason to skip
	}
	if err := e.prepare(); err != nil {
		testenv.Cannot(t, "%s cannot run containers here: %v", e.name, err)
	}
}

// setup makes the engine's directory, imports the image and runs a container
// without hooks.
func (e *engine) setup() error {
	tarball, err := rootfsTar()
	if err != nil {
		return err
	}
	for _, d := range []string{"", podmanDir, podmanDir + "/run", podmanDir + "/home", podmanDir + "/tmp", "tests"} {
		if err := e.mkdir(filepath.Join(e.dir, d)); err != nil {
			return err
		}
	}
	hooks := filepath.Join(e.dir, "hooks.d")
	if err := os.Mkdir(hooks, 0o755); err != nil {
		return err
	}
	if err := e.writeConf(e.conf, hooks); err != nil {
		return err
	}

	// The kernel's overlay is the fastest; for rootless users it needs Linux 5.11 and a
	// file system that suits.
	for _, e.driver = range []string{"overlay", "vfs"} {
		if _, err = e.tryPodman("import", tarball, image); err == nil {
			if _, err = e.tryPodman("run", "--rm", image, "true"); err == nil {
				break
			}
		}
		e.tryHost("rm", "-rf", e.podmanPath("storage"))
	}
	if err != nil {
		return err
	}
	// Without subordinate ids, podman runs, but a container has only one user.
	if ids, err := e.tryHost("cat", "/proc/self/uid_map"); err != nil || e.rootless && strings.Count(ids, "\n") < 2 {
		return errors.Join(errors.New("its user has no subordinate ids (subuid(5))"), err)
	}
	return e.writeHooks(hooks, hookFlags{})
}

// mkdir makes a directory that belongs to the engine's user.
func (e *engine) mkdir(path string) error {
	// 0711: the processes of a container whose root is mapped to another user
	// must reach their root file system.
	if err := os.Mkdir(path, 0o711); err != nil {
		return err
	}
	if e.asUser != nil {
		return os.Chown(path, int(e.asUser.Uid), int(e.asUser.Gid))
	}
	return nil
}

// writeConf writes a containers.conf.
//
//   - nofile and nproc: podman's default limits need CAP_SYS_RESOURCE.
//   - pids_limit: podman's default needs the pids controller of cgroup v2. A machine whose
//     pids controller is in cgroup v1 does not have that.
//   - lock_type: the default is one segment of shared memory for all engines of
//     a user, and a fresh engine clears it.
//   - hooks_dir: unlike the flag --hooks-dir, it is in force at restarts too.
func (e *engine) writeConf(path, hooks string) error {
	return os.WriteFile(path, fmt.Appendf(nil, `
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
pids_limit = 0
netns = "none"
log_driver = "k8s-file"
[network]
network_config_dir = %q
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
runtime = %q
hooks_dir = [%q]
`, e.podmanPath("networks"), e.runtime, hooks), 0o644)
}

// writeHooks writes the definitions of prestart and poststop.
func (e *engine) writeHooks(dir string, flags hookFlags) error {
	return e.writeDefinitions(dir, flags, "prestart", "poststop")
}

// addPrecreate writes the definition of precreate beside the others.
func (e *engine) addPrecreate(dir string, flags ...string) error {
	return e.writeDefinitions(dir, hookFlags{prestart: flags}, "precreate")
}

// writeDefinitions writes the definitions of the stages as terok-gate install would write
// them for these flags and the engine's token file.
func (e *engine) writeDefinitions(dir string, flags hookFlags, stages ...string) error {
	binary, err := hookBinary()
	if err != nil {
		return err
	}
	args := slices.Concat([]string{"--token-file", e.tokenFile}, flags.common, []string{"prestart"}, flags.prestart)
	settings, _, err := hook.ParseArgs(args)
	if err != nil {
		return fmt.Errorf("%q: %w", args, err)
	}

	files, err := engines.Registration{Binary: binary, Settings: settings}.Definitions(dir)
	if err != nil {
		return err
	}
	for _, stage := range stages {
		i := slices.IndexFunc(files, func(f engines.File) bool { return filepath.Base(f.Path) == "99-terok-gate-"+stage+".json" })
		if i < 0 {
			return fmt.Errorf("no definition for %s", stage)
		}
		if err := files[i].Write(); err != nil {
			return err
		}
	}
	return nil
}

// hookFlags are flags of the hooks.
type hookFlags struct {
	common   []string // before the stage
	prestart []string // after prestart; other stages get those that they know
}

// withOwnTokens returns the same engine with another token file, which no other test's hook
// changes. The hooks for this file are chosen later (withHooks).
func (e *engine) withOwnTokens(t *testing.T) *engine {
	t.Helper()
	other := *e
	other.tokenFile = filepath.Join(e.tempDir(t), "state", "tokens.json")
	return &other
}

// withHooks returns the same engine, with the same storage and token file, whose containers
// get hooks with other flags. change, if not nil, may change the directory of definitions
// in any way.
func (e *engine) withHooks(t *testing.T, flags hookFlags, change func(dir string) error) *engine {
	t.Helper()
	dir := e.tempDir(t)
	other := *e
	other.conf = filepath.Join(dir, "containers.conf")
	err := errors.Join(other.writeConf(other.conf, dir), other.writeHooks(dir, flags))
	if err == nil && change != nil {
		err = change(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &other
}

func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

// tempDir returns a directory that the engine's user may write to. It is removed at
// the end of the test.
func (e *engine) tempDir(t *testing.T) string {
	t.Helper()
	// Not t.TempDir(), whose parents only the user of the tests can enter.
	dir, err := os.MkdirTemp(filepath.Join(e.dir, "tests"), "")
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(dir)
	if err := e.mkdir(dir); err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() {
		var err error
		// Podman's clean-up after a container may still write there.
		if !testenv.Wait(func() bool {
			if os.Geteuid() == 0 {
				err = os.RemoveAll(dir)
			} else { // it may hold files of our subordinate users
				_, err = e.tryHost("rm", "-rf", dir)
			}
			return err == nil || !errors.Is(err, unix.ENOTEMPTY)
		}) || err != nil {
			t.Error(err)
		}
	})
	return dir
}

// rootfs unpacks the root file system anew, for the engine's user.
func (e *engine) rootfs(t *testing.T) string {
	t.Helper()
	tarball, err := rootfsTar()
	if err != nil {
		t.Fatal(err)
	}
	dir := e.tempDir(t)
	if _, err := e.run("tar", "-xf", tarball, "-C", dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (e *engine) podmanPath(name string) string { return filepath.Join(e.dir, podmanDir, name) }

// command returns a command of the engine's user, with the engine's configuration. The
// command is killed if it takes much longer than any here should, so that the tests end
// with a message.
func (e *engine) command(name string, args ...string) (*exec.Cmd, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	if e.wire != 0 {
		name, args = "nsenter", append(e.enterWire(), append([]string{name}, args...)...)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = e.podmanPath("home")
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + e.podmanPath("home"),
		"TMPDIR=" + e.podmanPath("tmp"),
		"XDG_RUNTIME_DIR=" + e.podmanPath("run"),
		"CONTAINERS_CONF=" + e.conf,
	}
	if e.asUser != nil && e.wire == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: e.asUser}
	}
	// A container may hold on to our pipes when podman itself is gone.
	cmd.WaitDelay = time.Second
	return cmd, cancel
}

// run runs a command and returns its standard output. The error has the standard error in
// it.
func (e *engine) run(name string, args ...string) (string, error) {
	cmd, cancel := e.command(name, args...)
	defer cancel()
	return output(cmd)
}

func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), err
}

var podmanVersion = sync.OnceValues(func() (version [2]int, err error) {
	out, err := output(exec.Command("podman", "--version"))
	if err == nil {
		_, err = fmt.Sscanf(out, "podman version %d.%d", &version[0], &version[1])
	}
	return version, err
})

// podmanIs reports whether podman is of this version or a later one.
func podmanIs(t *testing.T, major, minor int) bool {
	t.Helper()
	testenv.Need(t, "podman")
	version, err := podmanVersion()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Compare(version[:], []int{major, minor}) >= 0
}

// podmans is a range of podman's versions: since and later, but before until. A zero version
// sets no bound.
type podmans struct{ since, until [2]int }

// haveOurs reports whether the version of this machine's podman is in the range.
func (p podmans) haveOurs(t *testing.T) bool {
	t.Helper()
	return podmanIs(t, p.since[0], p.since[1]) && (p.until == [2]int{} || !podmanIs(t, p.until[0], p.until[1]))
}

func (e *engine) podmanArgs(args []string) []string {
	return append([]string{
		"--root", e.podmanPath("storage"),
		"--runroot", e.podmanPath("rr"), // podman takes no more than 50 characters
		"--tmpdir", e.podmanPath("libpod"),
		"--storage-driver", e.driver,
	}, args...)
}

func (e *engine) tryPodman(args ...string) (string, error) {
	return e.run("podman", e.podmanArgs(args)...)
}

// podman runs podman and returns its standard output without white space
// around it.
func (e *engine) podman(t *testing.T, args ...string) string {
	t.Helper()
	out, err := e.tryPodman(args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// hostArgs makes a command see what podman sees: a rootless podman is root in a user and a
// mount namespace of its own, and its poststop hooks run there.
func (e *engine) hostArgs(args []string) (name string, _ []string) {
	if e.rootless {
		return "podman", append(e.podmanArgs([]string{"unshare"}), args...)
	}
	return args[0], args[1:]
}

func (e *engine) tryHost(args ...string) (string, error) {
	name, args := e.hostArgs(args)
	return e.run(name, args...)
}

// host runs a command where podman runs.
func (e *engine) host(t *testing.T, args ...string) string {
	t.Helper()
	out, err := e.tryHost(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// hook runs the built hook where podman runs poststop hooks, with nothing in the
// environment.
func (e *engine) hook(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	path, err := hookBinary()
	if err != nil {
		t.Fatal(err)
	}
	return e.runsWithNothing(path, stdin, args)
}

// runTerokGate runs the built terok-gate in the same way.
func (e *engine) runTerokGate(t *testing.T, args ...string) (string, error) {
	t.Helper()
	path, err := gateBinary()
	if err != nil {
		t.Fatal(err)
	}
	return e.runsWithNothing(path, "", args)
}

func (e *engine) runsWithNothing(path, stdin string, args []string) (string, error) {
	name, args := e.hostArgs(append([]string{"env", "-i", path, "--token-file", e.tokenFile}, args...))
	cmd, cancel := e.command(name, args...)
	defer cancel()
	cmd.Stdin = strings.NewReader(stdin)
	return output(cmd)
}

// filesWith returns the files below dir that contain one of the words, as podman
// sees them: the mounted file systems of running containers included.
func (e *engine) filesWith(t *testing.T, dir string, words ...string) []string {
	t.Helper()
	// The search runs in a mount namespace of its own: otherwise podman could not unmount
	// what the search is passing through. Podman 5.4 keeps a network namespace below
	// rootless-netns, which grep cannot read.
	args := []string{"unshare", "--mount", "env", "LC_ALL=C", "grep", "-rlF", "-D", "skip", "--exclude-dir=rootless-netns"}
	for _, w := range words {
		args = append(args, "-e", w)
	}

	name, args := e.hostArgs(append(args, "--", dir))
	cmd, cancel := e.command(name, args...)
	defer cancel()

	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	exit := (*exec.ExitError)(nil)
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() > 2) {
		t.Fatalf("grep: %v\n%s", err, &stderr)
	}

	// Other tests' containers come and go meanwhile; nothing else may keep grep from
	// reading a file. (With --uidmap, podman 5.4 mounts its storage in itself once more,
	// where grep warns of a loop.)
	for line := range strings.Lines(stderr.String()) {
		if strings.HasSuffix(line, ": warning: recursive directory loop\n") {
			continue
		}
		if !strings.HasPrefix(line, "grep: "+dir+"/") || !strings.Contains(line, "No such file or directory") {
			t.Fatalf("the search in %s did not see everything: %s", dir, line)
		}
	}

	return strings.Fields(stdout.String())
}

// token is an entry of the token file.
type token struct {
	Project   string          `json:"project"`
	Scope     string          `json:"scope"`
	Task      string          `json:"task"`
	Container string          `json:"container"`
	Created   time.Time       `json:"created"`
	Process   json.RawMessage `json:"process"`
}

// tokens reads the token file. If the file does not exist, it returns no tokens.
func (e *engine) tokens(t *testing.T) map[string]token {
	t.Helper()
	text, err := os.ReadFile(e.tokenFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]token
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatalf("%s: %v\n%s", e.tokenFile, err, text)
	}
	return all
}

// tokensOf returns the tokens that belong to a container.
func (e *engine) tokensOf(t *testing.T, container string) []string {
	t.Helper()
	var found []string
	for name, entry := range e.tokens(t) {
		if entry.Container == container {
			found = append(found, name)
		}
	}
	return found
}

// signal sends a signal to a process of a container.
func (e *engine) signal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if pid <= 1 { // kill would take 0 or less for a process group
		t.Fatalf("pid %d", pid)
	}
	if os.Geteuid() != 0 { // it may belong to one of our subordinate users
		e.host(t, "sh", "-c", fmt.Sprintf("kill -%d %d", s, pid)) // kill is built into the shell
	} else if err := syscall.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
}

// endOwnEngines ends what engines without namespaces of their own have left:
// containers, and files of other users.
func endOwnEngines() {
	for _, e := range allEngines() {
		if _, err := os.Stat(e.conf); err != nil {
			continue // never used
		}
		_, err := e.tryPodman("rm", "--all", "--force", "--time", "0")
		// In podman's mount namespace (hostArgs), the storage's directory overlay is a mount point.
		_, err2 := e.tryHost("sh", "-c", `umount -l "$0/overlay"; rm -rf "$0" "$1"`, e.podmanPath("storage"), filepath.Join(e.dir, "tests"))
		if err := errors.Join(err, err2); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: clean up:", err)
		}
	}
}
