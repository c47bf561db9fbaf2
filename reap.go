// The reap command: orphans go, for a container whose poststop hook never ran.

package main

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/store"
)

func reap(c *cli.Context) error {
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	log := openLog(c.String("log-file"))
	switch {
	case c.Bool("watch") && c.Bool("dry-run"):
		return misusef("give --watch or --dry-run, not both")
	case c.Bool("dry-run"):
		entries, err := file.Entries()
		if err != nil {
			return err
		}
		return printTable(os.Stdout, listedOf(slices.DeleteFunc(entries, func(e store.Entry) bool { return !e.Orphan() })))
	case c.Bool("watch"):
		ctx, stop := signal.NotifyContext(c.Context, syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		return file.Watch(ctx, func(revoked []store.Entry, err error) {
			log.revoked("swept", revoked)
			if err != nil {
				err = fmt.Errorf("reap: %w", err)
				log.event(event{Event: "failed", Error: oneLine(err.Error())})
				printError(err)
			}
		})
	}
	revoked, err := file.Sweep()
	log.revoked("swept", revoked)
	if err != nil {
		return err
	}
	fmt.Printf("revoked %d\n", len(revoked))
	return nil
}
