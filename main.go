// terok-gate-hook is an OCI hook that gives every container its own git-gate token
// for exactly as long as the container lives.
//
// This file is the command line: what each command takes, and which exit status it
// ends with. The work is done in the packages hook and store.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
	"terok-gate-hook/store"
)

// Exit statuses.
const (
	exitDone    = 0
	exitFailed  = 1
	exitMisused = 2
)

const description = `As a container runtime calls it:

   terok-gate-hook --token-file F prestart < state.json
   terok-gate-hook --token-file F poststop < state.json

As a person does:

   terok-gate-hook create --project demo --task 1
   terok-gate-hook list
   terok-gate-hook revoke --project demo --task 1
   terok-gate-hook verify < token`

func main() {
	// A closed standard output is an error to report, not a reason to die between
	// a commit and its report.
	signal.Ignore(syscall.SIGPIPE)
	os.Exit(run(os.Args))
}

func run(args []string) int {
	app := &cli.App{
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
		Flags: []cli.Flag{
			&cli.StringFlag{
				Name: "token-file", EnvVars: []string{"TEROK_GATE_TOKEN_FILE"}, TakesFile: true,
				Usage: "the token file `F`; default: see the path command; required in a user namespace",
			},
			&cli.DurationFlag{
				Name: "lock-timeout", EnvVars: []string{"TEROK_GATE_LOCK_TIMEOUT"}, Value: store.DefaultLockTimeout,
				Usage: "give up if the lock of the token file is not to be had for this long",
			},
			&cli.StringFlag{
				Name: "log-file", EnvVars: []string{"TEROK_GATE_LOG_FILE"}, TakesFile: true,
				Usage: "append what happened to the file `F` too, as JSON lines",
			},
		},
		Commands: []*cli.Command{
			{
				Name: "prestart", Aliases: []string{"createRuntime"}, Category: "For container runtimes",
				Usage:  "issue a token for the container whose state is on standard input",
				Flags:  append(mountFlags(), envDirFlag()),
				Action: prestart,
			},
			{
				Name: "poststop", Category: "For container runtimes",
				Usage:  "revoke the tokens of the container whose state is on standard input",
				Flags:  []cli.Flag{&cli.StringFlag{Name: "env-dir", Usage: "where prestart put the env file on the host, as `D`/<container id>.env"}},
				Action: poststop,
			},
			{
				Name: "precreate", Category: "For container runtimes",
				Usage:  "add pointers to gate.env and the gate to the configuration on standard input",
				Flags:  precreateFlags(),
				Action: precreate,
			},
			{
				Name: "create", Category: "For people",
				Usage:  "print a new token that belongs to no container and lives until it is revoked",
				Flags:  []cli.Flag{projectFlag(), taskFlag()},
				Action: named(create),
			},
			{
				Name: "revoke", Category: "For people",
				Usage:  "revoke the tokens of a project and task, of a container, or the token on standard input",
				Flags:  []cli.Flag{projectFlag(), taskFlag(), containerFlag()},
				Action: named(revoke),
			},
			{
				Name: "list", Category: "For people",
				Usage:  "list the tokens, never in full",
				Flags:  []cli.Flag{projectFlag(), taskFlag(), &cli.BoolFlag{Name: "json", Usage: "for programs"}},
				Action: named(list),
			},
			{
				Name: "verify", Category: "For people",
				Usage:  "print project and task of the token on standard input; exit status 1 if it is not valid",
				Action: named(verify),
			},
			{
				Name: "reap", Category: "For people",
				Usage: "revoke orphans: the tokens whose container's process is dead",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "watch", Usage: "stay, and revoke each token the moment its process dies"},
					&cli.BoolFlag{Name: "dry-run", Usage: "list the orphans, revoke nothing"},
				},
				Action: named(reap),
			},
			{
				Name: "path", Category: "For people",
				Usage:  "print the token file's path",
				Action: named(path),
			},
			{
				Name: "install", Category: "For administrators",
				Usage:  "register the hooks with podman: for the system as root, else for yourself",
				Flags:  installFlags(),
				Action: named(install),
			},
			{
				Name: "uninstall", Category: "For administrators",
				Usage:  "remove what install wrote, and say which tokens remain",
				Flags:  uninstallFlags(),
				Action: named(uninstall),
			},
			{
				Name: "doctor", Category: "For administrators",
				Usage:  "check everything between podman and the gate; exit status 1 if something is broken",
				Flags:  doctorFlags(),
				Action: named(doctor),
			},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return misusef("unknown command %s: see terok-gate-hook --help", quote(c.Args().First()))
			}
			return cli.ShowAppHelp(c)
		},
		OnUsageError:   onUsageError,
		ExitErrHandler: func(*cli.Context, error) {}, // the status is ours to choose
	}
	for _, command := range app.Commands {
		command.OnUsageError = onUsageError
		command.Before = noArguments
		command.HideHelpCommand = true
	}
	err := app.Run(args)
	if err == nil {
		return exitDone
	}
	printError(err)
	var misuse misuseError
	if errors.As(err, &misuse) {
		if slices.ContainsFunc(args[1:], isStage) {
			toSystemLog(event{Event: "failed", Error: oneLine(err.Error())})
			drainStdin()
		}
		return exitMisused
	}
	return exitFailed
}

