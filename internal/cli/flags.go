// Flags that several commands have. (Those of stages are in settings.go.)

package cli

import "github.com/urfave/cli/v2"

func projectFlag() cli.Flag {
	return &cli.StringFlag{Name: "project", Usage: "the project `P`"}
}

func taskFlag() cli.Flag {
	return &cli.StringFlag{Name: "task", Usage: "the task `T`"}
}

func dryRunFlag() cli.Flag {
	return &cli.BoolFlag{Name: "dry-run", Usage: "say what would be done, and do nothing"}
}
