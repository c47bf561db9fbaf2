package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
)

func TestMisuseEndsWithStatus2AndDoesNothing(t *testing.T) {
	t.Parallel()
	const token = "terok-g-0123456789abcdef0123456789abcdef"
	for _, row := range []struct {
		line    string // separated by spaces; ” is an empty argument
		command string // that the error names
		what    string
	}{
		{"--bogus", "", "flag provided but not defined: --bogus"},
		{"bogus", "", `unknown command "bogus"`},
		{token, "", "unknown command (a token, 7c980395: give tokens on standard input)"},
		{"hlep", "", `unknown command "hlep": see terok-gate --help`},
		{"--lock-timeout", "", "flag needs an argument: --lock-timeout"},
		{"--lock-timeout soon list", "", `invalid value "soon" for flag --lock-timeout`},
		{"--lock-timeout 0s list", "", `invalid value "0s" for flag --lock-timeout: must be longer than 0s`},
		{"--lock-timeout -1s poststop", "poststop: ", `invalid value "-1s" for flag --lock-timeout: must be longer than 0s`},

		{"create", "create: ", "--project and --task are both needed"},
		{"create --project demo", "create: ", "--project and --task are both needed"},
		{"create --task 1", "create: ", "--project and --task are both needed"},
		{"create --project demo --task", "create: ", "flag needs an argument: --task"},
		{"create --project demo --task 1 more", "create: ", `takes no argument "more"`},
		{"create --project demo --task 1 --token-file f", "create: ", "flag provided but not defined: --token-file"},
		{"create --project demo --task 1 --token-file=f", "create: ", "--token-file: put it before the command, as in terok-gate --token-file ... create"},
		{"create --token-fiel f", "create: ", "flag provided but not defined: --token-fiel: see terok-gate create --help"},
		{"create demo 1", "create: ", `takes no argument "demo"`},

		{"revoke --project other", "revoke: ", "--task is missing; for the tokens of every task of the project, give --all-tasks"},
		{"revoke --task 1", "revoke: ", "--project is missing"},
		{"revoke --all-tasks", "revoke: ", "--project is missing"},
		{"revoke --project other --task 1 --all-tasks", "revoke: ", "give --task or --all-tasks, not both"},
		{"revoke --project other --task 1 --container a", "revoke: ", "--container cannot be combined with --project, --task or --all-tasks"},
		{"revoke --all-tasks --container a", "revoke: ", "--container cannot be combined with --project, --task or --all-tasks"},
		{"revoke --container ”", "revoke: ", "--container is empty"},
		{"revoke " + token, "revoke: ", "takes no argument (a token, 7c980395: give tokens on standard input)"},
		{"revoke --token " + token, "revoke: ", "flag provided but not defined: --token"},
		{"verify " + token, "verify: ", "takes no argument (a token, 7c980395: give tokens on standard input)"},
		{"list all", "list: ", `takes no argument "all"`},
		{"list --json=maybe", "list: ", `invalid boolean value "maybe" for --json`},
		{"list --yaml", "list: ", "flag provided but not defined: --yaml"},
		{"list -yaml", "list: ", "flag provided but not defined: -yaml"},
		{"list --project=-yaml -yaml", "list: ", "flag provided but not defined: -yaml"},
		{"path f", "path: ", `takes no argument "f"`},
		{"reap --watch --dry-run", "reap: ", "give --watch or --dry-run, not both"},

		{"prestart state.json", "prestart: ", `takes no argument "state.json"`},
		{"prestart --bogus", "prestart: ", "flag provided but not defined: --bogus"},
		{"prestart --env-mode 0600", "prestart: ", `--env-mode "0600": use 0400, 0440 or 0444`},
		{"prestart --mount-path /srv", "prestart: ", "flag provided but not defined: --mount-path"},
		{"prestart --project-annotation a", "prestart: ", "flag provided but not defined: --project-annotation"},
		{"prestart --task-annotation a", "prestart: ", "flag provided but not defined: --task-annotation"},
		{"prestart --gate-timeout 1m", "prestart: ", "flag provided but not defined: --gate-timeout"},
		{"prestart --gate-url gate:9418", "prestart: ", `--gate-url "gate:9418": is not of the form`},
		{"prestart --gate-url http://gate:94180", "prestart: ", `--gate-url "http://gate:94180": there is no such port`},
		{"prestart --gate-url http://me:pw@gate", "prestart: ", `--gate-url "...@gate": holds credentials`},
		{"prestart --gate-url http://gate/$(reboot)", "prestart: ", `--gate-url "http://gate/$(reboot)": use letters`},
		{"prestart --allow-project [", "prestart: ", `--allow-project "[": syntax error in pattern`},
		{"createRuntime --env-mode rw", "createRuntime: ", `--env-mode "rw": use 0400`},
		{"poststop --gate-url http://gate", "poststop: ", "flag provided but not defined: --gate-url"},
		{"poststop a", "poststop: ", `takes no argument "a"`},
	} {
		t.Run(row.line, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t)
			before, err := os.Lstat(tr.tokenFile)
			must(t, err)

			args := strings.Fields(row.line)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "”", "")
			}

			r := tr.stage(withKey(t, "id", "a"), args...).run(t)
			if r.status != exitUsage {
				t.Errorf("exit status %d", r.status)
			}
			r.errorLine(t, row.command, row.what)
			if !strings.Contains(r.stderr, row.what) {
				t.Errorf("the error does not say %s: %s", row.what, r.stderr)
			}
			tr.unchanged(t, before, tokensBefore)
		})
	}

	t.Run("an environment variable that makes no sense", func(t *testing.T) {
		t.Parallel()
		r := call{args: []string{"list"}, env: []string{"TEROK_GATE_LOCK_TIMEOUT=soon"}}.run(t)
		if r.status != exitUsage {
			t.Errorf("exit status %d", r.status)
		}
		r.errorLine(t, "", "TEROK_GATE_LOCK_TIMEOUT")
	})
}

