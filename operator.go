// The commands that people use: create, revoke, list, verify and path.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/store"
)

func create(c *cli.Context) error {
	file, err := tokens(c)
	if err != nil {
		return err
	}
	grant := store.Grant{Project: c.String("project"), Task: c.String("task")}
	if err := grant.Valid(); err != nil {
		return misusef("create: %w", err)
	}
	token, err := file.CreateToken(grant.Project, grant.Task)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	logged := event{Event: "issued", Project: grant.Project, Task: grant.Task, Fingerprint: token.Fingerprint()}
	openLog(c.String("log-file")).event(logged)
	if _, err := fmt.Println(string(token)); err != nil {
		// Nobody has seen it, so nobody could revoke it.
		_, revokeErr := file.Revoke(func(e store.Entry) bool { return e.Token == token })
		return fmt.Errorf("create: print the token: %w", errors.Join(err, revokeErr))
	}
	return nil
}

func revoke(c *cli.Context) error {
	file, err := tokens(c)
	if err != nil {
		return err
	}
	project, task, container := c.String("project"), c.String("task"), c.String("container")
	byTask, byContainer := c.IsSet("project") || c.IsSet("task"), c.IsSet("container")
	var revoked []store.Entry
	switch {
	case byTask && byContainer:
		return misusef("revoke: give --project and --task, or --container, not both")
	case byTask && !(c.IsSet("project") && c.IsSet("task")):
		return misusef("revoke: --project and --task go together")
	case byTask:
		revoked, err = file.RevokeTokenForTask(project, task)
	case byContainer && container == "":
		return misusef("revoke: --container is empty")
	case byContainer:
		revoked, err = file.Revoke(func(e store.Entry) bool { return e.Container == container })
	default:
		var token store.Token
		if token, err = tokenFrom(os.Stdin); err == nil {
			revoked, err = file.Revoke(func(e store.Entry) bool { return e.Token == token })
		}
	}
	log := openLog(c.String("log-file"))
	for _, e := range revoked {
		log.event(eventOf("revoked", e))
	}
	if err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	fmt.Printf("revoked %d\n", len(revoked))
	return nil
}

func verify(c *cli.Context) error {
	file, err := tokens(c)
	if err != nil {
		return err
	}
	token, err := tokenFrom(os.Stdin)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	entries, err := file.Entries()
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	for _, e := range entries {
		if e.Token == token {
			fmt.Printf("project %q, task %q\n", e.Project, e.Task)
			return nil
		}
	}
	return fmt.Errorf("verify: token %s is not valid", token.Fingerprint())
}

// tokenFrom reads a token; as an argument, everybody on the machine could see it.
func tokenFrom(r io.Reader) (store.Token, error) {
	const limit = 4096
	content, err := io.ReadAll(io.LimitReader(r, limit+1))
	token := strings.TrimSpace(string(content))
	switch {
	case err != nil:
		return "", fmt.Errorf("read a token from standard input: %w", err)
	case len(content) > limit:
		return "", fmt.Errorf("read a token from standard input: more than %d bytes", limit)
	case token == "":
		return "", errors.New("read a token from standard input: there is none")
	}
	return store.Token(token), nil
}

func path(c *cli.Context) error {
	file, err := tokens(c)
	if err != nil {
		return err
	}
	fmt.Println(file.Path)
	return nil
}

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
	if c.Bool("json") {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		return out.Encode(rows)
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
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
