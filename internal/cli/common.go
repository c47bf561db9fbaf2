// What several commands share: flags, the token file, the audit trail.

package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

func projectFlag() cli.Flag {
	return &cli.StringFlag{Name: "project", Usage: "the project `P`"}
}

func taskFlag() cli.Flag {
	return &cli.StringFlag{Name: "task", Usage: "the task `T`"}
}

func dryRunFlag() cli.Flag {
	return &cli.BoolFlag{Name: "dry-run", Usage: "say what would be done, do nothing"}
}

// tokenFile returns the token file that the command line names, or the default.
func tokenFile(c *cli.Context) (store.File, error) {
	return orDefault(store.File{Path: c.String("token-file"), LockTimeout: c.Duration("lock-timeout")})
}

// orDefault returns the token file, at the default path if it has none.
func orDefault(file store.File) (_ store.File, err error) {
	if file.Path == "" {
		if file.Path, err = store.TokenFilePath(); err != nil {
			return file, fmt.Errorf("%w: name one with --token-file", err)
		}
	}
	return file, nil
}

// record writes an event to the audit trail. It never fails what it tells of.
func record(c *cli.Context, e trail.Event) {
	if err := trail.Write(c.String("log-file"), e); err != nil {
		printError(err)
	}
}

// recordAll records the same event for each entry.
func recordAll(c *cli.Context, event string, entries []store.Entry) {
	for _, e := range entries {
		record(c, trail.Of(event, e))
	}
}
