// The list command: the tokens as people and programs see them.

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/internal/printable"
	"terok-gate-hook/store"
)

// shortID is how much of a container id people see, as with podman.
const shortID = 12

// listed is a token as programs see it with list --json.
type listed struct {
	Project     string     `json:"project"`
	Task        string     `json:"task"`
	Container   string     `json:"container"` // empty: it belongs to none
	State       string     `json:"state"`     // live, orphan or unknown
	Created     *time.Time `json:"created"`   // null: written by another program
	Fingerprint string     `json:"fingerprint"`
}

func listCommand() *cli.Command {
	return &cli.Command{
		Name: "list", Category: forPeople,
		Usage:  "list the tokens, never in full",
		Flags:  []cli.Flag{projectFlag(), taskFlag(), &cli.BoolFlag{Name: "json", Usage: "for programs"}},
		Action: list,
	}
}

func list(c *cli.Context) error {
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	entries, err := file.Entries()
	if err != nil {
		return err
	}
	rows := listedOf(slices.DeleteFunc(entries, func(e store.Entry) bool {
		return c.IsSet("project") && e.Project != c.String("project") || c.IsSet("task") && e.Task != c.String("task")
	}))
	if c.Bool("json") {
		out, err := json.MarshalIndent(rows, "", "  ")
		if err == nil {
			_, err = os.Stdout.Write(append(printable.JSON(out), '\n'))
		}
		return err
	}
	return printTable(os.Stdout, rows)
}

func listedOf(entries []store.Entry) []listed {
	rows := []listed{}
	for _, e := range entries {
		row := listed{
			Project: e.Project, Task: e.Task, Container: e.Container,
			State: stateOf(e), Fingerprint: e.Token.Fingerprint(),
		}
		if !e.Created.IsZero() {
			row.Created = &e.Created
		}
		rows = append(rows, row)
	}
	return rows
}

// printTable aligns the rows. On a terminal, one that is no living token's stands
// out.
func printTable(w *os.File, rows []listed) error {
	var aligned bytes.Buffer
	table := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PROJECT\tTASK\tCONTAINER\tSTATE\tAGE\tFINGERPRINT")
	for _, r := range rows {
		age, container := "-", "-"
		if r.Created != nil {
			age = shortAge(time.Since(*r.Created))
		}
		if r.Container != "" {
			container = printable.Line(r.Container[:min(shortID, len(r.Container))])
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", printable.Line(r.Project), printable.Line(r.Task), container, r.State, age, r.Fingerprint)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	colours := map[string]string{"orphan": red, "unknown": yellow}
	for i, line := range slices.Collect(strings.Lines(aligned.String())) {
		if i > 0 {
			line = paint(w, colours[rows[i-1].State], strings.TrimSuffix(line, "\n")) + "\n"
		}
		if _, err := io.WriteString(w, line); err != nil {
			return err
		}
	}
	return nil
}

// shortAge is the age in its largest unit: 7s, 3m, 5h, 12d.
func shortAge(d time.Duration) string {
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if d >= unit.length {
			return fmt.Sprintf("%d%s", d/unit.length, unit.name)
		}
	}
	return fmt.Sprintf("%ds", max(0, d/time.Second)) // a clock may have been set back
}

// stateOf is live, orphan, or unknown where nothing can be proved. A token that no
// process is tied to lives until it is revoked.
func stateOf(e store.Entry) string {
	switch {
	case e.Process == nil && e.Container == "":
		return "live"
	case e.Process.Life() == store.Alive:
		return "live"
	case e.Process.Life() == store.Dead:
		return "orphan"
	}
	return "unknown"
}
