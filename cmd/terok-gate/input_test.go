package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

// trial is a directory in which a hook is tried: a token file that holds something
// already, and an env dir that is not there yet.
type trial struct {
	dir, tokenFile, envDir, runtimeDir string
}

const tokensBefore = `{
  "terok-g-0123456789abcdef0123456789abcdef": {"project": "other", "task": "1"},
  "not one of ours": {"key": [1, 2.50]}
}
`

func newTrial(t *testing.T) trial {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	tr := trial{dir, filepath.Join(dir, "gate/tokens.json"), filepath.Join(dir, "env"), filepath.Join(dir, "run")}
	must(t, os.Mkdir(filepath.Dir(tr.tokenFile), 0o755))
	must(t, os.WriteFile(tr.tokenFile, []byte(tokensBefore), 0o600))
	return tr
}

// stage is a command line of a stage in this trial.
func (tr trial) stage(stdin string, args ...string) call {
	return call{
		args:  append([]string{"--token-file", tr.tokenFile}, args...),
		stdin: stdin,
		env:   []string{"XDG_RUNTIME_DIR=" + tr.runtimeDir},
	}
}

// unchanged checks that a failing command left the token file as it was, the very
// same file, and that there is no env file.
func (tr trial) unchanged(t *testing.T, before fs.FileInfo, content string) {
	t.Helper()
	now, err := os.ReadFile(tr.tokenFile)
	if err != nil || string(now) != content {
		t.Errorf("the token file holds %q, %v", now, err)
	}
	after, err := os.Lstat(tr.tokenFile)
	if err != nil || !os.SameFile(before, after) || before.Mode() != after.Mode() || !before.ModTime().Equal(after.ModTime()) {
		t.Errorf("the token file was replaced or changed: it is %v, and was %v", after, before)
	}
	if files, err := filepath.Glob(filepath.Join(filepath.Dir(tr.tokenFile), ".*")); err != nil || len(files) != 0 {
		t.Errorf("left beside the token file: %q, %v", files, err)
	}
	for _, dir := range []string{tr.envDir, tr.runtimeDir} {
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				t.Errorf("there is an env file: %s", path)
			}
			return nil
		})
	}
}

// state is crun's sample state, which has no pid, changed by edit.
func state(t *testing.T, edit func(state, annotations map[string]any)) string {
	t.Helper()
	content, err := os.ReadFile("../../testdata/crun/prestart.json")
	must(t, err)
	var value map[string]any
	must(t, json.Unmarshal(content, &value))
	edit(value, value["annotations"].(map[string]any))
	content, err = json.Marshal(value)
	must(t, err)
	return string(content)
}

func withKey(t *testing.T, key string, value any) string {
	t.Helper()
	return state(t, func(state, _ map[string]any) { state[key] = value })
}

func withoutKey(t *testing.T, key string) string {
	t.Helper()
	return state(t, func(state, _ map[string]any) { delete(state, key) })
}

// No token must be issued for a project or task that has one of hostileNames: these names end up in
// URLs, an env file and a shell.
var hostileNames = map[string]string{
	"nothing":                   "",
	"the gate's wildcard":       "*",
	"a pattern":                 "demo?",
	"the parent directory":      "..",
	"this directory":            ".",
	"a path":                    "a/b",
	"an absolute path":          "/etc/passwd",
	"a path that climbs":        "../../other",
	"a backslash":               `a\b`,
	"a space":                   "a b",
	"a space at the end":        "a ",
	"a tab":                     "a\tb",
	"a single quote":            "a'b",
	"a double quote":            `a"b`,
	"a newline":                 "a\nTEROK_PROJECT=other",
	"a newline at the end":      "demo\n",
	"a carriage return":         "a\rb",
	"a command":                 "$(reboot)",
	"another command":           "`reboot`",
	"a variable":                "$HOME",
	"the end of a command":      "a;reboot",
	"a terminal's escape":       "\x1b[2J",
	"a letter beyond ASCII":     "dém0",
	"a look-alike":              "dеmo", // its second letter is Cyrillic
	"a change of direction":     "\u202eomed",
	"a line separator":          "a\u2028b",
	"a delete":                  "a\x7f",
	"a next line":               "a\u0085b",
	"129 characters":            strings.Repeat("a", 129),
	"a hundred thousand":        strings.Repeat("a", 100_000),
	"a flag":                    "--allow-project",
	"a dash":                    "-",
	"a hidden file":             ".git",
	"an underscore at the head": "_a",
	"a colon":                   "a:b",
	"an at":                     "a@b",
	"a query":                   "a?b=c",
	"a fragment":                "a#b",
	"an escape of a URL":        "%2e%2e",
	"an equals":                 "a=b",
}