func TestATokenOnStandardInput(t *testing.T) {
	t.Parallel()
	const token = "terok-g-0123456789abcdef0123456789abcdef"
	for _, row := range []struct {
		name, stdin string
		status      int
		what        string
	}{
		{"alone", token, exitDone, ""},
		{"on a line", token + "\n", exitDone, ""},
		{"between blanks", " \t" + token + "\r\n\n", exitDone, ""},
		{"none", "", exitFailed, "read a token from standard input: there is none"},
		{"blanks", " \n", exitFailed, "read a token from standard input: there is none"},
		{"two", token + "\n" + token + "\n", exitFailed, "is not valid"},
		{"the beginning of one", token[:39], exitFailed, "token c28f1f19 is not valid"},
		{"one in capitals", strings.ToUpper(token), exitFailed, "is not valid"},
		{"the key of an entry that is no grant", "not one of ours", exitFailed, "is not valid"},
		{"a flood", strings.Repeat("a", 1<<20), exitFailed, "read a token from standard input: more than 4096 bytes"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := newTrial(t).stage(row.stdin, "verify").run(t)
			if r.status != row.status {
				t.Errorf("exit status %d", r.status)
			}
			if row.status != exitDone {
				r.errorLine(t, "verify: ", row.what)
			} else if r.stdout != "project \"other\", task \"1\"\n" {
				t.Errorf("verify prints %q", r.stdout)
			}
		})
	}
}

// If create did not ignore SIGPIPE, the signal would kill it before it revokes the token.
func TestATokenThatCannotBePrintedIsRevoked(t *testing.T) {
	t.Parallel()
	tr := newTrial(t)
	reader, writer, err := os.Pipe()
	must(t, err)
	must(t, reader.Close())
	var stderr strings.Builder
	cmd := tr.stage("", "create", "--project", "demo", "--task", "1").command(t)
	cmd.Stdout, cmd.Stderr = writer, &stderr
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != exitFailed {
		t.Errorf("create ended with %v", err)
	}
	if want := "terok-gate: create: print the token: write /dev/stdout: broken pipe\n"; stderr.String() != want {
		t.Errorf("the error is %q", stderr.String())
	}
	if r := tr.stage("", "list").run(t); strings.Contains(r.stdout, "demo") || !strings.Contains(r.stdout, "other") {
		t.Errorf("the tokens are\n%s", r.stdout)
	}
}

