// Records in the audit trail what commands do.

package main

import (
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

// record writes an event to the audit trail. If that fails, record only prints the error, since the
// event has happened.
func record(named string, e trail.Event) {
	e.User = caller()
	if err := trail.Write(logFile(named), e); err != nil {
		printError(err)
	}
}

// caller returns the uid of the user who logged in. This uid stays the same under sudo(8). If the
// kernel's audit knows no such user, caller returns the uid of this process.
func caller() string {
	login, _ := os.ReadFile("/proc/self/loginuid")
	const unknown = "4294967295"
	if uid := strings.TrimSpace(string(login)); uid != "" && uid != unknown {
		return uid
	}
	return strconv.Itoa(os.Getuid())
}

// logFile returns the named log file, or the default one if named is "".
func logFile(named string) string {
	if named != "" {
		return named
	}
	return trail.DefaultFile()
}

// recordAll records the same event for each entry.
func recordAll(c *cli.Context, event string, entries []store.Entry) {
	for _, e := range entries {
		record(c.String("log-file"), trail.Of(event, e))
	}
}
