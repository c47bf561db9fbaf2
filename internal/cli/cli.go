// Package cli is the command line of terok-gate-hook: a file a command, with its
// flags beside what it does. The work is done in the packages below.
//
// Results go to standard output, all else to standard error. An error is one line,
// "terok-gate-hook: <command>: <what>: <why>".
package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/internal/printable"
	"terok-gate-hook/store"
)

// Exit statuses.
const (
	exitDone    = 0
	exitFailed  = 1
	exitMisused = 2
)

// Categories of commands.
const (
	forRuntimes       = "For container runtimes"
	forPeople         = "For people"
	forAdministrators = "For administrators"
)

const description = `As a container runtime calls it:

   terok-gate-hook --token-file F prestart < state.json
   terok-gate-hook --token-file F poststop < state.json

As a person does:

   terok-gate-hook create --project demo --task 1
   terok-gate-hook list
   terok-gate-hook revoke --project demo --task 1
   terok-gate-hook verify < token`

// Run runs the command that the arguments name, the program's name first, and returns
// the exit status: 0 for done, 1 for failed, 2 for misused. templates holds hooks.d
// and systemd as the repository does.
func Run(args []string, templates fs.FS) (status int) {
	// A closed standard output is an error to report, not a reason to die between
	// a commit and its report.
	signal.Ignore(syscall.SIGPIPE)
	err := app(args, templates).Run(args)
	if err == nil {
		return exitDone
	}
	printError(err)
	if misuse := (misuseError{}); errors.As(err, &misuse) {
		return exitMisused
	}
	return exitFailed
}

func app(args []string, templates fs.FS) *cli.App {
	return &cli.App{
		Name:            "terok-gate-hook",
		Usage:           "an OCI hook that gives a container a git-gate token for as long as it lives",
		Description:     description,
		Version:         version(),
		HideHelpCommand: true,
		// For the scripts in completions: --generate-bash-completion at the end prints
		// what could stand there.
		EnableBashCompletion: true,
		// A comma may stand in a pattern.
		DisableSliceFlagSeparator: true,
		Flags:                     commonFlags(),
		Commands: []*cli.Command{
			prestartCommand(),
			poststopCommand(),
			precreateCommand(),
			ending(aboutInstalled(createCommand()), named),
			ending(aboutInstalled(revokeCommand()), named),
			ending(aboutInstalled(listCommand()), named),
			ending(aboutInstalled(verifyCommand()), named),
			ending(aboutInstalled(reapCommand()), named),
			ending(aboutInstalled(pathCommand()), named),
			ending(installCommand(templates), named),
			ending(uninstallCommand(), named),
			ending(doctorCommand(), named),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return misusef("unknown command %s: see terok-gate-hook --help", quote(c.Args().First()))
			}
			return cli.ShowAppHelp(c)
		},
		OnUsageError: func(c *cli.Context, err error, _ bool) error {
			err = misuseError{err}
			if calledForAStage(args[1:]) {
				return endUnstarted(c, err)
			}
			return err
		},
		ExitErrHandler: func(*cli.Context, error) {}, // the status is ours to choose
	}
}

// ending has whatever ends the command with an error go through end: its action, and
// misuse of its flags and arguments.
func ending(command *cli.Command, end func(*cli.Context, error) error) *cli.Command {
	command.HideHelpCommand = true
	action := command.Action
	command.Action = func(c *cli.Context) error { return end(c, action(c)) }
	command.Before = func(c *cli.Context) error { return end(c, noArguments(c)) }
	command.OnUsageError = func(c *cli.Context, err error, _ bool) error {
		return end(c, misusef("%w: see terok-gate-hook %s --help; flags that all commands share stand before the command", err, c.Command.Name))
	}
	return command
}

// named puts the command's name before the error, if there is one.
func named(c *cli.Context, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", c.Command.Name, err)
}

// printError prints an error as one line.
func printError(err error) {
	fmt.Fprintln(os.Stderr, "terok-gate-hook: "+printable.Line(err.Error()))
}

// misuseError is an error of whoever typed the command line.
type misuseError struct{ error }

func (e misuseError) Unwrap() error { return e.error }

func misusef(format string, a ...any) error { return misuseError{fmt.Errorf(format, a...)} }

// quote quotes a stray argument, unless it is a token.
func quote(arg string) string {
	if strings.HasPrefix(arg, "terok-g-") {
		return "token " + store.Token(arg).Fingerprint() + ", which belongs on standard input"
	}
	return fmt.Sprintf("%q", arg)
}

func noArguments(c *cli.Context) error {
	if c.Args().Present() {
		return misusef("takes no argument %s: flags that all commands share stand before the command", quote(c.Args().First()))
	}
	if timeout := c.Duration("lock-timeout"); timeout <= 0 && c.IsSet("lock-timeout") {
		return misusef("--lock-timeout %v: must be more than nothing", timeout)
	}
	return nil
}
