// Flags of several commands. (Those of stages are settings.)

package cli

import "github.com/urfave/cli/v2"

func projectFlag() cli.Flag {
	return &cli.StringFlag{Name: "project", Usage: "the project `P`"}
}

func taskFlag() cli.Flag {
	return &cli.StringFlag{Name: "task", Usage: "the task `T`"}
}

func dryRunFlag() cli.Flag {
	return &cli.BoolFlag{Name: "dry-run", Usage: "say what would be done, do nothing"}
}
