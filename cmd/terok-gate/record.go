// Writing to the audit trail.

package main

import (
	"github.com/urfave/cli/v2"

	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

// record writes an event to the audit trail. If that fails, it says so and no more: what
// the event tells of has happened.
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
