// How commands write to the audit trail.

package cli

import (
	"github.com/urfave/cli/v2"

	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

// record writes an event to the audit trail. It never fails what it tells of.
func record(logFile string, e trail.Event) {
	if err := trail.Write(logFile, e); err != nil {
		printError(err)
	}
}

// recordAll records the same event for each entry.
func recordAll(c *cli.Context, event string, entries []store.Entry) {
	for _, e := range entries {
		record(c.String("log-file"), trail.Of(event, e))
	}
}
