// allocations is terok-gate-hook, and prints on standard error how often it allocated
// memory from main on.
package main

import (
	"fmt"
	"os"
	"runtime"

	"terok-gate-hook/internal/cli"
)

func main() {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	status := cli.Run(os.Args, nil)
	runtime.ReadMemStats(&after)
	fmt.Fprintln(os.Stderr, after.Mallocs-before.Mallocs)
	os.Exit(status)
}
