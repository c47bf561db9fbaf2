// The path command: prints the token file's path.

package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

func pathCommand() *cli.Command {
	return &cli.Command{
		Name:   "path",
		Usage:  "print the token file's path",
		Action: path,
	}
}

func path(c *cli.Context) error {
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	fmt.Println(file.Path)
	return nil
}
