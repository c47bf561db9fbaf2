// terok-gate is what people use: it registers the hooks with the container engine, serves
// git repositories to containers, and shows and revokes the tokens that terok-gate-hook
// issues.
//
// Each command has a file, with its flags beside what it does; the work is done in other
// packages. Results go to standard output, everything else to standard error. An error is
// one line, "terok-gate: <command>: <what>: <why>". The exit status is 0 for success, 1 for
// failure, 2 for a usage error and 3, which only the command who returns, for a commit that nothing in
// the trail brought in.
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

// runCommand runs the command that the arguments name, the program's name first, and returns the
// exit status.
func runCommand(args []string) (status int) {
	// Otherwise a write to a closed standard output would end the process, perhaps after it has
	// changed something and before it says so. Now it is an error like others.
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

// newApp makes the command line. args is what was typed, for its errors to quote.
func newApp(args []string) *cli.App {
	var given hook.Settings
	app := &cli.App{
		Name:            "terok-gate",
		Usage:           "git for containers without a network, each with a token that lives as long as it does",
		Description:     description,
		Version:         version.String(),
		HideHelpCommand: true,
		// For the scripts in completions: if --generate-bash-completion is the last argument, the
		// program prints the words that could stand in its place.
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

// finish gives a command what all commands have: errors that begin with its name and say what to do, and
// a refusal of arguments unless it has an ArgsUsage.
func finish(command *cli.Command, onUsageError cli.OnUsageErrorFunc) {
	command.HideHelpCommand = true
	command.OnUsageError = onUsageError
	if command.ArgsUsage == "" {
		command.Before = misuse.NoArguments
		command.ArgsUsage = " " // none, rather than "[arguments...]"
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

// named adds the command's name to an error, and what to do about it.
func named(command *cli.Command, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w%s", command.Name, err, hook.WayOut(err))
}

// explainMisuse adds to an error of package flag where to read how the command is used.
func explainMisuse(args []string) cli.OnUsageErrorFunc {
	return func(c *cli.Context, err error, isSubcommand bool) error {
		text := misuse.AsTyped(err.Error(), args)
		if !isSubcommand {
			return misuse.Errorf("%s: see terok-gate --help", text)
		}
		name := c.Command.Name
		_, unknown, _ := strings.Cut(text, "flag provided but not defined: --")
		if isCommon(unknown) {
			return misuse.Errorf("%s: %s: it stands before the command, as in terok-gate --%s ... %[1]s", name, text, unknown)
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
