package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

// Bad input changes nothing: the container does not start, the token file stays
// as it is, and the system log says why.

// othersTokens is what the token file holds before the container comes: another
// container's token.
const othersTokens = `{"terok-g-00000000000000000000000000000000": {"project": "other", "task": "1"}}`

// refusals are containers that must not start. The field "only", if it is set, limits a row to
// some engines.
var refusals = []struct {
	name        string
	only        string // "root" or "rootless"
	annotations []string
	args        []string // more arguments for podman
	flags       hookFlags
	tokenFile   string                        // its content, if not othersTokens
	given       func(t *testing.T, e *engine) // what else is wrong
	reason      []string                      // is in the log
}{
	{
		name:        "a project without a task",
		annotations: []string{"terok.project=demo"},
		reason:      []string{"refused", "annotation terok.project is there, terok.task is not"},
	},
	{
		name:        "a task without a project",
		annotations: []string{"terok.task=1"},
		reason:      []string{"refused", "annotation terok.task is there, terok.project is not"},
	},
	{
		name:        "a mode for gate.env that lets others write",
		annotations: []string{"terok.project=demo", "terok.task=1", "terok.env-mode=0666"},
		reason:      []string{"refused", "annotation terok.env-mode", "use 0400, 0440 or 0444"},
	},
	{
		name:        "an access of another kind",
		annotations: []string{"terok.project=demo", "terok.task=1", "terok.access=write"},
		reason:      []string{"refused", "annotation terok.access", "use read"},
	},
	{
		name:        "a pattern that is not a full ref name",
		annotations: []string{"terok.project=demo", "terok.task=1", "terok.push=main"},
		reason:      []string{"refused", "annotation terok.push", `pattern \"main\" is refused: not a full ref name`},
	},
	{
		name:   "a project that is not admitted",
		flags:  hookFlags{prestart: []string{"--allow-project", "web-*", "--allow-project", "dem"}},
		reason: []string{"refused", `project \"demo\" is not among those`, "--allow-project"},
	},
	{
		name:      "a token file that is not JSON",
		tokenFile: `{"terok-g-00000000000000000000000000000000": {"project": "other"`,
		reason:    []string{"failed", "tokens.json", "byte 64"},
	},
	{
		name:      "an empty token file",
		tokenFile: "\n",
		reason:    []string{"failed", "tokens.json", "byte "},
	},
	{
		name:      "a token file that is not an object",
		tokenFile: `["terok-g-00000000000000000000000000000000"]`,
		reason:    []string{"failed", "tokens.json", "byte 1", "not a JSON object"},
	},
	{
		name:   "a token file on a read-only file system",
		only:   "root",
		given:  readOnlyTokenFile,
		reason: []string{"failed", "tokens.json", "read-only file system"},
	},
	{
		name:   "a token file in a directory of another user",
		only:   "rootless",
		given:  foreignTokenFile,
		reason: []string{"failed", "tokens.json", "permission denied"},
	},
	{
		name:   "a token file of a group that the engine's user namespace does not have",
		only:   "rootless",
		given:  tokenFileOfUnmappedGroup,
		reason: []string{"failed", "tokens.json", "cannot keep owner and group"},
	},
	{
		name:   "a lock that another process holds for too long",
		flags:  hookFlags{common: []string{"--lock-timeout", "100ms"}},
		given:  heldLock,
		reason: []string{"failed", "tokens.json.lock", "held for more than 100ms by "},
	},
	{
		name:   "a GIT_CONFIG_PARAMETERS without quotes",
		args:   []string{"--env", "GIT_CONFIG_PARAMETERS=many"},
		flags:  hookFlags{prestart: []string{"--gate-url", "http://127.0.0.1:9418"}},
		reason: []string{"failed", `GIT_CONFIG_PARAMETERS=\"many\"`, "git rejects"},
	},
}

// hostileNames are projects and tasks that podman passes on and the hook refuses.
var hostileNames = []struct{ name, value string }{
	{"empty", ""},
	{"the gate's wildcard", "*"},
	{"the directory above", ".."},
	{"a hidden directory", ".git"},
	{"a flag", "--force"},
	{"a slash", "demo/other"},
	{"a space", "demo other"},
	{"quotes", `demo"'`},
	{"a line break", "demo\nTEROK_PROJECT=other"},
	{"a command", "$(touch /side/effect)"},
	{"not ASCII", "dèmo"},
	{"129 characters", strings.Repeat("a", 129)},
}

