// terok-gate-hook is an OCI hook that gives every container its own git-gate token
// for exactly as long as the container lives.
//
// This file calls the command line, in internal/cli, and hands it the hook
// definitions and units that install writes.
package main

import (
	"embed"
	"os"

	"terok-gate-hook/internal/cli"
)

// templates are the definitions and units, as they stand in the repository.
//
//go:embed hooks.d/*.json systemd/*/*.service
var templates embed.FS

func main() {
	os.Exit(cli.Run(os.Args, templates))
}
