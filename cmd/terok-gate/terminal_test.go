package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A token that is typed or pasted at a prompt must not stay on the screen.
func TestATokenIsAskedForAndNotShown(t *testing.T) {
	systemLog.Need(t) // if there is none, the tests have no /dev of their own, either
	const token = "terok-g-0123456789abcdef0123456789abcdef"
	for _, row := range []struct {
		name, command, typed string
		stdout, stderr       string
	}{
		{"verify", "verify", token + "\n", "project \"other\", task \"1\"\n", "\n"},
		{"revoke", "revoke", token + "\n", "revoked 1\n", "\n"},
		{"nothing", "verify", "\n", "", "\nterok-gate: verify: read a token from standard input: there is none\n"},
		{"the end of input", "verify", "\x04", "", "\nterok-gate: verify: read a token from standard input: there is none\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := ask(t, newTrial(t).stage("", row.command).command(t))
			_, err := a.control.WriteString(row.typed)
			must(t, err)
			a.wait(t)
			if a.stdout.String() != row.stdout || a.stderr != row.stderr {
				t.Errorf("the command says %q and %q", a.stdout.String(), a.stderr)
			}
			a.showedNothing(t)
		})
	}

	// If this process ignored SIGINT, the command would, too. So this process catches SIGINT.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, unix.SIGINT)
	defer signal.Stop(caught)
	for _, by := range []syscall.Signal{unix.SIGINT, unix.SIGTERM} {
		t.Run(by.String(), func(t *testing.T) {
			a := ask(t, newTrial(t).stage("", "verify").command(t))
			must(t, a.cmd.Process.Signal(by))
			a.wait(t)
			if status := a.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != by {
				t.Errorf("the command ended with %v", a.cmd.ProcessState)
			}
			a.showedNothing(t)
		})
	}
}

// A shell makes its background jobs ignore SIGINT.
func TestAQuestionOutlivesASignalThatIsIgnored(t *testing.T) {
	systemLog.Need(t)
	signal.Ignore(unix.SIGINT)
	t.Cleanup(func() { signal.Reset(unix.SIGINT) })
	a := ask(t, newTrial(t).stage("", "verify").command(t))
	must(t, a.cmd.Process.Signal(unix.SIGINT))
	_, err := a.control.WriteString("\n")
	must(t, err)
	a.wait(t)
	if want := "\nterok-gate: verify: read a token from standard input: there is none\n"; a.stderr != want {
		t.Errorf("the command says %q", a.stderr)
	}
	a.showedNothing(t)
}

// asked is a command that waits for an answer on a terminal.
type asked struct {
	cmd               *exec.Cmd
	terminal, control *os.File
	said              io.Reader
	stdout            strings.Builder
	stderr            string // after the question
}

func ask(t *testing.T, cmd *exec.Cmd) *asked {
	t.Helper()
	a := &asked{cmd: cmd}
	a.terminal, a.control = openTerminal(t)
	cmd.Stdin, cmd.Stdout = a.terminal, &a.stdout
	var err error
	a.said, err = cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	const question = "Token: "
	said := make([]byte, len(question))
	if _, err := io.ReadFull(a.said, said); err != nil || string(said) != question {
		t.Fatalf("the command asks %q, %v", said, err)
	}
	return a
}

func (a *asked) wait(t *testing.T) {
	t.Helper()
	rest, err := io.ReadAll(a.said)
	must(t, err)
	a.stderr = string(rest)
	_ = a.cmd.Wait()
}

// showedNothing checks that the terminal has shown nothing so far, and that it shows what is typed
// from now on.
func (a *asked) showedNothing(t *testing.T) {
	t.Helper()
	settings, err := unix.IoctlGetTermios(int(a.terminal.Fd()), unix.TCGETS)
	must(t, err)
	if settings.Lflag&unix.ECHO == 0 {
		t.Error("after the command, the terminal still does not show what is typed")
	}
	_, err = a.control.WriteString("end\n")
	must(t, err)
	shown := make([]byte, len("end\r\n"))
	_, err = io.ReadFull(a.control, shown)
	must(t, err)
	if string(shown) != "end\r\n" {
		t.Errorf("the terminal showed %q", shown)
	}
}

// openTerminal returns a terminal and the end that a person sits at. (A pseudo-terminal
// whose session ends may drop what was written. So this one belongs to no session: this
// process holds both ends.)
func openTerminal(t *testing.T) (terminal, control *os.File) {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { control.Close() })
	must(t, unix.IoctlSetPointerInt(int(control.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(control.Fd()), unix.TIOCGPTN)
	must(t, err)
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { terminal.Close() })
	return terminal, control
}
