// What the commands that a container runtime calls have in common: how they were
// registered, and what they tell the log, since nobody may see their standard error.

package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
)

// stageFunc is a stage of the hook.
type stageFunc func(hook.Settings, io.Reader) (hook.Outcome, error)

// withTokens is run for a stage that changes the token file.
func withTokens(run stageFunc) stageFunc {
	return func(s hook.Settings, stdin io.Reader) (out hook.Outcome, err error) {
		if s.Tokens, err = orDefault(s.Tokens); err != nil {
			return out, err
		}
		return run(s, stdin)
	}
}

// stageCommand makes the command run a stage, and tell the log of its end, whatever
// that is.
func stageCommand(command *cli.Command, run stageFunc) *cli.Command {
	command.Category = forRuntimes
	command.Flags = stageFlags(command.Name)
	ending(command, endUnstarted)
	command.Action = func(c *cli.Context) error {
		s, err := settingsOf(c)
		if err != nil {
			return endUnstarted(c, err)
		}
		defer giveUp(c, s.Deadline()).Stop()
		out, err := run(s, os.Stdin)
		return endStage(c, out, err)
	}
	return command
}

// endUnstarted is endStage for a stage that did not begin.
func endUnstarted(c *cli.Context, err error) error {
	if err == nil {
		return nil
	}
	return endStage(c, hook.Outcome{}, err)
}

// endStage records how a stage ended.
func endStage(c *cli.Context, out hook.Outcome, err error) error {
	for _, e := range out.Revoked {
		if e.Container != out.Container {
			record(c, trail.Of(trail.Swept, e))
		} else {
			record(c, trail.Of(trail.Revoked, e))
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
		return nil
	}
	if err != nil {
		if isStage(c.Command.Name) {
			err = named(c, err)
		}
		event.Error = printable.Line(err.Error())
	}
	record(c, event)
	if misuse := (misuseError{}); errors.As(err, &misuse) {
		drainStdin()
	}
	if err == nil && out.EnvFile != "" {
		// The token is issued: a path that cannot be printed does not undo it.
		fmt.Println(out.EnvFile)
	}
	return err
}

// giveUp ends the process with an error of its own, before the runtime kills it
// without one. At worst it is like being killed.
func giveUp(c *cli.Context, limit time.Duration) *time.Timer {
	return time.AfterFunc(limit, func() {
		printError(endUnstarted(c, fmt.Errorf("not done within %v", limit)))
		os.Exit(exitFailed)
	})
}

// drainStdin reads the state that nobody asked for: crun 1.8.1 dies of SIGPIPE if a
// hook ends before, and says that instead of our error.
func drainStdin() {
	if info, err := os.Stdin.Stat(); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
		_, _ = io.CopyN(io.Discard, os.Stdin, 1<<20)
	}
}

func isStage(name string) bool { return slices.Contains(hook.Stages, name) }

// calledForAStage tells whether a command line that makes no sense before its command
// asks for a stage.
func calledForAStage(args []string) bool { return slices.ContainsFunc(args, isStage) }
