// terok-gate serves git repositories to containers whose tokens terok-gate-hook issues.
//
// Here is its command line; the gate itself is package gate. Results go to standard
// output, all else to standard error. An error is one line, "terok-gate: <command>:
// <what>: <why>". Exit status 0 is done, 1 failed, 2 misused.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/internal/version"
	"terok-gate-hook/store"
)

const description = `From a folder of repositories to the first clone:

   terok-gate add demo ~/src/demo
   terok-gate serve --listen 127.0.0.1:9418
   token=$(terok-gate-hook create --project demo --task 1)
   git clone http://${token}:@127.0.0.1:9418/demo.git`

func main() {
	if status, isHook := gate.RunHook(os.Args[0]); isHook {
		os.Exit(status)
	}
	trail.Program = "terok-gate"
	os.Exit(runApp(os.Args))
}

func runApp(args []string) (status int) {
	args = misuse.WordsAsFlags(args)
	err := app(args).Run(args)
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "terok-gate: "+printable.Line(err.Error()))
	if misuse.Is(err) {
		return 2
	}
	return 1
}

func app(args []string) *cli.App {
	return &cli.App{
		Name:                      "terok-gate",
		Usage:                     "a git server for containers without a network",
		Description:               description,
		Version:                   version.String(),
		HideHelpCommand:           true,
		EnableBashCompletion:      true,
		DisableSliceFlagSeparator: true,
		Commands:                  []*cli.Command{named(serveCommand(), args), named(addCommand(), args), named(projectsCommand(), args)},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return misuse.Errorf("unknown command %s: see terok-gate --help", misuse.Quote(c.Args().First()))
			}
			return cli.ShowAppHelp(c)
		},
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return misuse.Errorf("%s: see terok-gate --help", misuse.AsTyped(err.Error(), args))
		},
		ExitErrHandler: func(*cli.Context, error) {}, // the status is ours to choose
	}
}

// named puts the command's name before its errors.
func named(command *cli.Command, args []string) *cli.Command {
	command.HideHelpCommand = true
	action := command.Action
	command.Action = func(c *cli.Context) error {
		if err := action(c); err != nil {
			return fmt.Errorf("%s: %w", command.Name, err)
		}
		return nil
	}
	command.OnUsageError = func(_ *cli.Context, err error, _ bool) error {
		return misuse.Errorf("%s: %s: see terok-gate %[1]s --help", command.Name, misuse.AsTyped(err.Error(), args))
	}
	return command
}

// reposFlag and tokenFileFlag are flags of more than one command.
func reposFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "repos", EnvVars: []string{"TEROK_GATE_REPOS"}, TakesFile: true,
		Usage: "the folder `DIR` of repositories, <project>.git each; default: /var/lib/terok-gate/repos for root, else terok-gate/repos in $XDG_DATA_HOME or ~/.local/share",
	}
}

func tokenFileFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "token-file", EnvVars: []string{"TEROK_GATE_TOKEN_FILE"}, TakesFile: true,
		Usage: "the token file `F`; default: see terok-gate-hook path",
	}
}

// reposOf returns the folder of repositories that the command line names, or the
// default.
func reposOf(c *cli.Context) (string, error) {
	if dir := c.String("repos"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := control.DefaultRepos()
	if err != nil {
		return "", misuse.Errorf("no default folder of repositories: %w: name one with --repos", err)
	}
	return dir, nil
}

// tokenFileOf returns the token file that the command line names, or the default.
func tokenFileOf(c *cli.Context) (file store.File, err error) {
	if given := c.String("token-file"); given != "" {
		file.Path, err = filepath.Abs(given)
		return file, err
	}
	if file.Path, err = store.TokenFilePath(); err != nil {
		return file, misuse.Errorf("%w: name one with --token-file", err)
	}
	return file, nil
}