func TestBadInputStartsNoContainerAndChangesNothing(t *testing.T) {
	onCrunAndRunc(t, func(t *testing.T, e *engine) {
		for _, row := range refusals {
			if row.only == "root" && e.rootless || row.only == "rootless" && !e.rootless {
				continue
			}
			t.Run(row.name, func(t *testing.T) {
				t.Parallel()
				if row.tokenFile == "" {
					row.tokenFile = othersTokens
				}
				if row.annotations == nil {
					row.annotations = []string{"terok.project=demo", "terok.task=1"}
				}

				own := e.withTokenFile(t, row.tokenFile)
				if row.given != nil {
					row.given(t, own)
				}
				own = own.withHooks(t, row.flags, nil)
				for _, a := range row.annotations {
					row.args = append(row.args, "--annotation", a)
				}
				own.refuses(t, row.args, row.reason...)
			})
		}

		// Each name is tried as a project that runc passes to the hook, and as a task that crun passes.
		kind, here := map[string]string{"root/runc": "project", "rootless/crun": "task"}[e.name]
		if !here {
			return
		}

		for _, row := range hostileNames {
			t.Run("a "+kind+" that is "+row.name, func(t *testing.T) {
				t.Parallel()
				own := e.withTokenFile(t, othersTokens).withHooks(t, hookFlags{}, nil)
				pair := map[string]string{"project": "demo", "task": "1"}
				pair[kind] = row.value
				own.refuses(t, annotations(pair["project"], pair["task"]), "refused", "annotation terok."+kind+":", "is refused")
			})
		}
	})
}

// refuses checks that a container with these arguments does not start, for this
// reason, and leaves nothing behind.
func (e *engine) refuses(t *testing.T, args []string, reason ...string) {
	t.Helper()
	before := fileState(t, e.tokenFile)
	side := e.tempDir(t)

	run := []string{"--volume", side + ":/side"}
	for _, a := range args {
		if !podmanIs(t, 5, 0) {
			a = asCSV(a)
		}
		run = append(run, a)
	}

	id, out, err := e.runAndRemove(t, append(run, image, "sh", "-c", "touch /side/ran; cat /run/terok/gate.env")...)
	if err == nil {
		t.Fatal("the container starts")
	}

	if files, err := filepath.Glob(filepath.Join(side, "*")); err != nil || len(files) > 0 || out != "" {
		t.Errorf("the process has run: it wrote %q and %q %v", out, files, err)
	}
	if after := fileState(t, e.tokenFile); after != before {
		t.Errorf("the token file was\n%s\nand is\n%s", before, after)
	}
	for _, dir := range []string{"/run/terok", e.podmanPath("run/terok")} {
		if files, err := filepath.Glob(filepath.Join(dir, "*"+id+"*")); err != nil || len(files) > 0 {
			t.Errorf("on the host there is %q %v", files, err)
		}
	}

	if looksLikeToken.MatchString(err.Error()) {
		t.Errorf("podman's error shows a token: %v", err)
	}
	if e.runtime == "runc" && !strings.Contains(err.Error(), "terok-gate-hook: prestart: ") { // crun throws it away
		t.Errorf("podman's error does not show ours: %v", err)
	}

	if !systemLog.Listening() {
		return
	}
	logged := systemLog.SoFar(t, with(id))
	if len(logged) != 1 {
		t.Fatalf("the system log has %d lines about it: %q", len(logged), logged)
	}

	for _, part := range append(reason, "terok-gate-hook[", "prestart: ") {
		if !strings.Contains(logged[0], part) {
			t.Errorf("the system log does not name the reason, %q: %s", part, logged[0])
		}
	}
	if strings.Contains(logged[0], "\n") || looksLikeToken.MatchString(logged[0]) {
		t.Errorf("the system log has more than one line or a token: %q", logged[0])
	}
}

// asCSV protects an argument from podman before 5.0, which reads the value of
// --annotation as a line of comma-separated values.
func asCSV(arg string) string {
	if !strings.ContainsAny(arg, "\"\n,") {
		return arg
	}
	return `"` + strings.ReplaceAll(arg, `"`, `""`) + `"`
}

// looksLikeToken matches a token, or the beginning of one in Basic credentials.
var looksLikeToken = regexp.MustCompile(`terok-g-[0-9a-f]|dGVyb2stZy`)