func TestHostileProjectsAndTasksChangeNothing(t *testing.T) {
	t.Parallel()
	names := map[string]string{"a NUL": "a\x00b"}
	for name, value := range hostileNames {
		names[name] = value
	}
	for _, annotation := range []string{"terok.project", "terok.task"} {
		for name, value := range names {
			t.Run(annotation+" is "+name, func(t *testing.T) {
				t.Parallel()
				tr := newTrial(t)
				before, err := os.Lstat(tr.tokenFile)
				must(t, err)

				s := state(t, func(_, annotations map[string]any) { annotations[annotation] = value })
				r := tr.stage(s, "prestart", "--env-dir", tr.envDir).run(t)
				if r.status != exitFailed {
					t.Errorf("exit status %d", r.status)
				}

				r.errorLine(t, "prestart: refused: annotation "+annotation+": ", quoted(value))
				if want := "terok-gate-hook: prestart: refused: annotation " + annotation +
					": use letters, digits, '.', '_' and '-', a letter or digit first, at most 128 (to learn why: terok-gate why)\n"; r.stderr != want {
					t.Errorf("the error is %q, not %q", r.stderr, want)
				}
				tr.unchanged(t, before, tokensBefore)
			})
		}
	}
}

// quoted is how an error shows the value, cut if it is long.
func quoted(value string) string {
	if len(value) > 32 {
		return fmt.Sprintf("%.32q", value)
	}
	return fmt.Sprintf("%q", value)
}

func TestCreateRefusesHostileProjectsAndTasks(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"project", "task"} {
		for name, value := range hostileNames {
			t.Run(flag+" is "+name, func(t *testing.T) {
				t.Parallel()
				tr := newTrial(t)
				before, err := os.Lstat(tr.tokenFile)
				must(t, err)
				args := map[string]string{"project": "demo", "task": "1"}
				args[flag] = value
				r := tr.stage("", "create", "--project="+args["project"], "--task="+args["task"]).run(t)
				if r.status != exitUsage {
					t.Errorf("exit status %d", r.status)
				}
				r.errorLine(t, "create: "+flag+" ", quoted(value))
				tr.unchanged(t, before, tokensBefore)
			})
		}
	}
}

