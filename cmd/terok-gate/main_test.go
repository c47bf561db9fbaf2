package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"terok-gate-hook/gate"
	"terok-gate-hook/hook"
	owners "terok-gate-hook/internal/owner"
	"terok-gate-hook/internal/testenv"
)

// repository is the directory of the sources, where the tests find samples and the manual.
var repository = func() string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "../..")
}()

// commands are what scripts and tests run by name: this test binary again.
var commands = map[string]func(){
	"terok-gate":        main,
	"wait-as-container": waitAsContainer,
	"podman":            podmanStandIn,
}

// TestMain runs the tests in a mount namespace of their own, in which the system
// log is theirs and their mounts are seen by no other process. Without root, that
// needs a user namespace.
func TestMain(m *testing.M) {
	if status, isHook := gate.RunHook(os.Args[0]); isHook {
		testenv.ExitPromptly(status)
	}
	if _, isCommand := commands[filepath.Base(os.Args[0])]; isCommand {
		testscript.Main(m, commands)
	}
	var namespaces uintptr = unix.CLONE_NEWNS
	if os.Geteuid() != 0 {
		namespaces |= unix.CLONE_NEWUSER
	}
	testenv.Main(namespaces, func() (status int, err error) {
		testscript.Main(furnished{m}, commands) // which exits
		return 0, nil
	})
}

// furnished runs m, after it has made the namespace ready.
type furnished struct{ m *testing.M }

func (f furnished) Run() int {
	bin, err := exec.LookPath("terok-gate")
	if err == nil {
		bin = filepath.Dir(bin)
		err = os.Chmod(filepath.Dir(bin), 0o755) // another user runs the commands too
	}
	if err == nil {
		err = buildHook(bin)
	}
	if err == nil && testenv.Alone {
		err = systemLog.Listen()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare the tests:", err)
		return 1
	}

	status := f.m.Run()
	if leaks := systemLog.Matching(secret.MatchString); len(leaks) > 0 {
		fmt.Fprintf(os.Stderr, "the system log holds a token: %q\n", leaks)
		return 1
	}
	return status
}

// buildHook puts terok-gate-hook beside terok-gate, as a package does.
func buildHook(bin string) error {
	built, err := testenv.Build("terok-gate-hook")
	if err != nil {
		return err
	}
	return os.Link(built, filepath.Join(bin, "terok-gate-hook"))
}

// secret is a token in full, which no log and no error may hold.
var secret = regexp.MustCompile(`terok-g-[0-9a-f]{32}`)

var systemLog testenv.Log

// result is how a command ended.
type result struct {
	status         int
	stdout, stderr string
	pid            int
}

// call is a command line with what it runs in.
type call struct {
	args   []string
	stdin  string
	env    []string // added to an environment that holds nothing of ours
	nobody bool     // run by another user, if root runs the tests
}

func (c call) run(t *testing.T) result {
	t.Helper()
	return runProgram(t, c.command(t))
}

func runProgram(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	r := result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String(), cmd.Process.Pid}
	if secret.MatchString(r.stderr) {
		t.Errorf("standard error holds a token: %s", r.stderr)
	}
	return r
}

func (c call) command(t *testing.T) *exec.Cmd {
	t.Helper()
	name := "terok-gate"
	if slices.ContainsFunc(c.args, isStage) {
		name = "terok-gate-hook"
	}
	program, err := exec.LookPath(name)
	must(t, err)
	cmd := exec.Command(program, c.args...)
	cmd.Stdin = strings.NewReader(c.stdin)
	cmd.Dir = "/"
	cmd.Env = append([]string{"GORACE=" + os.Getenv("GORACE"), "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}, c.env...)
	if c.nobody && os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owners.OverflowID, Gid: owners.OverflowID}}
	}
	return cmd
}

func isStage(word string) bool { return slices.Contains(hook.Stages, word) }

// errorLine checks that a failed command said one line of the form
// "<program>: <command>: <what>: <why>". A stage prints only what everybody may read.
// Its whole error is in the system log.
func (r result) errorLine(t *testing.T, command, what string) {
	t.Helper()
	line, rest, _ := strings.Cut(r.stderr, "\n")
	if rest != "" || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 }) {
		t.Errorf("standard error is not one line without control characters: %q", r.stderr)
	}

	name, _, _ := strings.Cut(command, ":")
	stage := isStage(name)
	program := "terok-gate: "
	if stage {
		program = "terok-gate-hook: "
	}

	if !strings.HasPrefix(line, program+command) || !stage && !strings.Contains(line, what) {
		t.Errorf("the error is not \"%s%s... %s\" but %q", program, command, what, line)
	}
	if r.stdout != "" {
		t.Errorf("a failing command prints %q", r.stdout)
	}
	if !stage {
		return
	}

	systemLog.Need(t)
	message := regexp.MustCompile(fmt.Sprintf(`^<27>... .. ..:..:.. terok-gate-hook\[%d\]: (?:failed|refused) .*error=(".*)$`, r.pid))
	logged, ok := systemLog.Wait(message.MatchString)
	if !ok {
		t.Fatalf("the system log has nothing of process %d", r.pid)
	}
	said, err := strconv.Unquote(message.FindStringSubmatch(logged)[1])
	if err != nil || !strings.HasPrefix(said, command) || !strings.Contains(said, what) {
		t.Errorf("the system log has not \"%s... %s\" but %q, %v", command, what, logged, err)
	}
}