// withTokenFile returns the same engine with a token file of its own, which has this
// content, or does not exist if the content is empty. The engine's hooks still use the old
// file.
func (e *engine) withTokenFile(t *testing.T, content string) *engine {
	t.Helper()
	other := *e
	other.tokenFile = filepath.Join(e.tempDir(t), "tokens.json")
	if content == "" {
		return &other
	}
	for _, path := range []string{other.tokenFile, other.tokenFile + ".lock"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if e.asUser != nil {
			if err := os.Chown(path, int(e.asUser.Uid), int(e.asUser.Gid)); err != nil {
				t.Fatal(err)
			}
		}
		content = "" // of the lock
	}
	return &other
}

// fileState returns everything that would differ if a file changed, or if another file took its
// place.
func fileState(t *testing.T, path string) string {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		t.Fatal(err)
	}
	content := ""
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		content = readFile(t, path)
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		content = target
	}
	return fmt.Sprintf("inode %d:%d mode %o links %d owner %d:%d size %d mtime %d.%09d: %q",
		stat.Dev, stat.Ino, stat.Mode, stat.Nlink, stat.Uid, stat.Gid, stat.Size, stat.Mtim.Sec, stat.Mtim.Nsec, content)
}

// readOnlyTokenFile makes the token file's directory a read-only mount.
func readOnlyTokenFile(t *testing.T, e *engine) {
	t.Helper()
	dir := filepath.Dir(e.tokenFile)
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
}

// foreignTokenFile gives the token file's directory to root.
func foreignTokenFile(t *testing.T, e *engine) {
	t.Helper()
	testenv.NeedRoot(t)
	dir := filepath.Dir(e.tokenFile)
	if err := os.Chown(dir, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chown(dir, int(e.asUser.Uid), int(e.asUser.Gid)) })
}