// Once the token is issued, the hook must not fail because of something optional: the container has
// its token.
func TestAHookThatCanNeitherPrintNorLogStillIssuesTheToken(t *testing.T) {
	t.Parallel()
	tr := newTrial(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	must(t, err)
	defer full.Close()
	cmd := tr.stage(withKey(t, "id", "a"), "--log-file", "/dev/full", "prestart", "--env-dir", tr.envDir).command(t)
	cmd.Stdout, cmd.Stderr = full, full
	must(t, cmd.Run())
	if _, err := os.Stat(filepath.Join(tr.envDir, "a.env")); err != nil {
		t.Error(err)
	}
	if r := tr.stage("", "revoke", "--container", "a").run(t); r.stdout != "revoked 1\n" {
		t.Errorf("revoke says %q", r.stdout)
	}
}

func TestALogFileThatCannotBeWrittenFailsNothing(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		make func(t *testing.T, path string)
		what string
	}{
		{"in a directory that cannot be made", func(t *testing.T, path string) { must(t, os.WriteFile(filepath.Dir(path), nil, 0o600)) }, "not a directory"},
		{"a directory", func(t *testing.T, path string) { must(t, os.MkdirAll(path, 0o755)) }, "is a directory"},
		{"a link", func(t *testing.T, path string) {
			must(t, os.Mkdir(filepath.Dir(path), 0o755))
			must(t, os.Symlink("/dev/null", path))
		}, "too many levels of symbolic links"},
		{"a fifo without a reader", func(t *testing.T, path string) {
			must(t, os.Mkdir(filepath.Dir(path), 0o755))
			must(t, unix.Mkfifo(path, 0o600))
		}, "no such device or address"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t)
			path := filepath.Join(tr.dir, "log/trail")
			row.make(t, path)

			r := tr.stage(withKey(t, "id", "a"), "--log-file", path, "prestart", "--env-dir", tr.envDir).run(t)
			if r.status != exitDone || r.stdout != filepath.Join(tr.envDir, "a.env")+"\n" {
				t.Errorf("exit status %d, %q", r.status, r.stdout)
			}
			if !strings.HasPrefix(r.stderr, "terok-gate-hook: log file: ") || !strings.Contains(r.stderr, row.what) || strings.Count(r.stderr, "\n") != 1 {
				t.Errorf("standard error is %q", r.stderr)
			}
		})
	}
}

