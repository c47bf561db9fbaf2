// How tokens are shown, to people and to programs: by list, reap --dry-run and uninstall.

package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
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
	Access      string     `json:"access"` // read or write
	Push        [][]string `json:"push"`   // a push is to refs that match a pattern of each list

	pushes string // in words; empty: the token has no limits
}

// listTokens returns those tokens that are wanted, oldest first.
func listTokens(ctx context.Context, file store.File, wanted func(store.Entry) bool) ([]listed, error) {
	saveMemory()
	rows := []listed{}
	err := file.Each(func(e store.Entry) {
		if wanted(e) {
			rows = append(rows, listedOf(e))
		}
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(rows, func(a, b listed) int { return created(a).Compare(created(b)) })
	if slices.ContainsFunc(rows, func(r listed) bool { return r.Container != "" }) {
		names, _ := podman.ContainerNames(ctx) // without podman, a list without names
		for i := range rows {
			rows[i].Name = names[rows[i].Container]
		}
	}
	return rows, nil
}

func listedOf(e store.Entry) listed {
	row := listed{
		Project: e.Project, Task: e.Task, Container: e.Container, State: stateOf(e), Fingerprint: e.Token.Fingerprint(),
		Access: e.Access(), Push: [][]string{},
	}
	if e.Limited() {
		row.Push = append(row.Push, e.Push...)
		row.pushes = e.Pushes()
	}
	if created := e.Created; !created.IsZero() {
		row.Created = &created // a copy: e is large
	}
	return row
}

func created(r listed) time.Time {
	if r.Created == nil {
		return time.Time{}
	}
	return *r.Created
}

func anyToken(store.Entry) bool { return true }

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

// printJSON prints the rows as an array, one after the other: there can be many.
func printJSON(w io.Writer, rows []listed) error {
	out := bufio.NewWriter(w)
	before := "[\n  "
	for _, r := range rows {
		row, err := json.MarshalIndent(r, "  ", "  ")
		if err != nil {
			return err
		}
		out.WriteString(before)
		out.Write(printable.JSON(row))
		before = ",\n  "
	}
	if len(rows) == 0 {
		out.WriteString("[]\n")
	} else {
		out.WriteString("\n]\n")
	}
	return out.Flush()
}

// printTable prints the rows as a table. It has a column for containers' names if any is
// known, and one for limits if any token has some. On a terminal, a token that is not
// known to be live stands out.
func printTable(w *os.File, rows []listed) error {
	named := slices.ContainsFunc(rows, func(r listed) bool { return r.Name != "" })
	limited := slices.ContainsFunc(rows, func(r listed) bool { return r.pushes != "" })
	var aligned bytes.Buffer
	table := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	line := func(project, task, container, name, state, age, fingerprint, pushes string) {
		cells := []string{project, task, container}
		if named {
			cells = append(cells, name)
		}
		cells = append(cells, state, age, fingerprint)
		if limited {
			cells = append(cells, pushes)
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	line("PROJECT", "TASK", "CONTAINER", "NAME", "STATE", "AGE", "FINGERPRINT", "PUSHES TO")
	for _, r := range rows {
		age := "-"
		if r.Created != nil {
			age = shortAge(time.Since(*r.Created))
		}
		container := r.Container[:min(shortID, len(r.Container))]
		line(printable.Line(r.Project), printable.Line(r.Task), orDash(container), orDash(r.Name), r.State, age, r.Fingerprint, shortPushes(r))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	colours := map[string]string{"orphan": red, "unknown": yellow}
	out := bufio.NewWriter(w)
	for i := -1; aligned.Len() > 0; i++ {
		line := string(aligned.Next(bytes.IndexByte(aligned.Bytes(), '\n')))
		if i >= 0 {
			line = paint(w, colours[rows[i].State], line)
		}
		out.WriteString(line)
		out.Write(aligned.Next(1))
	}
	return out.Flush()
}

// shortPushes is as much of the limits as fits a line. JSON has all.
func shortPushes(r listed) string {
	const most = 60
	switch pushes := printable.Line(r.pushes); {
	case pushes == "":
		return "anything"
	case len(pushes) > most:
		return pushes[:most] + "..."
	default:
		return pushes
	}
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