func tokenFileOfUnmappedGroup(t *testing.T, e *engine) {
	t.Helper()
	testenv.NeedRoot(t)
	if err := os.Chown(e.tokenFile, int(e.asUser.Uid), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(e.tokenFile, 0o640); err != nil {
		t.Fatal(err)
	}
}

func heldLock(t *testing.T, e *engine) {
	t.Helper()
	lock, err := os.OpenFile(e.tokenFile+".lock", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
}

// Through a volume on a mount with shared propagation, our directory would also be mounted
// on the host, and in every container that has the volume.
func TestAVolumeWithSharedPropagationIsRefused(t *testing.T) {
	onRootsEngines(t, func(t *testing.T, e *engine) {
		for _, propagation := range []string{"shared", "rshared"} {
			t.Run(propagation, func(t *testing.T) {
				t.Parallel()
				own := e.withTokenFile(t, othersTokens).withHooks(t, hookFlags{}, nil)
				dir := sharedMount(t, e)
				volume := dir + ":/run:" + propagation

				sees := func(id string) string {
					return own.podman(t, "exec", id, "sh", "-c", "ls -A /run; grep ' - tmpfs terok-gate ' /proc/self/mountinfo || true")
				}
				witness := own.runs(t, "--volume", volume)
				before, seen := listing(t, dir), sees(witness)

				own.refuses(t, append(annotations("demo", "1"), "--volume", volume), "shared propagation", "/run")

				if after := listing(t, dir); after != before {
					t.Errorf("the volume on the host had\n%s\nand has\n%s", before, after)
				}
				if mounts := mountsBelow(t, dir); len(mounts) != 1 {
					t.Errorf("on the host there are mounts %q", mounts)
				}
				if now := sees(witness); now != seen {
					t.Errorf("a container that was there before sees %q, not %q", now, seen)
				}
				if now := sees(own.runs(t, "--volume", volume)); now != seen {
					t.Errorf("a container that comes later sees %q, not %q", now, seen)
				}
			})
		}
	})
}

// A shared volume is left alone if our directory is not on it.
func TestAVolumeWithSharedPropagationElsewhereIsAccepted(t *testing.T) {
	onRootsEngines(t, func(t *testing.T, e *engine) {
		dir := sharedMount(t, e)
		c := e.create(t, append(annotations("demo", "shared"), "--volume", dir+":/data:rshared")...)
		c.holdsToken(t, c.start(t), "demo", "shared")
		if mounts := mountsBelow(t, dir); len(mounts) != 1 {
			t.Errorf("on the host there are mounts %q", mounts)
		}
		if strings.Contains(readFile(t, "/proc/self/mountinfo"), " terok-gate ") {
			t.Error("on the host there is a mount of ours")
		}
	})
}

// runs starts a container without our annotations, and returns its id. The container runs until
// the end of the test.
func (e *engine) runs(t *testing.T, args ...string) string {
	t.Helper()
	args = append([]string{"run", "--detach"}, args...)
	id := e.podman(t, append(args, image, "sleep", "1000")...)
	t.Cleanup(func() {
		if _, err := e.tryPodman("rm", "--force", "--time", "0", id); err != nil {
			t.Error(err)
		}
	})
	return id
}

// sharedMount returns a directory that is a mount of its own, with shared
// propagation.
func sharedMount(t *testing.T, e *engine) string {
	t.Helper()
	dir := e.tempDir(t)
	if err := unix.Mount("terok-e2e", dir, "tmpfs", 0, "mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	return dir
}

// mountsBelow returns the lines of our mount table for mounts on or below dir.
func mountsBelow(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(readFile(t, "/proc/self/mountinfo")) {
		if f := strings.Fields(line); f[4] == dir || strings.HasPrefix(f[4], dir+"/") {
			found = append(found, line)
		}
	}
	return found
}

// listing returns the state of a directory and of all that is in it.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			fmt.Fprintf(&all, "%s %s\n", strings.TrimPrefix(path, dir), fileState(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// The bundle asks for no mount namespace. Podman never makes such a bundle. The runtime and the
// hook are in a mount namespace of their own, which stands for the host's.
func TestAContainerInTheHostsMountNamespaceIsRefused(t *testing.T) {
	onRootsEngines(t, func(t *testing.T, e *engine) {
		testenv.Need(t, "unshare")
		own := e.withTokenFile(t, othersTokens)
		bundle, id := e.tempDir(t), fmt.Sprintf("e2e-host-mounts-%s", e.runtime)

		hook, err := hookBinary()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.run(e.runtime, "spec", "--bundle", bundle); err != nil {
			t.Fatal(err)
		}

		path := filepath.Join(bundle, "config.json")
		var config map[string]any
		if err := json.Unmarshal([]byte(readFile(t, path)), &config); err != nil {
			t.Fatal(err)
		}

		rootfs := e.rootfs(t)
		config["root"] = map[string]any{"path": rootfs}
		config["mounts"] = []any{}
		config["annotations"] = map[string]any{"terok.project": "demo", "terok.task": "1"}
		config["hooks"] = map[string]any{"prestart": []any{map[string]any{
			"path": hook, "args": []string{"terok-gate-hook", "--token-file", own.tokenFile, "prestart"},
		}}}
		delete(config, "hostname")
		config["process"].(map[string]any)["terminal"] = false
		config["process"].(map[string]any)["args"] = []string{"/bin/sh", "-c", "touch /ran"}

		linux := config["linux"].(map[string]any)
		linux["namespaces"] = []any{map[string]any{"type": "pid"}}
		delete(linux, "maskedPaths")
		delete(linux, "readonlyPaths")
		delete(linux, "resources")

		if err := writeJSON(path, config); err != nil {
			t.Fatal(err)
		}

		before := fileState(t, own.tokenFile)
		out, err := e.run("unshare", "--mount", "--propagation", "private", "sh", "-c",
			`"$@"; code=$?; grep " - tmpfs terok-gate " /proc/self/mountinfo; exit $code`, "sh",
			e.runtime, "--root", e.tempDir(t), "run", "--bundle", bundle, id)
		if err == nil {
			t.Error("the container starts")
		}
		if strings.Contains(out, "terok-gate") {
			t.Errorf("on the host there is a mount: %s", out)
		}
		if after := fileState(t, own.tokenFile); after != before {
			t.Errorf("the token file was\n%s\nand is\n%s", before, after)
		}
		if files := listing(t, rootfs); strings.Contains(files, "/ran ") || strings.Contains(files, "terok") {
			t.Errorf("the root file system has\n%s", files)
		}
		if logged := systemLog.SoFar(t, with(id)); len(logged) != 1 || !strings.Contains(logged[0], "in the host's mount namespace") {
			t.Errorf("the system log has %q", logged)
		}
	})
}
