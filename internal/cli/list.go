// The list command.

package cli

import (
	"encoding/json"
	"os"
	"slices"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/internal/printable"
	"terok-gate-hook/store"
)

func listCommand() *cli.Command {
	return &cli.Command{
		Name: "list", Category: forPeople,
		Usage:  "list what tokens there are, without showing any",
		Flags:  []cli.Flag{projectFlag(), taskFlag(), &cli.BoolFlag{Name: "json", Usage: "print JSON, for programs"}},
		Action: list,
	}
}

func list(c *cli.Context) error {
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	entries, err := file.Entries()
	if err != nil {
		return err
	}
	rows := listedOf(c.Context, slices.DeleteFunc(entries, func(e store.Entry) bool {
		return c.IsSet("project") && e.Project != c.String("project") || c.IsSet("task") && e.Task != c.String("task")
	}))
	if c.Bool("json") {
		out, err := json.MarshalIndent(rows, "", "  ")
		if err == nil {
			_, err = os.Stdout.Write(append(printable.JSON(out), '\n'))
		}
		return err
	}
	return printTable(os.Stdout, rows)
}
