// The create command: issues a token that belongs to no container.

package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

func createCommand() *cli.Command {
	return &cli.Command{
		Name:  "create",
		Usage: "print a new token that belongs to no container and lives until it is revoked",
		Flags: []cli.Flag{
			projectFlag(), taskFlag(),
			&cli.BoolFlag{Name: "scope", Usage: `write "scope" into the token's entry: the newer Python gates of terok accept only entries with it`},
			&cli.BoolFlag{Name: "hashed", Usage: "store only the token's SHA-256 in the token file, as hooks installed with --hashed do"},
		},
		Action: create,
	}
}

func create(c *cli.Context) error {
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	if !c.IsSet("project") || !c.IsSet("task") {
		return misuse.Errorf("--project and --task are both needed")
	}

	grant := store.Grant{Project: c.String("project"), Task: c.String("task")}
	if err := grant.Check(); err != nil {
		return misuse.Errorf("%w", err)
	}

	token, err := store.NewToken()
	if err != nil {
		return err
	}
	entry := store.Entry{Token: token, Grant: grant, Scope: c.Bool("scope")}
	if c.Bool("hashed") {
		entry.Token = store.Token(token.Key())
	}
	swept, err := file.Issue(entry)
	if err != nil {
		return err
	}

	recordAll(c, trail.Swept, swept)
	record(c.String("log-file"), trail.Event{Event: trail.Issued, Project: grant.Project, Task: grant.Task, Fingerprint: token.Fingerprint()})
	if _, err := fmt.Println(string(token)); err != nil {
		// The token was not printed, so the caller could not revoke it.
		revoked, revokeErr := file.Revoke(func(e store.Entry) bool { return e.Is(token) })
		recordAll(c, trail.Revoked, revoked)
		return fmt.Errorf("print the token: %w", errors.Join(err, revokeErr))
	}
	return nil
}