// named puts the command's name before its errors.
func named(action cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := action(c); err != nil {
			return fmt.Errorf("%s: %w", c.Command.Name, err)
		}
		return nil
	}
}

// printError prints an error as one line.
func printError(err error) {
	fmt.Fprintln(os.Stderr, "terok-gate-hook: "+oneLine(err.Error()))
}

// drainStdin reads the state that nobody asked for: crun 1.8.1 dies of SIGPIPE if a
// hook ends before, and says that instead of our error.
func drainStdin() {
	if info, err := os.Stdin.Stat(); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
		_, _ = io.CopyN(io.Discard, os.Stdin, 1<<20)
	}
}

// misuseError is an error of whoever typed the command line.
type misuseError struct{ error }

func misusef(format string, a ...any) error { return misuseError{fmt.Errorf(format, a...)} }

func onUsageError(c *cli.Context, err error, isSubcommand bool) error {
	if c.Command.Name == "" || c.Command.Name == c.App.Name {
		return misusef("%w", err)
	}
	return misusef("%s: %w: see terok-gate-hook %s --help; flags that all commands share stand before the command",
		c.Command.Name, err, c.Command.Name)
}

// quote quotes a stray argument, unless it is a token.
func quote(arg string) string {
	if strings.HasPrefix(arg, "terok-g-") {
		return "token " + store.Token(arg).Fingerprint() + ", which belongs on standard input"
	}
	return fmt.Sprintf("%q", arg)
}

func noArguments(c *cli.Context) error {
	if c.Args().Present() {
		return misusef("%s: takes no argument %s: flags that all commands share stand before the command", c.Command.Name, quote(c.Args().First()))
	}
	if timeout := c.Duration("lock-timeout"); timeout <= 0 {
		return misusef("%s: --lock-timeout %v: must be more than nothing", c.Command.Name, timeout)
	}
	return nil
}

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

func envDirFlag() cli.Flag {
	return &cli.StringFlag{Name: "env-dir", Usage: "inject on the host instead, as `D`/<container id>.env"}
}

func projectFlag() cli.Flag {
	return &cli.StringFlag{Name: "project", Usage: "the project `P`"}
}

func taskFlag() cli.Flag {
	return &cli.StringFlag{Name: "task", Usage: "the task `T`"}
}

func containerFlag() cli.Flag {
	return &cli.StringFlag{Name: "container", Usage: "the container's `ID`, in full or as list shows it"}
}

// tokenFile returns the token file that the command line names, or the default.
func tokenFile(c *cli.Context) (file store.File, err error) {
	file = store.File{Path: c.String("token-file"), LockTimeout: c.Duration("lock-timeout")}
	if file.Path == "" {
		if file.Path, err = store.TokenFilePath(); err != nil {
			return file, fmt.Errorf("%w with --token-file", err)
		}
	}
	return file, nil
}