// This test is not parallel: its burst of messages may fill the system log's buffer, and then
// messages of other tests would be lost.
func TestManyWritersShareALogFile(t *testing.T) {
	const writers = 20
	tr := newTrial(t)
	path := filepath.Join(tr.dir, "trail")
	var running sync.WaitGroup
	for i := range writers {
		c := tr.stage(withKey(t, "id", fmt.Sprintf("c%d", i)), "--lock-timeout", "1m", "--log-file", path, "prestart", "--env-dir", tr.envDir)
		running.Go(func() {
			if out, err := c.command(t).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	running.Wait()

	info, err := os.Stat(path)
	must(t, err)
	if info.Mode() != 0o600 {
		t.Errorf("the log file's mode is %v", info.Mode())
	}

	content, err := os.ReadFile(path)
	must(t, err)
	if secret.Match(content) {
		t.Error("the log file holds a token")
	}

	seen := map[string]bool{}
	for line := range strings.Lines(string(content)) {
		var e trail.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if e.Event != "issued" || e.Project != "demo" || e.Task != "1" || len(e.Fingerprint) != 8 ||
			e.Time.Location() != time.UTC || time.Since(e.Time).Abs() > time.Hour {
			t.Errorf("an event is %+v", e)
		}
		seen[e.Container] = true
	}

	if len(seen) != writers {
		t.Errorf("the log file has %d containers", len(seen))
	}
}

// An error that quotes a name of an attacker's choice is one line in the log file too.
func TestTheLogFileHasErrors(t *testing.T) {
	t.Parallel()
	tr := newTrial(t)
	path := filepath.Join(tr.dir, "trail")
	s := state(t, func(_, annotations map[string]any) { annotations["terok.project"] = "a\n{\"event\":\"issued\"}\x1b" })
	r := tr.stage(s, "--log-file", path, "prestart").run(t)
	r.errorLine(t, "prestart: refused: ", `"a\n{\"event\":\"issued\"}\x1b"`)
	content, err := os.ReadFile(path)
	must(t, err)
	var e trail.Event
	if err := json.Unmarshal(content, &e); err != nil {
		t.Fatalf("not one line of JSON: %q", content)
	}
	const said = `prestart: refused: annotation terok.project: "a\n{\"event\":\"issued\"}\x1b" is refused: `
	if !strings.HasPrefix(e.Error, said) || e.Event != "refused" || len(e.Container) != 64 || e.Fingerprint != "" {
		t.Errorf("the event is %+v", e)
	}
}

// Not parallel: other tests' messages must not arrive meanwhile.
func TestAFullSystemLogDelaysNoCommand(t *testing.T) {
	withoutSystemLog(t)
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "/dev/log", Net: "unixgram"})
	must(t, err)
	defer listener.Close() // nothing reads from it
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(socket)
	for err == nil {
		err = unix.Sendto(socket, []byte("filling"), unix.MSG_DONTWAIT, &unix.SockaddrUnix{Name: "/dev/log"})
	}
	if err != unix.EAGAIN {
		t.Fatal(err)
	}
	tr := newTrial(t)
	r := tr.stage(withKey(t, "id", "a"), "prestart", "--env-dir", tr.envDir).run(t)
	if r.status != exitDone || r.stderr != "" {
		t.Errorf("exit status %d, %q", r.status, r.stderr)
	}
}

// The hook's errors go to the system log, but the hook must not need it.
func TestWithoutASystemLogTheHookWorks(t *testing.T) {
	withoutSystemLog(t)
	tr := newTrial(t)
	r := tr.stage(withKey(t, "id", "a"), "prestart", "--env-dir", tr.envDir).run(t)
	if r.status != exitDone || r.stderr != "" {
		t.Errorf("exit status %d, %q", r.status, r.stderr)
	}
}

// withoutSystemLog takes the tests' /dev/log away until the end of the test.
func withoutSystemLog(t *testing.T) {
	t.Helper()
	systemLog.Need(t)
	must(t, os.Rename("/dev/log", "/dev/log.away"))
	t.Cleanup(func() {
		os.Remove("/dev/log")
		must(t, os.Rename("/dev/log.away", "/dev/log"))
	})
}

// BenchmarkPrestartByHand measures a hook from its start to its end, and how many
// times longer that takes than a process that does nothing.
func BenchmarkPrestartByHand(b *testing.B) {
	hook, err := testenv.Build("terok-gate-hook")
	if err != nil {
		b.Fatal(err)
	}

	dir := b.TempDir()
	state, err := os.ReadFile("../../testdata/crun/prestart.json")
	if err != nil {
		b.Fatal(err)
	}

	run := func(stdin string, name string, args ...string) time.Duration {
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader(stdin)
		start := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		return time.Since(start)
	}

	var ours, nothings time.Duration
	for b.Loop() {
		ours += run(string(state), hook, "--token-file", filepath.Join(dir, "tokens.json"), "prestart", "--env-dir", dir)
		nothings += run(string(state), "true")
	}

	b.ReportMetric(float64(ours.Nanoseconds())/float64(b.N), "ns/hook")
	b.ReportMetric(float64(ours)/float64(nothings), "x-of-true")
}

// A hook ends by itself, with an error of its own, before the runtime kills it.
func TestAStageThatCannotEndGivesUp(t *testing.T) {
	t.Parallel()
	systemLog.Need(t)
	dir := t.TempDir()
	cmd := call{args: []string{
		"--token-file", filepath.Join(dir, "tokens.json"), "--log-file", filepath.Join(dir, "trail"), "--lock-timeout", "1ms", "prestart",
	}}.command(t)

	stdin, writer, err := os.Pipe() // a state that never ends
	must(t, err)
	defer writer.Close()
	defer stdin.Close()
	cmd.Stdin = stdin

	r := runProgram(t, cmd)
	if r.status != exitFailed {
		t.Errorf("exit status %d", r.status)
	}
	const why = "prestart: did not finish within 10.001s"
	r.errorLine(t, "prestart: ", why)

	file, err := os.Open(filepath.Join(dir, "trail"))
	must(t, err)
	defer file.Close()
	if events, err := trail.Recent(file); err != nil || len(events) != 1 || events[0].Event != trail.Failed || events[0].Error != why {
		t.Errorf("the audit trail has %+v, %v", events, err)
	}
}