func TestBadInputChangesNothing(t *testing.T) {
	t.Parallel()
	gone := exec.Command("true")
	must(t, gone.Run())

	with := func(key string, value any) func(*testing.T, trial) string {
		return func(t *testing.T, _ trial) string { return withKey(t, key, value) }
	}

	// bundle is a state with our own pid and a bundle with this config.json.
	bundle := func(config string) func(*testing.T, trial) string {
		return func(t *testing.T, tr trial) string {
			dir := filepath.Join(tr.dir, "bundle")
			must(t, os.Mkdir(dir, 0o755))
			if config != "" {
				must(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644))
			}
			return state(t, func(state, _ map[string]any) { state["pid"], state["bundle"] = os.Getpid(), dir })
		}
	}

	inNamespaceOf := func(pid func() int) func(*testing.T, trial) string {
		return func(t *testing.T, tr trial) string {
			config, err := os.ReadFile("../../testdata/crun/bundle/config.json")
			must(t, err)
			s := bundle(string(config))(t, tr)
			return strings.Replace(s, fmt.Sprintf(`"pid":%d`, os.Getpid()), fmt.Sprintf(`"pid":%d`, pid()), 1)
		}
	}

	for _, row := range []struct {
		name  string
		state func(*testing.T, trial) string
		args  []string // after the stage
		what  string   // that the error contains
	}{
		{"no state", func(*testing.T, trial) string { return "" }, nil, "read the container state from standard input: there is none"},
		{"broken JSON", func(*testing.T, trial) string { return `{"id": ` }, nil, "container state: unexpected end of JSON input"},
		{"no JSON", func(*testing.T, trial) string { return "\x00\x01\n\n" }, nil, "container state: invalid character"},
		{"a state of 2 MiB", func(t *testing.T, _ trial) string {
			return withKey(t, "annotations", map[string]any{"terok.project": "demo", "terok.task": "1", "more": strings.Repeat("a", 2<<20)})
		}, nil, "read the container state from standard input: more than 1048576 bytes"},
		{"2 MiB of nothing after a state", func(t *testing.T, _ trial) string {
			return withKey(t, "id", "a") + strings.Repeat(" ", 2<<20)
		}, nil, "read the container state from standard input: more than 1048576 bytes"},
		{"no id", func(t *testing.T, _ trial) string { return withoutKey(t, "id") }, nil, "container state: id is missing"},
		{"an id with a slash", with("id", "a/b"), nil, `container state: id "a/b" is refused`},
		{"an id that climbs", with("id", "../../a"), nil, `container state: id "../../a" is refused`},
		{"an id that is the parent directory", with("id", ".."), nil, `container state: id ".." is refused`},
		{"an id with a newline", with("id", "a\nb"), nil, `container state: id "a\nb" is refused`},
		{"an id with a terminal's escape", with("id", "\x1b[2J"), nil, `container state: id "\x1b[2J" is refused`},
		{"an id too long for a file name", with("id", strings.Repeat("a", 256)), nil, "is refused: longer than 200 bytes"},
		{"a negative pid", with("pid", -1), nil, "container state: pid -1 is negative"},

		{"no task", func(t *testing.T, _ trial) string {
			return state(t, func(_, annotations map[string]any) { delete(annotations, "terok.task") })
		}, nil, "refused: annotation terok.project is there, terok.task is not"},
		{"no project", func(t *testing.T, _ trial) string {
			return state(t, func(_, annotations map[string]any) { delete(annotations, "terok.project") })
		}, nil, "refused: annotation terok.task is there, terok.project is not"},
		{"annotations that are no strings", func(t *testing.T, _ trial) string {
			return state(t, func(_, annotations map[string]any) { annotations["terok.task"] = 1 })
		}, nil, "container state: json: cannot unmarshal number"},
		{"a project that begins with bytes that are not UTF-8", func(t *testing.T, _ trial) string {
			return strings.Replace(withKey(t, "id", "a"), `"demo"`, "\"\xff\xfedemo\"", 1)
		}, nil, `refused: annotation terok.project: "`},
		{"a project that is not admitted", with("id", "a"), []string{"--allow-project", "other", "--allow-project", "demo?"}, `refused: project "demo" is not among those`},

		{"no bundle", func(t *testing.T, _ trial) string {
			return state(t, func(state, _ map[string]any) { state["pid"] = os.Getpid(); delete(state, "bundle") })
		}, nil, "prestart: container state: bundle is missing"},
		{"a relative bundle", func(t *testing.T, _ trial) string {
			return state(t, func(state, _ map[string]any) { state["pid"], state["bundle"] = os.Getpid(), "." })
		}, nil, `container state: bundle "." is not an absolute path`},
		{"a bundle that is not there", func(t *testing.T, tr trial) string {
			return state(t, func(state, _ map[string]any) { state["pid"], state["bundle"] = os.Getpid(), tr.dir+"/a\nb" })
		}, nil, `a\nb/config.json: no such file or directory`},
		{"no config.json", bundle(""), nil, "config.json: no such file or directory"},
		{"a broken config.json", bundle("{"), nil, "config.json: unexpected end of JSON input"},
		{"an empty config.json", bundle("{}"), nil, "config.json: has no process or no root path"},
		{"a mode that lets everybody write", func(t *testing.T, tr trial) string {
			return state(t, func(state, annotations map[string]any) {
				state["pid"], annotations["terok.env-mode"] = os.Getpid(), "0666"
			})
		}, nil, `prestart: refused: annotation terok.env-mode: "0666": use 0400, 0440 or 0444`},

		{"a pid that is gone", with("pid", gone.Process.Pid), nil, fmt.Sprintf("container process: describe process %d: ", gone.Process.Pid)},
		{"a pid beyond all pids", with("pid", 1<<30), nil, "container process: describe process 1073741824: "},
		{"a container in the hook's mount namespace", inNamespaceOf(os.Getpid), nil, "the container is in the host's mount namespace"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t)
			before, err := os.Lstat(tr.tokenFile)
			must(t, err)
			r := tr.stage(row.state(t, tr), append([]string{"prestart"}, row.args...)...).run(t)
			if r.status != exitFailed {
				t.Errorf("exit status %d", r.status)
			}
			r.errorLine(t, "prestart: ", row.what)
			tr.unchanged(t, before, tokensBefore)
		})
	}

	t.Run("a container in the host's mount namespace", func(t *testing.T) {
		t.Parallel()
		systemLog.Need(t)
		// The hook runs in a new pid namespace, and in a mount namespace of its own. Process 1 of
		// that pid namespace, the shell, is in another mount namespace, which the hook takes for
		// the host's. The state names process 1 as the container's.
		testenv.NeedRoot(t)

		shell, err := exec.LookPath("sh")
		must(t, err)
		unshare, err := exec.LookPath("unshare")
		must(t, err)

		tr := newTrial(t)
		before, err := os.Lstat(tr.tokenFile)
		must(t, err)
		cmd := tr.stage(inNamespaceOf(func() int { return 1 })(t, tr), "prestart").command(t)
		cmd.Args = slices.Concat([]string{unshare, "--pid", "--fork", "--mount-proc",
			shell, "-c", `"$0" --mount "$@"; exit $?`, unshare, cmd.Path}, cmd.Args[1:])
		cmd.Path = unshare

		r := runProgram(t, cmd)
		if r.status != exitFailed {
			t.Errorf("exit status %d", r.status)
		}

		const why = "the container is in the host's mount namespace"
		if !strings.Contains(r.stderr, why) {
			t.Errorf("the error is %q", r.stderr)
		}
		// The log has the hook's process id in the new pid namespace.
		if _, ok := systemLog.Wait(regexp.MustCompile(`terok-gate-hook\[[0-9]\]: failed .*` + why).MatchString); !ok {
			t.Error("the system log does not say so")
		}
		tr.unchanged(t, before, tokensBefore)
	})
}

