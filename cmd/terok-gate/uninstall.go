// The uninstall command: removes what install wrote.

package main

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

func uninstallCommand() *cli.Command {
	return &cli.Command{
		Name:  "uninstall",
		Usage: "remove what install wrote, and say which tokens remain",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "revoke", Usage: "also revoke the tokens of containers, including running containers"},
			dryRunFlag(),
		},
		Action: uninstall,
	}
}

func uninstall(c *cli.Context) error {
	place, err := engines.OwnPlace()
	if err != nil {
		return err
	}

	plan, err := place.Removal()
	if err != nil {
		return err
	}
	if err := asInstalled(c); err != nil {
		return err
	}
	file, err := tokenFile(c)
	if err != nil {
		return err
	}

	// Tokens are revoked while the hooks' definitions still say where the tokens are: if that fails,
	// uninstall can be tried again. Tokens are revoked again after the hooks are removed, since a
	// container may have started in between.
	if c.Bool("revoke") {
		if err := revokeContainers(c, file); err != nil {
			return err
		}
	}

	if len(plan.Remove) == 0 {
		fmt.Println("nothing to remove")
	}
	installed, _, _ := place.Registration()
	if err := carryOut(c, plan); err != nil {
		return err
	}
	switch {
	case installed.Fleet.RepositoryGate != "":
		fmt.Println("the token file stays:", file.Path)
	case installed.Gate:
		fmt.Println("the repositories stay, in "+installed.Repos+", and so does the token file:", file.Path)
	}
	if c.Bool("revoke") && !c.Bool("dry-run") {
		if _, err := revokeNow(c, file); err != nil {
			return err
		}
	}

	tokens, err := listTokens(c.Context, file, anyToken)
	if err != nil {
		return err
	}
	if len(tokens.rows) > 0 {
		fmt.Printf("tokens that remain in %s (a running container keeps its hooks until it is started again):\n", file.Path)
		return printTable(os.Stdout, tokens)
	}
	return nil
}

// revokeContainers revokes the tokens of containers. After uninstall, only the hooks of containers
// that run now would still revoke tokens.
func revokeContainers(c *cli.Context, file store.File) error {
	if c.Bool("dry-run") {
		n := 0
		err := file.Each(func(e store.Entry) {
			if ofContainer(e) {
				n++
			}
		})
		if err != nil {
			return err
		}
		fmt.Printf("would revoke tokens of containers: %d\n", n)
		return nil
	}
	n, err := revokeNow(c, file)
	if err != nil {
		return err
	}
	fmt.Printf("revoked tokens of containers: %d\n", n)
	return nil
}

func revokeNow(c *cli.Context, file store.File) (n int, err error) {
	revoked, err := file.Revoke(ofContainer)
	recordAll(c, trail.Revoked, revoked)
	return len(revoked), err
}
