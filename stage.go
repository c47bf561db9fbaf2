// The commands that a container runtime calls, with what they tell the log.

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
	"terok-gate-hook/store"
)

// stageFunc is a stage of the hook: what it reads, does and returns is its own.
type stageFunc func(hook.Hook, io.Reader) (hook.Outcome, error)

func prestart(c *cli.Context) error { return stage(c, withTokens(c, hook.Hook.Prestart)) }

func poststop(c *cli.Context) error { return stage(c, withTokens(c, hook.Hook.Poststop)) }

// precreate has nothing to do with the token file.
func precreate(c *cli.Context) error {
	return stage(c, func(h hook.Hook, stdin io.Reader) (hook.Outcome, error) {
		config, out, err := h.Precreate(stdin)
		if err == nil {
			_, err = os.Stdout.Write(config)
		}
		return out, err
	})
}

func withTokens(c *cli.Context, run stageFunc) stageFunc {
	return func(h hook.Hook, stdin io.Reader) (out hook.Outcome, err error) {
		if h.Tokens, err = tokenFile(c); err != nil {
			return out, err
		}
		return run(h, stdin)
	}
}

// stage runs a stage and logs its outcome: nobody may see standard error.
func stage(c *cli.Context, run stageFunc) error {
	log := openLog(c.String("log-file"))
	defer giveUpAfter(c.Duration("lock-timeout")+10*time.Second, c.Command.Name).Stop()
	out, err := runStage(c, run)
	for _, e := range out.Revoked {
		name := "revoked"
		if e.Container != out.Container {
			name = "swept"
		}
		log.revoked(name, []store.Entry{e})
	}
	var misuse misuseError
	if errors.As(err, &misuse) {
		return fmt.Errorf("%s: %w", c.Command.Name, err) // run logs it, like all misuse of a stage
	}
	event := event{Container: out.Container, Project: out.Grant.Project, Task: out.Grant.Task}
	switch {
	case errors.Is(err, hook.ErrRefused):
		event.Event = "refused"
	case err != nil:
		event.Event = "failed"
	case out.Token != "":
		event.Event, event.Fingerprint = "issued", out.Token.Fingerprint()
	default:
		return nil
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", c.Command.Name, err)
		event.Error = oneLine(err.Error())
	}
	log.event(event)
	if err == nil && out.EnvFile != "" {
		// The token is issued: a path that cannot be printed does not undo it.
		fmt.Println(out.EnvFile)
	}
	return err
}

// giveUpAfter ends the process with an error of its own, before the runtime kills it
// without one: for what has no limit otherwise, a standard input that never ends or a
// file system that hangs. At worst it is like being killed.
func giveUpAfter(limit time.Duration, command string) *time.Timer {
	return time.AfterFunc(limit, func() {
		err := fmt.Errorf("%s: not done within %v", command, limit)
		toSystemLog(event{Event: "failed", Error: err.Error()})
		printError(err)
		os.Exit(exitFailed)
	})
}

func isStage(arg string) bool {
	return arg == "prestart" || arg == "createRuntime" || arg == "poststop" || arg == "precreate"
}

func runStage(c *cli.Context, run stageFunc) (hook.Outcome, error) {
	h, err := hookOf(c)
	if err != nil {
		return hook.Outcome{}, err
	}
	return run(h, os.Stdin)
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
