package store_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// When a test needs another process, for example in a namespace or of another user, it runs this
// test binary again. The process then runs one of the helpers below, or a single test (see inside).
const (
	helperVar = "STORE_TEST_HELPER" // the name in helpers
	uidVar    = "STORE_TEST_UID"    // become this user first
	procVar   = "STORE_TEST_PROC"   // mount /proc anew first, with these options
	insideVar = "STORE_TEST_INSIDE" // which test is to be run in this process
)

var helpers = map[string]func(args []string) error{
	"death":      deathHelper,
	"describe":   describeHelper,
	"hammer":     hammerHelper,
	"issue":      issueHelper,
	"judge":      judgeHelper,
	"leaderless": leaderlessHelper,
	"path":       pathHelper,
	"umask":      umaskHelper,
	"wait":       waitHelper,
}

func init() {
	if os.Getenv(helperVar) == "leaderless" {
		runtime.LockOSThread() // the main goroutine stays on the leader
	}
}

func TestMain(m *testing.M) {
	name := os.Getenv(helperVar)
	if name == "" {
		os.Exit(m.Run())
	}
	if err := becomeHelper(); err != nil {
		fmt.Fprintln(os.Stderr, "become a helper:", err)
		os.Exit(3)
	}
	if err := helpers[name](os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func becomeHelper() error {
	if options, ok := os.LookupEnv(procVar); ok {
		if err := unix.Mount("proc", "/proc", "proc", 0, options); err != nil {
			return fmt.Errorf("mount /proc with %q: %w", options, err)
		}
	}
	if uid, err := strconv.Atoi(os.Getenv(uidVar)); err == nil {
		return errors.Join(syscall.Setgroups(nil), syscall.Setgid(uid), syscall.Setuid(uid))
	}
	return nil
}

// helper returns the command that runs a helper, not yet started.
func helper(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := testenv.Again(args...)
	cmd.Env = append(cmd.Env, helperVar+"="+name)
	cmd.Stderr = new(bytes.Buffer)
	return cmd
}

// under changes the command so that a tool runs it: strace, unshare or nsenter.
func under(t *testing.T, cmd *exec.Cmd, tool string, args ...string) *exec.Cmd {
	t.Helper()
	path := testenv.Tool(t, tool)
	cmd.Args = append(append([]string{path}, args...), append([]string{cmd.Path}, cmd.Args[1:]...)...)
	cmd.Path = path
	return cmd
}

// output runs the helper, which must succeed.
func output(t *testing.T, cmd *exec.Cmd) []byte {
	t.Helper()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, cmd.Stderr)
	}
	return out
}

// start starts a helper that lives until the returned function is called, or the test ends.
func start(t *testing.T, cmd *exec.Cmd) (end func()) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	end = sync.OnceFunc(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v\n%s", cmd.Args, err, cmd.Stderr)
		}
	})
	t.Cleanup(end)
	return end
}

// inside reports whether this process was started for the test, with attr. If it was not, inside
// runs the test again in a process that is started for it, and takes over the result.
func inside(t *testing.T, attr syscall.SysProcAttr) bool {
	t.Helper()
	if os.Getenv(insideVar) == t.Name() {
		return true
	}

	var pattern []string
	for _, name := range strings.Split(t.Name(), "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(name)+"$")
	}

	cmd := testenv.Again("-test.v", "-test.count=1", "-test.run="+strings.Join(pattern, "/"))
	cmd.Env = append(cmd.Env, insideVar+"="+t.Name())
	cmd.SysProcAttr = &attr
	out, err := cmd.CombinedOutput()

	switch {
	case err != nil:
		t.Fatalf("in a process of its own: %v\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP")):
		t.Skipf("in a process of its own:\n%s", out)
	case !bytes.Contains(out, []byte("--- PASS: "+t.Name()+" ")):
		t.Fatalf("did not run in a process of its own:\n%s", out)
	}
	return false
}

// privateMounts is a mount namespace whose mounts do not appear in other namespaces.
var privateMounts = syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}

// privatePIDs is a pid namespace, still with the old /proc.
var privatePIDs = syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Cloneflags: unix.CLONE_NEWPID}

// privateUsers is a user namespace like that of a rootless engine. Ids that are not mapped in it
// are shown there as 65534. 65534 itself is mapped, and 70000 is not.
var privateUsers = syscall.SysProcAttr{
	Cloneflags:                 unix.CLONE_NEWUSER,
	UidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}},
	GidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}},
	GidMappingsEnableSetgroups: true,
}

