// Prints tokens, for people and for programs: for list, access, reap --dry-run and uninstall.

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/store"
)

// shortID is how many characters of a container's id people see, as in podman's output.
const shortID = 12

// shortContainer returns as much of a container's id as people see.
func shortContainer(id string) string { return id[:min(shortID, len(id))] }

// listed is a token as programs see it with list --json.
type listed struct {
	Project     string     `json:"project"`
	Task        string     `json:"task"`
	Container   string     `json:"container"` // empty: it belongs to none
	Name        string     `json:"name"`      // the container's; empty: it has none, or podman does not say
	State       string     `json:"state"`     // store.State
	Created     *time.Time `json:"created"`   // null: written by another program
	Fingerprint string     `json:"fingerprint"`
	Access      string     `json:"access"` // read, append or write
	Push        [][]string `json:"push"`   // a pushed ref must match a pattern of each list
	Also        store.Also `json:"also"`   // other projects that it is for, each with read or write
	Frozen      bool       `json:"frozen,omitempty"`

	Services map[string]string `json:"services,omitempty"` // of the host, each with its host:port in the container
}

// row is a token that will be printed. It is small, since there can be many rows.
type row struct {
	project, task, container string
	state                    string
	created                  time.Time
	fingerprint              [8]byte
	limits                   *store.Limits // nil: none
	also                     store.Also
	services                 map[string]string
	frozen                   bool // not served at present
}

// table holds the rows to print.
type table struct {
	rows  []*row
	names map[string]string // of containers, by id, as far as known
}

// listTokens returns the tokens that are wanted, oldest first.
func listTokens(ctx context.Context, file store.File, wanted func(store.Entry) bool) (t table, err error) {
	saveMemory()
	freezes, err := file.Freezes()
	if err != nil {
		printError(err) // all tokens are then shown as frozen
	}
	err = file.Each(func(e store.Entry) {
		if wanted(e) {
			r := rowOf(e)
			r.frozen = freezes.Check(e.Container, e.Project, e.Project) != nil
			t.rows = append(t.rows, r)
		}
	})
	if err != nil {
		return t, err
	}

	slices.SortStableFunc(t.rows, func(a, b *row) int { return a.created.Compare(b.created) })

	if slices.ContainsFunc(t.rows, func(r *row) bool { return r.container != "" }) {
		t.names, _ = engines.ContainerNames(ctx) // without podman, the names are left out
	}
	return t, nil
}

func rowOf(e store.Entry) *row {
	r := &row{project: e.Project, task: e.Task, container: e.Container, state: string(e.State()), created: e.Created, also: e.Also}
	copy(r.fingerprint[:], e.Token.Fingerprint())
	if e.Gate != nil {
		r.services = e.Gate.Services
	}

	switch {
	case e.Malformed:
		r.limits = &store.Limits{ReadOnly: true} // whatever its limits say, it may not push
	case e.Limited():
		limits := e.Limits // a copy: e is large
		r.limits = &limits
	}
	return r
}

// listed returns the row as programs see it.
func (t table) listed(r *row) listed {
	l := listed{
		Project: r.project, Task: r.task, Container: r.container, Name: t.names[r.container], State: r.state,
		Fingerprint: string(r.fingerprint[:]), Access: store.Limits{}.Access(), Push: [][]string{}, Also: store.Also{}, Frozen: r.frozen,
		Services: r.services,
	}
	maps.Copy(l.Also, r.also)
	if !r.created.IsZero() {
		l.Created = &r.created
	}
	if r.limits != nil {
		l.Access = r.limits.Access()
		l.Push = append(l.Push, r.limits.Push...)
	}
	return l
}

func anyToken(store.Entry) bool { return true }

func ofContainer(e store.Entry) bool { return e.Container != "" }

// printIndented prints a value for programs, as indented JSON in which characters that do not
// print are escaped.
func printIndented(value any) error {
	out, err := json.MarshalIndent(value, "", "  ")
	if err == nil {
		_, err = os.Stdout.Write(append(printable.JSON(out), '\n'))
	}
	return err
}

