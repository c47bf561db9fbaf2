// terok-gate registers the hooks with the container engine, serves git repositories to
// containers, and shows and revokes the tokens that terok-gate-hook issues.
//
// Each command has a file with its flags and its action. Other packages do the work. Results
// go to standard output, everything else to standard error. An error is one line,
// "terok-gate: <command>: <what>: <why>". The exit status is 0 for success, 1 for failure and
// 2 for a usage error. "terok-gate who" exits with 3 if the trail (the log file) does
// not show what brought the commit in.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/gate"
	"terok-gate-hook/hook"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/internal/version"
)

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2

	exitNotBrought = 3
)

// Categories of commands. Help sorts them by name.
const (
	gettingStarted = "Getting started"
	repositories   = "Repositories"
	tokens         = "Tokens"
)

const description = `From nothing to the first clone in a container without a network:

   terok-gate install --allow-project 'demo*'
   terok-gate add demo ~/src/demo
   podman run --rm --network none --annotation terok.project=demo --annotation terok.task=1 IMAGE git clone http://127.0.0.1:9418/demo.git`

func main() {
	if status, isHook := gate.RunHook(os.Args[0]); isHook {
		os.Exit(status)
	}
	trail.Program = "terok-gate"
	os.Exit(runCommand(os.Args))
}

// runCommand runs a command line, which begins with the program's name, and returns the exit
// status.
func runCommand(args []string) (status int) {
	// With SIGPIPE ignored, a write to a pipe without a reader returns an error. The signal would
	// end the process, perhaps after it has changed something that it has not reported yet.
	signal.Ignore(syscall.SIGPIPE)

	args = misuse.WordsAsFlags(args)
	err := newApp(args).Run(args)
	if err == nil {
		return exitDone
	}
	printError(err)
	switch {
	case misuse.Is(err):
		return exitUsage
	case errors.Is(err, errNotBrought):
		return exitNotBrought
	}
	return exitFailed
}

// newApp makes the application, with all commands and flags. Its usage errors show a flag as the
// user typed it in args.
func newApp(args []string) *cli.App {
	var given hook.Settings
	app := &cli.App{
		Name:            "terok-gate",
		Usage:           "git for containers without a network, each with a token that lives as long as the container",
		Description:     description,
		Version:         version.String(),
		HideHelpCommand: true,
		// For the scripts in the directory completions: if --generate-bash-completion is the last
		// argument, the program prints the words that could stand in its place.
		EnableBashCompletion: true,
		// A pattern may contain commas.
		DisableSliceFlagSeparator: true,
		Flags:                     settingFlags(&given, hook.Flag.Common),
		Commands: []*cli.Command{
			in(gettingStarted, installCommand(&given)),
			in(gettingStarted, onInstalled(addCommand())),
			in(gettingStarted, doctorCommand()),
			in(gettingStarted, onInstalled(whyCommand())),
			in(gettingStarted, uninstallCommand()),

			in(repositories, onInstalled(projectsCommand())),
			in(repositories, onInstalled(syncCommand())),
			in(repositories, onInstalled(reviewCommand())),
			in(repositories, onInstalled(releaseCommand())),
			in(repositories, onInstalled(restoreCommand())),
			in(repositories, onInstalled(whoCommand())),
			in(repositories, onInstalled(renameCommand())),
			in(repositories, onInstalled(removeCommand())),
			in(repositories, serveCommand()),
			in(repositories, forwardCommand(&given)),
			in(repositories, onInstalled(attachCommand(&given))),

			in(tokens, onInstalled(listCommand())),
			in(tokens, onInstalled(accessCommand())),
			in(tokens, onInstalled(freezeCommand())),
			in(tokens, onInstalled(thawCommand())),
			in(tokens, onInstalled(createCommand())),
			in(tokens, onInstalled(revokeCommand())),
			in(tokens, onInstalled(verifyCommand())),
			in(tokens, onInstalled(reapCommand())),
			in(tokens, onInstalled(pathCommand())),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return misuse.Errorf("unknown command %s: see terok-gate --help", misuse.Quote(c.Args().First()))
			}
			return cli.ShowAppHelp(c)
		},
		OnUsageError:   explainMisuse(args),
		ExitErrHandler: func(*cli.Context, error) {}, // runCommand chooses the status
	}
	for _, command := range app.Commands {
		finish(command, app.OnUsageError)
	}
	return app
}

func in(category string, command *cli.Command) *cli.Command {
	command.Category = category
	return command
}

// finish makes a command's errors begin with the command's name and say what to do. It also makes a
// command without an ArgsUsage refuse arguments.
func finish(command *cli.Command, onUsageError cli.OnUsageErrorFunc) {
	command.HideHelpCommand = true
	command.OnUsageError = onUsageError
	if command.ArgsUsage == "" {
		command.Before = misuse.NoArguments
		command.ArgsUsage = " " // help would show "[arguments...]" for ""
	}
	if before := command.Before; before != nil {
		command.Before = func(c *cli.Context) error { return named(command, before(c)) }
	}
	for _, flag := range command.Flags {
		if flag, ok := flag.(*cli.BoolFlag); ok {
			flag.DisableDefaultText = true
		}
	}

	action := command.Action
	command.Action = func(c *cli.Context) error { return named(command, action(c)) }
}

// named adds to an error the command's name and, if known, what to do about it.
func named(command *cli.Command, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w%s", command.Name, err, hook.WayOut(err))
}

// explainMisuse returns a function that completes an error of package flag: it adds where the
// flag belongs, or which help to read.
func explainMisuse(args []string) cli.OnUsageErrorFunc {
	return func(c *cli.Context, err error, isSubcommand bool) error {
		text := misuse.AsTyped(err.Error(), args)
		if !isSubcommand {
			return misuse.Errorf("%s: see terok-gate --help", text)
		}
		name := c.Command.Name
		_, unknown, _ := strings.Cut(text, "flag provided but not defined: --")
		if isCommon(unknown) {
			return misuse.Errorf("%s: %s: put it before the command, as in terok-gate --%s ... %[1]s", name, text, unknown)
		}
		return misuse.Errorf("%s: %s: see terok-gate %[1]s --help", name, text)
	}
}

func isCommon(name string) bool {
	return slices.ContainsFunc(hook.Flags, func(f hook.Flag) bool { return f.Common() && f.Name == name })
}

// printError prints an error as one line.
func printError(err error) {
	fmt.Fprintln(os.Stderr, "terok-gate: "+printable.Line(err.Error()))
}
