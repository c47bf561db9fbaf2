// How tokens are shown, to people and to programs: by list, reap --dry-run and uninstall.

package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"terok-gate-hook/internal/printable"
	"terok-gate-hook/podman"
	"terok-gate-hook/store"
)

// shortID is how much of a container id people see; podman shows as much.
const shortID = 12

// listed is a token as programs see it with list --json.
type listed struct {
	Project     string     `json:"project"`
	Task        string     `json:"task"`
	Container   string     `json:"container"` // empty: it belongs to none
	Name        string     `json:"name"`      // the container's; empty: it has none, or podman does not say
	State       string     `json:"state"`     // live, orphan or unknown
	Created     *time.Time `json:"created"`   // null: written by another program
	Fingerprint string     `json:"fingerprint"`
}

func listedOf(ctx context.Context, entries []store.Entry) []listed {
	rows := []listed{}
	var names map[string]string
	if slices.ContainsFunc(entries, ofContainer) {
		names, _ = podman.ContainerNames(ctx) // without podman, a list without names
	}
	for _, e := range entries {
		row := listed{
			Project: e.Project, Task: e.Task, Container: e.Container, Name: names[e.Container],
			State: stateOf(e), Fingerprint: e.Token.Fingerprint(),
		}
		if !e.Created.IsZero() {
			row.Created = &e.Created
		}
		rows = append(rows, row)
	}
	return rows
}

func ofContainer(e store.Entry) bool { return e.Container != "" }

// stateOf is live, orphan, or unknown if neither can be proved. A token that is tied to
// nothing lives until it is revoked.
func stateOf(e store.Entry) string {
	if e.Process == nil && e.Container == "" {
		return "live"
	}
	switch e.Process.Life() {
	case store.Alive:
		return "live"
	case store.Dead:
		return "orphan"
	}
	return "unknown"
}

// printTable prints the rows as a table. It has a column for containers' names if any is
// known. On a terminal, a token that is not known to be live stands out.
func printTable(w *os.File, rows []listed) error {
	named := slices.ContainsFunc(rows, func(r listed) bool { return r.Name != "" })
	var aligned bytes.Buffer
	table := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	line := func(project, task, container, name, state, age, fingerprint string) {
		cells := []string{project, task, container, name, state, age, fingerprint}
		if !named {
			cells = slices.Delete(cells, 3, 4)
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	line("PROJECT", "TASK", "CONTAINER", "NAME", "STATE", "AGE", "FINGERPRINT")
	for _, r := range rows {
		age := "-"
		if r.Created != nil {
			age = shortAge(time.Since(*r.Created))
		}
		container := r.Container[:min(shortID, len(r.Container))]
		line(printable.Line(r.Project), printable.Line(r.Task), orDash(container), orDash(r.Name), r.State, age, r.Fingerprint)
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

func orDash(cell string) string {
	if cell == "" {
		return "-"
	}
	return printable.Line(cell)
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
