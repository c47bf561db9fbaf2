// The command line of a stage: its arguments, its output and its exit status.
//
// Results go to standard output, everything else to standard error. An error is one line,
// "terok-gate-hook: <stage>: <what>: <why>". The error goes to the audit trail as well, since
// a hook's standard error may be lost. The exit status is 0 for done, 1 for failed and 2 for
// a usage error.

package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/internal/version"
	"terok-gate-hook/store"
)

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is an error in the command line itself.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// call is one call of a stage.
type call struct {
	stage    string
	settings hook.Settings
	out      hook.Outcome // what the stage has done so far
}

// run runs the stage that the arguments name, and returns the exit status.
func run(args []string) (status int) {
	// A write to a closed standard output must return an error. SIGPIPE would end the process
	// after the token file has changed, and before the audit trail says so.
	signal.Ignore(syscall.SIGPIPE)

	switch {
	case len(args) == 0 || slices.Contains([]string{"help", "--help", "-help", "-h"}, args[0]):
		fmt.Print(help())
		return exitDone
	case slices.Contains([]string{"version", "--version", "-version", "-v"}, args[0]):
		fmt.Println("terok-gate-hook version " + version.String())
		return exitDone
	}

	c, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(help())
		return exitDone
	}
	if err != nil {
		c.end(usageError{err})
		drainStdin()
		return exitUsage
	}

	if err := c.do(); err != nil {
		c.end(err)
		return exitFailed
	}
	c.end(nil)
	return exitDone
}

// parse reads the command line and the environment. If it fails, the call has the settings
// that were understood: they say to which log file the error goes.
func parse(args []string) (c call, err error) {
	envErr := c.settings.ReadEnvironment()
	c.stage, err = c.settings.ReadArgs(args)
	if err = cmp.Or(envErr, err); err != nil {
		return c, fmt.Errorf("%w: see terok-gate-hook help", err)
	}

	if dir := c.settings.EnvDir; dir != "" {
		if c.settings.EnvDir, err = filepath.Abs(dir); err != nil {
			return c, err
		}
	}

	if err := c.settings.Check(); err != nil {
		return c, fmt.Errorf("--%w", err)
	}
	return c, nil
}

// do runs the stage.
func (c *call) do() (err error) {
	late := c.endAfter(c.settings.Deadline())
	defer func() {
		if !late.Stop() {
			select {} // endAfter is ending the process
		}
	}()

	if c.stage == "precreate" {
		var config []byte
		if config, c.out, err = c.settings.Precreate(os.Stdin); err != nil {
			return err
		}
		_, err = os.Stdout.Write(config)
		return err
	}

	if c.settings.Tokens.Path == "" {
		if c.settings.Tokens.Path, err = store.TokenFilePath(); err != nil {
			return err
		}
	}

	if c.stage == "poststop" {
		c.out, err = c.settings.Poststop(os.Stdin)
		return err
	}

	start := c.settings.Prestart
	if c.stage == "createRuntime" {
		start = c.settings.CreateRuntime
	}
	c.out, err = start(os.Stdin)
	if err == nil && c.out.EnvFile != "" {
		// The token stays valid even if the path cannot be printed.
		fmt.Println(c.out.EnvFile)
	}
	return err
}

// endAfter ends the process with an error if the stage takes longer than limit. A little later,
// the runtime would kill the process, without an error. Until the limit, the timer needs neither a
// goroutine nor a second thread.
func (c *call) endAfter(limit time.Duration) *time.Timer {
	return time.AfterFunc(limit, func() {
		late := call{stage: c.stage, settings: c.settings}
		late.end(fmt.Errorf("did not finish within %v", limit))
		os.Exit(exitFailed)
	})
}

// end prints the error, if there is one, and records how the call ended.
func (c *call) end(err error) {
	c.record(err)
	if err == nil {
		return
	}
	if c.stage != "" {
		err = fmt.Errorf("%s: %w%s", c.stage, err, hook.WayOut(err))
	}
	if !errors.As(err, new(usageError)) {
		err = fmt.Errorf("%w (to learn why: terok-gate why)", err)
	}
	printError(err)
}

// record writes to the audit trail how the call ended.
func (c *call) record(err error) {
	for _, e := range c.out.Revoked {
		if e.Container != c.out.Container {
			c.write(trail.Of(trail.Swept, e))
		} else {
			c.write(trail.Of(trail.Revoked, e))
		}
	}

	event := trail.Event{Container: c.out.Container, Project: c.out.Grant.Project, Task: c.out.Grant.Task}
	if c.out.Lacks != nil {
		lacking := event
		lacking.Event, lacking.Error = trail.Lacking, printable.Line(c.stage+": "+c.out.Lacks.Error())
		c.write(lacking)
	}

	switch {
	case errors.Is(err, hook.ErrRefused):
		event.Event = trail.Refused
	case err != nil:
		event.Event = trail.Failed
	case c.out.Token != "":
		event.Event, event.Fingerprint = trail.Issued, c.out.Token.Fingerprint()
	default:
		return
	}

	if err != nil {
		// The log may have details that must not be printed: see hook.Error.
		event.Error = printable.Line(c.stage + ": " + hook.Detail(err) + hook.WayOut(err))
	}
	c.write(event)
}

// write adds an event to the audit trail. If it fails, it prints the error, and the stage's
// result stands: the event has already happened.
func (c *call) write(e trail.Event) {
	if err := trail.Write(cmp.Or(c.settings.LogFile, trail.DefaultFile()), e); err != nil {
		printError(err)
	}
}

// printError prints an error as one line.
func printError(err error) {
	fmt.Fprintln(os.Stderr, "terok-gate-hook: "+printable.Line(err.Error()))
}

// drainStdin reads the state that a stage leaves unread after a usage error. If a hook ends without
// reading its state, crun 1.8.1 dies of SIGPIPE, and reports the signal instead of our error.
func drainStdin() {
	if info, err := os.Stdin.Stat(); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
		_, _ = io.CopyN(io.Discard, os.Stdin, 1<<20)
	}
}

// help returns the usage text, with the flags in hook.Flags.
func help() string {
	var text strings.Builder
	text.WriteString(`People use terok-gate: "terok-gate install" has podman call this program, and
"terok-gate why" says why a container was refused.

terok-gate-hook is what container runtimes call at the stages of a container's life:

  terok-gate-hook [FLAG]... prestart [FLAG]... < state.json      issues the container's token
  terok-gate-hook [FLAG]... poststop [FLAG]... < state.json      revokes it
  terok-gate-hook [FLAG]... precreate [FLAG]... < config.json    adds environment variables to the configuration

createRuntime does what prestart does, for a container that asks for a device. It refuses a
container that already has a token.
`)

	section := func(title string, wanted func(hook.Flag) bool) {
		fmt.Fprintf(&text, "\nFlags %s:\n", title)
		for _, f := range hook.Flags {
			if wanted(f) {
				name, usage := f.Help()
				fmt.Fprintf(&text, "  --%-28s %s\n", name, usage)
			}
		}
	}

	section("before the stage, each with an environment variable in its place (TEROK_GATE_TOKEN_FILE and so on)", hook.Flag.Common)
	for _, stage := range hook.Stages {
		if stage == "createRuntime" {
			section("of createRuntime, beside those of prestart", func(f hook.Flag) bool { return f.Of(stage) && !f.Of("prestart") })
			continue
		}
		section("of "+stage, func(f hook.Flag) bool { return f.Of(stage) })
	}
	return text.String()
}