// run runs a tool, which must succeed.
func run(t *testing.T, tool string, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(testenv.Tool(t, tool), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", tool, args, err, out)
	}
	return out
}

func mount(t *testing.T, source, target, kind string, flags uintptr, data string) {
	t.Helper()
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		t.Fatalf("mount %s on %s: %v", kind, target, err)
	}
	if flags&unix.MS_REMOUNT == 0 {
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	}
}

// openDirectory returns a temporary directory that every user may reach.
func openDirectory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, dir := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// memory returns a temporary directory, in memory if possible: fsync(2) to a disk takes
// longer than the rest of a test.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "store")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func tokenFile(t *testing.T) store.File {
	t.Helper()
	return store.File{Path: filepath.Join(t.TempDir(), "tokens.json")}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func contentOf(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func statOf(t *testing.T, path string) *syscall.Stat_t {
	t.Helper()
	var stat syscall.Stat_t
	if err := syscall.Lstat(path, &stat); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return &stat
}

func ownerAndMode(t *testing.T, path string) string {
	t.Helper()
	stat := statOf(t, path)
	return fmt.Sprintf("%d:%d %04o", stat.Uid, stat.Gid, stat.Mode&0o7777)
}

// untouched returns a check that the file is the same one with the same content, owner, mode and
// time, and that its directory holds no new file except the lock and the spare.
func untouched(t *testing.T, path string) func(t *testing.T) {
	t.Helper()
	look := func(t *testing.T) (string, syscall.Stat_t) {
		t.Helper()
		stat := *statOf(t, path)
		stat.Atim = syscall.Timespec{}
		return contentOf(t, path), stat
	}

	content, stat := look(t)
	names := namesIn(t, filepath.Dir(path))
	names[filepath.Base(path)+".lock"] = true

	return func(t *testing.T) {
		t.Helper()
		nowContent, nowStat := look(t)
		if nowContent != content {
			t.Errorf("%s held\n%s\nand holds\n%s", path, content, nowContent)
		}
		if nowStat != stat {
			t.Errorf("%s was\n%+v\nand is\n%+v", path, stat, nowStat)
		}
		for name := range namesIn(t, filepath.Dir(path)) {
			if !names[name] {
				t.Errorf("%s was left in the directory", name)
			}
		}
	}
}

func namesIn(t *testing.T, dir string) map[string]bool {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, e := range entries {
		if e.Name() != spare { // which is there or not: see spare_test.go
			names[e.Name()] = true
		}
	}
	return names
}

// wantError checks that there is an error of one line, which has all of these parts.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", parts)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not contain %q", err, part)
		}
	}
	if strings.ContainsAny(err.Error(), "\n\x00") {
		t.Errorf("error %q is more than one line", err)
	}
}

// tokenNamed returns a well-formed token that is easy to tell from others.
func tokenNamed(name string) store.Token {
	return store.Token(fmt.Sprintf("terok-g-%032x", name))
}

func issue(t *testing.T, f store.File, e store.Entry) []store.Entry {
	t.Helper()
	revoked, err := f.Issue(e)
	if err != nil {
		t.Fatal(err)
	}
	return revoked
}

// issueHelper issues a token for a container, in the token file args[0]. It waits for the lock for
// at most args[1].
func issueHelper(args []string) error {
	limit, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	token, err := store.NewToken()
	if err != nil {
		return err
	}
	file := store.File{Path: args[0], LockTimeout: limit}
	_, err = file.Issue(store.Entry{Token: token, Grant: store.Grant{Project: "demo", Task: "1"}, Container: "helper"})
	return err
}

// waitHelper lives until its standard input ends.
func waitHelper([]string) error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// describeHelper prints its own description by ProcessOf, and lives on.
func describeHelper([]string) error {
	process, err := store.ProcessOf(os.Getpid())
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(process); err != nil {
		return err
	}
	return waitHelper(nil)
}

// failure runs the command and returns what it wrote to standard error as an error,
// or nil if it succeeded.
func failure(cmd *exec.Cmd) error {
	if err := cmd.Run(); err == nil {
		return nil
	}
	return errors.New(strings.TrimSuffix(fmt.Sprint(cmd.Stderr), "\n"))
}

// revokeContainer is RevokeContainer without the result nextLife.
func revokeContainer(f store.File, id string) ([]store.Entry, error) {
	revoked, _, err := f.RevokeContainer(id)
	return revoked, err
}
