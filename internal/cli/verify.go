// The verify command: whether a token is valid, and for what.

package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/store"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name: "verify", Category: forPeople,
		Usage:  "print project and task of the token on standard input; exit status 1 if it is not valid",
		Action: verify,
	}
}

func verify(c *cli.Context) error {
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	token, err := tokenFrom(os.Stdin)
	if err != nil {
		return err
	}
	entries, err := file.Entries()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Token == token {
			fmt.Printf("project %q, task %q\n", e.Project, e.Task)
			return nil
		}
	}
	return fmt.Errorf("token %s is not valid", token.Fingerprint())
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