func TestABadStateAtPoststopChangesNothing(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, state, what string }{
		{"no state", "", "read the container state from standard input: there is none"},
		{"broken JSON", "{", "container state: unexpected end of JSON input"},
		{"no id", "{}", "container state: id is missing"},
		{"an id that climbs", `{"id": "../a"}`, `container state: id "../a" is refused`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t)
			before, err := os.Lstat(tr.tokenFile)
			must(t, err)
			r := tr.stage(row.state, "poststop", "--env-dir", tr.envDir).run(t)
			if r.status != exitFailed {
				t.Errorf("exit status %d", r.status)
			}
			r.errorLine(t, "poststop: ", row.what)
			tr.unchanged(t, before, tokensBefore)
		})
	}
}

// These commands fail, name the token file, and leave it alone. When prestart fails, it has already
// written an env file, and removes that file.
func TestABadTokenFileIsLeftAlone(t *testing.T) {
	t.Parallel()
	commands := map[string]call{
		"prestart": {args: []string{"prestart"}, stdin: withKey(t, "id", "a")},
		"poststop": {args: []string{"poststop"}, stdin: withKey(t, "id", "a")},
		"create":   {args: []string{"create", "--project", "demo", "--task", "1"}},
		"revoke":   {args: []string{"revoke", "--project", "demo", "--task", "1"}},
		"list":     {args: []string{"list"}},
		"verify":   {args: []string{"verify"}, stdin: "terok-g-0123456789abcdef0123456789abcdef\n"},
		"reap":     {args: []string{"reap"}},
	}
	for name, content := range map[string]struct{ content, what string }{
		"not JSON":        {"poison\n", "byte 1: "},
		"half a file":     {`{"terok-g-0123456789abcdef0123456789abcdef": {`, "byte 46: "},
		"two objects":     {"{}\n{}\n", "byte 4: "},
		"a list":          {"[]\n", "byte 1: a JSON array"},
		"null":            {"null\n", "byte 0: a JSON null"},
		"a secret string": {`"terok-g-0123456789abcdef0123456789abcdef"`, "byte 42: a JSON string"},
		"nothing":         {"", "byte 0: "},
	} {
		for command, c := range commands {
			t.Run(name+", "+command, func(t *testing.T) {
				t.Parallel()
				tr := newTrial(t)
				must(t, os.WriteFile(tr.tokenFile, []byte(content.content), 0o600))
				before, err := os.Lstat(tr.tokenFile)
				must(t, err)
				r := tr.stage(c.stdin, c.args...).run(t)
				if r.status != exitFailed {
					t.Errorf("exit status %d", r.status)
				}
				r.errorLine(t, command+": ", "token file "+tr.tokenFile+": not a JSON object: "+content.what)
				tr.unchanged(t, before, content.content)
			})
		}
	}
}

