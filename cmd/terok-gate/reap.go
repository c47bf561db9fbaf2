// The reap command: revokes orphans, the tokens whose container's process is dead. Such a container's
// poststop hook did not run, or failed.

package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
	"terok-gate-hook/store/watch"
)

func reapCommand() *cli.Command {
	return &cli.Command{
		Name:  "reap",
		Usage: "revoke orphans: the tokens whose container's process is dead",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "watch", Usage: "keep running, and revoke each token the moment its process dies"},
			&cli.BoolFlag{Name: "dry-run", Usage: "list the orphans, and revoke nothing"},
		},
		Action: reap,
	}
}

func reap(c *cli.Context) error {
	file, err := tokenFile(c)
	if err != nil {
		return err
	}

	switch {
	case c.Bool("watch") && c.Bool("dry-run"):
		return misuse.Errorf("give --watch or --dry-run, not both")
	case c.Bool("dry-run"):
		tokens, err := listTokens(c.Context, file, func(e store.Entry) bool { return e.State() == store.Orphan })
		if err != nil {
			return err
		}
		return printTable(os.Stdout, tokens)
	case c.Bool("watch"):
		return reapAndWatch(c, file)
	}

	revoked, err := file.Sweep()
	recordAll(c, trail.Swept, revoked)
	if err != nil {
		return err
	}
	fmt.Printf("revoked %d\n", len(revoked))
	return nil
}

// reapAndWatch sweeps until a signal stops it, and records what it revokes and what fails.
func reapAndWatch(c *cli.Context, file store.File) error {
	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return watch.Tokens(ctx, file, func(revoked []store.Entry, err error) {
		recordAll(c, trail.Swept, revoked)
		if err != nil {
			err = fmt.Errorf("reap: %w", err)
			record(c.String("log-file"), trail.Event{Event: trail.Failed, From: "reap", Error: printable.Line(err.Error())})
			printError(err)
		}
	})
}
