// The list command: the tokens as people and programs see them.

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/store"
)

// listed is a token as programs see it with list --json.
type listed struct {
	Project     string     `json:"project"`
	Task        string     `json:"task"`
	Container   string     `json:"container"` // empty: it belongs to none
	State       string     `json:"state"`     // live, orphan or unknown
	Created     *time.Time `json:"created"`   // null: written by another program
	Fingerprint string     `json:"fingerprint"`
}

func list(c *cli.Context) error {
	file, err := tokens(c)
	if err != nil {
		return err
	}
	entries, err := file.Entries()
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	rows := listedOf(entries)
	if c.Bool("json") {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		return out.Encode(rows)
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

func printTable(w io.Writer, rows []listed) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PROJECT\tTASK\tCONTAINER\tSTATE\tAGE\tFINGERPRINT")
	for _, r := range rows {
		age, container := "-", "-"
		if r.Created != nil {
			age = time.Since(*r.Created).Round(time.Second).String()
		}
		if r.Container != "" {
			container = oneLine(r.Container[:min(12, len(r.Container))])
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", oneLine(r.Project), oneLine(r.Task), container, r.State, age, r.Fingerprint)
	}
	return table.Flush()
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