func TestATokenFileThatCannotBeWrittenIsAnError(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		make   func(*testing.T, trial)
		nobody bool
		what   string
	}{
		{"on a read-only file system", func(t *testing.T, tr trial) {
			systemLog.Need(t)
			dir := filepath.Dir(tr.tokenFile)
			must(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
			t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
			must(t, unix.MountSetattr(unix.AT_FDCWD, dir, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}))
		}, false, "read-only file system"},
		{"in a directory of somebody else", func(t *testing.T, tr trial) {
			must(t, os.Chmod(filepath.Dir(tr.tokenFile), 0o555))
			t.Cleanup(func() { os.Chmod(filepath.Dir(tr.tokenFile), 0o755) })
			must(t, os.Chmod(tr.tokenFile, 0o644))
			must(t, os.Mkdir(tr.runtimeDir, 0o777))
			must(t, os.Chmod(tr.runtimeDir, 0o777))
		}, true, "permission denied"},
		{"in a directory that is a file", func(t *testing.T, tr trial) {
			must(t, os.Rename(filepath.Dir(tr.tokenFile), filepath.Join(tr.dir, "real")))
			must(t, os.WriteFile(filepath.Dir(tr.tokenFile), nil, 0o600))
		}, false, "not a directory"},
		{"that is a link", func(t *testing.T, tr trial) {
			must(t, os.Rename(tr.tokenFile, filepath.Join(tr.dir, "real")))
			must(t, os.Symlink(filepath.Join(tr.dir, "real"), tr.tokenFile))
		}, false, "is not a regular file"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t)
			row.make(t, tr)
			before, statErr := os.Lstat(tr.tokenFile)

			c := tr.stage(withKey(t, "id", "a"), "prestart")
			c.nobody = row.nobody
			r := c.run(t)
			if r.status != exitFailed {
				t.Errorf("exit status %d", r.status)
			}
			r.errorLine(t, "prestart: issue the token: ", row.what)

			if statErr == nil {
				tr.unchanged(t, before, tokensBefore)
			}

			for _, file := range []string{"real", "real/tokens.json"} {
				if content, err := os.ReadFile(filepath.Join(tr.dir, file)); err == nil && string(content) != tokensBefore {
					t.Errorf("%s holds %q", file, content)
				}
			}
		})
	}
}

func TestALockThatIsHeldPastTheLimitIsAnError(t *testing.T) {
	t.Parallel()
	for command, c := range map[string]call{
		"prestart": {args: []string{"prestart"}, stdin: withKey(t, "id", "a")},
		"poststop": {args: []string{"poststop"}, stdin: withKey(t, "id", "a")},
		"create":   {args: []string{"create", "--project", "demo", "--task", "1"}},
		"revoke":   {args: []string{"revoke", "--project", "other", "--task", "1"}},
	} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t)
			lock, err := os.OpenFile(tr.tokenFile+".lock", os.O_RDWR|os.O_CREATE, 0o600)
			must(t, err)
			defer lock.Close()
			must(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
			before, err := os.Lstat(tr.tokenFile)
			must(t, err)

			r := tr.stage(c.stdin, append([]string{"--lock-timeout", "50ms"}, c.args...)...).run(t)
			if r.status != exitFailed {
				t.Errorf("exit status %d", r.status)
			}
			r.errorLine(t, command+": ", "lock file "+tr.tokenFile+".lock: held for more than 50ms by process ")
			tr.unchanged(t, before, tokensBefore)

			// Readers take no lock, and the next writer gets it once it is released.
			if r := tr.stage("", "list").run(t); r.status != exitDone {
				t.Errorf("list: exit status %d: %s", r.status, r.stderr)
			}
			must(t, unix.Flock(int(lock.Fd()), unix.LOCK_UN))
			if r := tr.stage(c.stdin, c.args...).run(t); r.status != exitDone {
				t.Errorf("after the lock was released: exit status %d: %s", r.status, r.stderr)
			}
		})
	}
}
