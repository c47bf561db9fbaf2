// The verify command: whether a token is valid, and for what.

package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/internal/printable"
	"terok-gate-hook/store"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:   "verify",
		Usage:  "print project, task and limits of the token on standard input; exit status 1 if it is not valid",
		Action: verify,
	}
}

func verify(c *cli.Context) error {
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	token, err := readToken()
	if err != nil {
		return err
	}
	saveMemory()
	var found *store.Entry
	err = file.Each(func(e store.Entry) {
		if e.Is(token) {
			found = &e
		}
	})
	if err != nil {
		return err
	}
	if found == nil {
		return fmt.Errorf("token %s is not valid", token.Fingerprint())
	}
	limits := ""
	if found.Limited() {
		limits = ", pushes to " + printable.Line(found.Pushes())
	}
	fmt.Printf("project %q, task %q%s\n", found.Project, found.Task, limits)
	return nil
}
