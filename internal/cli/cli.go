// Package cli is the command line of terok-gate-hook. Each command has a file, with its
// flags beside what it does; the work is done in other packages.
//
// Results go to standard output, all else to standard error. An error is one line,
// "terok-gate-hook: <command>: <what>: <why>".
package cli

import (
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/version"
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

As a person calls it:

   terok-gate-hook create --project demo --task 1
   terok-gate-hook list
   terok-gate-hook revoke --project demo --task 1
   terok-gate-hook verify < token`

// Run runs the command that the arguments name, the program's name first, and returns
// the exit status: 0 for done, 1 for failed, 2 for misused. templates holds the
// repository's hooks.d and systemd.
func Run(args []string, templates fs.FS) (status int) {
	// A closed standard output is an error to report, not a reason to die between
	// a commit and its report.
	signal.Ignore(syscall.SIGPIPE)
	if p, ok := stageCalled(args[1:]); ok {
		err := p.command(p.called.command).Action(nil)
		return p.end(p.stage, err)
	}
	args = misuse.WordsAsFlags(args)
	p := program{templates: templates, called: calledBy(args[1:])}
	err := p.app(args).Run(args)
	return p.end(p.stage, err)
}

// end says how the command ended and returns the exit status.
func (p *program) end(stage hook.Outcome, err error) (status int) {
	if isStage(p.called.command) {
		recordStage(p.called, stage, err)
	}
	if err == nil {
		return exitDone
	}
	if p.called.command != "" {
		err = fmt.Errorf("%s: %w%s", p.called.command, err, wayOut(err))
	}
	if isStage(p.called.command) && !misuse.Is(err) {
		err = fmt.Errorf("%w (to learn why: terok-gate-hook why)", err)
	}
	printError(err)
	if misuse.Is(err) {
		return exitMisused
	}
	return exitFailed
}

// program is what Run shares with the commands.
type program struct {
	templates fs.FS
	called    invocation
	given     hook.Settings // what the flags say
	stage     hook.Outcome  // what a stage did, if one was called
}

// names are the commands, in the order in which help lists them.
var names = []string{
	"prestart", "poststop", "precreate",
	"create", "revoke", "list", "verify", "why", "reap", "path",
	"install", "uninstall", "doctor", "attach",
}

// command makes the command of this name, or returns nil if there is none.
func (p *program) command(name string) *cli.Command {
	switch name {
	case "prestart", "createRuntime":
		return p.prestartCommand(name)
	case "poststop":
		return p.poststopCommand()
	case "precreate":
		return p.precreateCommand()
	case "create":
		return onInstalled(createCommand())
	case "revoke":
		return onInstalled(revokeCommand())
	case "list":
		return onInstalled(listCommand())
	case "verify":
		return onInstalled(verifyCommand())
	case "why":
		return onInstalled(whyCommand())
	case "reap":
		return onInstalled(reapCommand())
	case "path":
		return onInstalled(pathCommand())
	case "install":
		return installCommand(&p.given, p.templates)
	case "uninstall":
		return uninstallCommand()
	case "doctor":
		return doctorCommand()
	case "attach":
		return onInstalled(attachCommand(&p.given))
	}
	return nil
}

// app sets up the called command alone, since every container's start waits for it. If
// none is called it sets up all of them, for help and completion to list.
func (p *program) app(args []string) *cli.App {
	app := &cli.App{
		Name:        "terok-gate-hook",
		Usage:       "an OCI hook that gives a container a git-gate token for as long as it lives",
		Description: description,
		// For the scripts in completions: a last argument --generate-bash-completion
		// prints what could stand in its place.
		EnableBashCompletion: true,
		// A pattern may contain commas.
		DisableSliceFlagSeparator: true,
		Flags:                     commonFlags(&p.given),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return misuse.Errorf("unknown command %s: see terok-gate-hook --help", misuse.Quote(c.Args().First()))
			}
			return cli.ShowAppHelp(c)
		},
		ExitErrHandler: func(*cli.Context, error) {}, // Run chooses the status
	}
	if command := p.command(p.called.command); command != nil {
		app.Commands = []*cli.Command{command}
		app.HideVersion = true
	} else {
		for _, name := range names {
			app.Commands = append(app.Commands, p.command(name))
		}
		app.Version = version.String()
	}
	app.HideHelpCommand = true
	app.OnUsageError = explainMisuse(args)
	for _, command := range app.Commands {
		command.HideHelpCommand = true
		command.Before = misuse.NoArguments
		if command.ArgsUsage != "" {
			command.Before = misuse.OneArgument
		}
		command.OnUsageError = app.OnUsageError
		for _, flag := range command.Flags {
			if flag, ok := flag.(*cli.BoolFlag); ok {
				flag.DisableDefaultText = true // nobody needs to read "default: false"
			}
		}
	}
	return app
}

// printError prints an error as one line.
func printError(err error) {
	fmt.Fprintln(os.Stderr, "terok-gate-hook: "+printable.Line(err.Error()))
}
