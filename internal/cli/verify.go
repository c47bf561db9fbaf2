// The verify command: whether a token is valid, and for what.

package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/store"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name: "verify", Category: forPeople,
		Usage:  "print the project and task of the token on standard input; exit status 1 if it is not valid",
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
		if e.Token == token {
			found = &e
		}
	})
	if err != nil {
		return err
	}
	if found == nil {
		return fmt.Errorf("token %s is not valid", token.Fingerprint())
	}
	fmt.Printf("project %q, task %q\n", found.Project, found.Task)
	return nil
}
