// terok-gate-hook is the OCI hook that gives every container its own git token for
// exactly as long as the container lives. Container runtimes call it; people use
// terok-gate, in cmd/terok-gate.
package main

import "os"

func main() { os.Exit(run(os.Args[1:])) }
