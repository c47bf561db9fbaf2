// What the commands that a container runtime calls have in common: how they were
// registered, and what they tell the log, since nobody may see their standard error.

package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
)

// stageCommand makes the command run a stage, and tell the log of its end, whatever
// that is.
func stageCommand(command *cli.Command, run func(*cli.Context, hook.Hook, io.Reader) (hook.Outcome, error)) *cli.Command {
	command.Category = forRuntimes
	ending(command, endUnstarted)
	command.Action = func(c *cli.Context) error {
		defer giveUp(c).Stop()
		h, err := hookOf(c)
		if err != nil {
			return endUnstarted(c, err)
		}
		out, err := run(c, h, os.Stdin)
		return endStage(c, out, err)
	}
	return command
}

// stageWithTokens is stageCommand for a stage that changes the token file.
func stageWithTokens(command *cli.Command, run func(hook.Hook, io.Reader) (hook.Outcome, error)) *cli.Command {
	return stageCommand(command, func(c *cli.Context, h hook.Hook, stdin io.Reader) (out hook.Outcome, err error) {
		if h.Tokens, err = tokenFile(c); err != nil {
			return out, err
		}
		return run(h, stdin)
	})
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
// without one: for what has no limit otherwise, a standard input that never ends or a
// file system that hangs. At worst it is like being killed.
func giveUp(c *cli.Context) *time.Timer {
	limit := c.Duration("lock-timeout") + 10*time.Second
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

func isStage(name string) bool {
	return slices.Contains([]string{"prestart", "createRuntime", "poststop", "precreate"}, name)
}

// calledForAStage tells whether a command line that makes no sense before its command
// asks for a stage.
func calledForAStage(args []string) bool { return slices.ContainsFunc(args, isStage) }

// precreateFlags are those of prestart that say what the container will find.
func precreateFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "project-annotation", Value: hook.ProjectAnnotation, Usage: "`name` of the annotation that holds the project"},
		&cli.StringFlag{Name: "task-annotation", Value: hook.TaskAnnotation, Usage: "`name` of the annotation that holds the task"},
		&cli.StringSliceFlag{Name: "allow-project", Usage: "refuse projects that match no such shell `pattern`; repeatable"},
		&cli.StringFlag{Name: "mount-path", Value: hook.MountPath, Usage: "the `folder` in the container that holds gate.env"},
		&cli.StringFlag{Name: "gate-url", Usage: "the gate's `URL` as the container reaches it"},
	}
}

// mountFlags are those of prestart when it injects into the container.
func mountFlags() []cli.Flag {
	return append(precreateFlags(),
		&cli.StringFlag{Name: "env-mode", Value: fmt.Sprintf("%04o", hook.EnvMode), Usage: "`mode` of gate.env: 0400, 0440 or 0444"},
	)
}

// hookOf reads how the hook was registered from its flags. A flag that the stage
// does not have reads as empty, and means the default.
func hookOf(c *cli.Context) (hook.Hook, error) {
	h := hook.Hook{
		ProjectAnnotation: c.String("project-annotation"),
		TaskAnnotation:    c.String("task-annotation"),
		AllowProjects:     c.StringSlice("allow-project"),
		MountPath:         c.String("mount-path"),
		GateURL:           c.String("gate-url"),
	}
	if mode := c.String("env-mode"); mode != "" {
		var err error
		if h.EnvMode, err = hook.ParseEnvMode(mode); err != nil {
			return h, misusef("--env-mode %w", err)
		}
	}
	if dir := c.String("env-dir"); dir != "" {
		var err error
		if h.EnvDir, err = filepath.Abs(dir); err != nil {
			return h, fmt.Errorf("--env-dir %s: %w", dir, err)
		}
	}
	if err := h.Check(); err != nil {
		return h, misusef("%w", err)
	}
	return h, nil
}