// printJSON prints the rows as an array. It encodes one at a time, since there can be many.
func printJSON(w io.Writer, t table) error {
	out := bufio.NewWriter(w)

	before := "[\n  "
	for _, r := range t.rows {
		row, err := json.MarshalIndent(t.listed(r), "  ", "  ")
		if err != nil {
			return err
		}
		out.WriteString(before)
		out.Write(printable.JSON(row))
		before = ",\n  "
	}

	if len(t.rows) == 0 {
		out.WriteString("[]\n")
	} else {
		out.WriteString("\n]\n")
	}

	return out.Flush()
}

// printTable prints the rows as a table. Four columns are left out if they would be empty:
// containers' names, limits, other projects, and services of the host. On a terminal, tokens that
// are frozen or not known to be live are coloured.
func printTable(w *os.File, t table) error {
	named := slices.ContainsFunc(t.rows, func(r *row) bool { return t.names[r.container] != "" })
	limited := slices.ContainsFunc(t.rows, func(r *row) bool { return r.limits != nil })
	several := slices.ContainsFunc(t.rows, func(r *row) bool { return len(r.also) > 0 })
	served := slices.ContainsFunc(t.rows, func(r *row) bool { return len(r.services) > 0 })

	var aligned bytes.Buffer
	columns := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	line := func(project, task, container, name, state, age, fingerprint, pushes, also, services string) {
		cells := []string{project, task, container}
		if named {
			cells = append(cells, name)
		}
		cells = append(cells, state, age, fingerprint)
		if limited {
			cells = append(cells, pushes)
		}
		if several {
			cells = append(cells, also)
		}
		if served {
			cells = append(cells, services)
		}
		fmt.Fprintln(columns, strings.Join(cells, "\t"))
	}

	line("PROJECT", "TASK", "CONTAINER", "NAME", "STATE", "AGE", "FINGERPRINT", "PUSHES TO", "OTHER PROJECTS", "SERVICES")
	for _, r := range t.rows {
		age := "-"
		if !r.created.IsZero() {
			age = shortAge(time.Since(r.created))
		}
		container := shortContainer(r.container)
		line(printable.Line(r.project), printable.Line(r.task), orDash(container), orDash(t.names[r.container]),
			r.shownState(), age, string(r.fingerprint[:]), shortPushes(r.limits), orDash(shortened(alsoOf(r.also))),
			orDash(shortened(strings.Join(slices.Sorted(maps.Keys(r.services)), ", "))))
	}
	if err := columns.Flush(); err != nil {
		return err
	}

	// Colours come last: the tabwriter would count them as characters.
	colours := map[string]string{string(store.Orphan): red, string(store.Malformed): red, string(store.Unsure): yellow, "frozen": yellow}
	out := bufio.NewWriter(w)
	for i := -1; aligned.Len() > 0; i++ {
		line := string(aligned.Next(bytes.IndexByte(aligned.Bytes(), '\n')))
		if i >= 0 {
			line = paint(w, colours[t.rows[i].shownState()], line)
		}
		out.WriteString(line)
		out.Write(aligned.Next(1))
	}
	return out.Flush()
}

// shownState returns the state for people: "frozen" for a frozen token that the gate would
// otherwise honour.
func (r *row) shownState() string {
	if r.frozen && store.State(r.state).Counts() {
		return "frozen"
	}
	return r.state
}

// pushesOf describes the refs that the token may push to, and whether it may only append.
func pushesOf(l store.Limits) string {
	pushes := printable.Line(l.Pushes())
	if l.Access() == store.AccessAppend {
		pushes = "append only: " + pushes
	}
	return pushes
}

// shortPushes describes the limits, cut to what fits on a line. JSON has all of them.
func shortPushes(l *store.Limits) string {
	if l == nil {
		return "anything"
	}
	return shortened(pushesOf(*l))
}

// alsoOf describes the other projects that a token is for, empty for none.
func alsoOf(also store.Also) string {
	var kinds []string
	for _, access := range []string{store.AccessRead, store.AccessWrite} {
		if projects := also.With(access); projects != nil {
			kinds = append(kinds, access+" "+strings.Join(projects, ", "))
		}
	}
	return strings.Join(kinds, "; ")
}

func shortened(cell string) string {
	const most = 60
	if len(cell) > most {
		cell = cell[:most] + "..."
	}
	return cell
}

func orDash(cell string) string {
	if cell == "" {
		return "-"
	}
	return printable.Line(cell)
}

// shortAge returns the age in its largest unit: 7s, 3m, 5h, 12d.
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
