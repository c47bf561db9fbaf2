// Chooses the token file that a command works on.

package main

import (
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/store"
)

// tokenFile returns the token file that the command line names, or else the default.
func tokenFile(c *cli.Context) (store.File, error) {
	return orDefault(store.File{Path: c.String("token-file"), LockTimeout: c.Duration("lock-timeout")})
}

// saveMemory makes the garbage collector run early. It is for commands that read a whole token file
// and then end. Apart from the file, which can be large, most of their memory is garbage.
func saveMemory() { debug.SetGCPercent(5) }

// saveTime makes the garbage collector run only when there is much garbage. It is for commands that read
// many refs, and then end.
func saveTime() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(256 << 20)
}

// orDefault returns the token file, with the default path if it has none.
func orDefault(file store.File) (_ store.File, err error) {
	if file.Path == "" {
		file.Path, err = store.TokenFilePath()
	}
	return file, err
}
