// What the commands that a container runtime calls have in common: how they end, and how
// that is recorded, since their standard error may be lost.

package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
)

// stageFunc runs a stage.
type stageFunc func(hook.Settings, io.Reader) (hook.Outcome, error)

// stageCalled reads a command line that calls a stage, as a definition does. A container
// waits for it, and to have urfave/cli read it takes a twentieth of a start (bench/). A
// line that is to be explained, for help or for a mistake, it leaves to urfave/cli, as it
// does one that a shell wants completed, where a flag's value may be yet to come.
func stageCalled(args []string) (p program, ok bool) {
	if len(args) > 0 && args[len(args)-1] == "--generate-bash-completion" {
		return p, false
	}
	var err error
	p.given, p.called.command, err = hook.ParseArgs(append(fromEnvironment(), args...))
	p.called.logFile = p.given.LogFile
	return p, err == nil
}

// stageCommand makes the command run a stage.
func (p *program) stageCommand(command *cli.Command, run stageFunc) *cli.Command {
	command.Category = forRuntimes
	command.Flags = stageFlags(&p.given, command.Name)
	command.Action = func(*cli.Context) error {
		s, err := checkedSettings(p.given)
		if err != nil {
			return err
		}
		late := p.endAfter(s.Deadline())
		p.stage, err = run(s, os.Stdin)
		if !late.Stop() {
			select {} // it has ended by now
		}
		if err == nil && p.stage.EnvFile != "" {
			// The token is issued, and stays so even if its path cannot be printed.
			fmt.Println(p.stage.EnvFile)
		}
		return err
	}
	return command
}

// withTokens prepares a stage that changes the token file.
func withTokens(run stageFunc) stageFunc {
	return func(s hook.Settings, stdin io.Reader) (out hook.Outcome, err error) {
		if s.Tokens, err = orDefault(s.Tokens); err != nil {
			return out, err
		}
		return run(s, stdin)
	}
}

// endAfter ends the process when a stage takes longer than the limit, with an error of
// its own, before the runtime kills it without one. For the stage that is no different
// from being killed. The stage needs no goroutine of its own for it, nor a second thread.
func (p *program) endAfter(limit time.Duration) *time.Timer {
	return time.AfterFunc(limit, func() {
		os.Exit(p.end(hook.Outcome{}, fmt.Errorf("not done within %v", limit)))
	})
}

// recordStage writes to the audit trail how a stage ended, whatever ended it.
func recordStage(called invocation, out hook.Outcome, err error) {
	for _, e := range out.Revoked {
		if e.Container != out.Container {
			record(called.logFile, trail.Of(trail.Swept, e))
		} else {
			record(called.logFile, trail.Of(trail.Revoked, e))
		}
	}
	event := trail.Event{Container: out.Container, Project: out.Grant.Project, Task: out.Grant.Task}
	switch {
	case errors.Is(err, hook.ErrRefused):
		event.Event = trail.Refused
	case err != nil:
		event.Event = trail.Failed
	case out.Token != "":
		event.Event, event.Fingerprint = trail.Issued, out.Token.Fingerprint()
	default:
		return
	}
	if err != nil {
		// The log gets what nobody else may read: see hook.Error.
		event.Error = printable.Line(called.command + ": " + hook.Detail(err) + wayOut(err))
	}
	record(called.logFile, event)
	if misuse.Is(err) {
		drainStdin()
	}
}

// drainStdin reads a state that was not read: crun 1.8.1 dies of SIGPIPE when a hook ends
// before that, and reports the signal instead of our error.
func drainStdin() {
	if info, err := os.Stdin.Stat(); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
		_, _ = io.CopyN(io.Discard, os.Stdin, 1<<20)
	}
}
