// The restore command: lists what was deleted or forced away, and brings it back.

package main

import (
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/desk"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/printable"
)

func restoreCommand() *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "show the kept old tips of refs that were deleted or forced; with REF, bring one back",
		ArgsUsage: "PROJECT [REF]",
		Description: `REF is a branch, a full ref name, or the name of an old tip, as --json shows it.

   terok-gate restore demo
   terok-gate restore demo agent-1`,
		Flags: []cli.Flag{
			reposFlag(),
			&cli.StringFlag{Name: "forget", Usage: "drop the kept old tips of the branch or full ref name `REF` or, if REF is the name of an old tip, only that tip"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON, for programs"},
		},
		Action: restore,
	}
}

func restore(c *cli.Context) error {
	forget := c.String("forget")
	switch {
	case c.NArg() < 1 || c.NArg() > 2:
		return misuse.Errorf("takes PROJECT and optionally REF, after the flags: see terok-gate restore --help")
	case c.NArg() == 2 && (c.IsSet("forget") || c.Bool("json")):
		return misuse.Errorf("give only one of REF, --forget and --json")
	}
	gate, err := gateOf(c, c.Args().First())
	if err != nil {
		return err
	}

	name := c.Args().Get(1)
	if c.IsSet("forget") {
		name = forget
	} else if name == "" {
		return listKept(c, gate)
	}
	ref, err := desk.FullRef(name)
	if err != nil {
		return misuse.Errorf("%w", err)
	}
	if c.IsSet("forget") {
		dropped, err := gate.Forget(c.Context, ref)
		if err == nil {
			fmt.Printf("forgot %d\n", len(dropped))
		}
		return err
	}
	change, err := gate.Restore(c.Context, ref)
	if err == nil {
		fmt.Println(printable.Line(desk.ShortRef(change.Ref) + ": " + whatMoved(change)))
	}
	return err
}

// listKept prints the kept old tips, newest first.
func listKept(c *cli.Context, gate desk.Gate) error {
	kept, err := gate.Kept(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printIndented(append([]desk.Kept{}, kept...))
	}
	if len(kept) == 0 {
		fmt.Fprintln(os.Stderr, "terok-gate: no old tips of project "+c.Args().First()+" are kept")
		return nil
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "REF\tCOMMIT\tAGE")
	for _, k := range kept {
		fmt.Fprintf(out, "%s\t%s\t%s\n", printable.Line(desk.ShortRef(k.Ref)), short(k.Commit), shortAge(time.Since(k.Time)))
	}
	return out.Flush()
}
