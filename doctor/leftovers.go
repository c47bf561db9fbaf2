// Finds files and containers that hooks and commands left behind because they were killed.

package doctor

import (
	"strings"

	"terok-gate-hook/internal/printable"
)

func (e *examination) leftovers() {
	fine := true
	path, err := e.tokens.Leftover(false)
	switch {
	case err != nil && path != "":
		return // the lock is held: reported already
	case path != "":
		fine = false
		e.fix(Warning, path+", with tokens in it, was left by a writer that was killed", "the next hook removes it", func() (string, error) {
			_, err := e.tokens.Leftover(true)
			return "removed", err
		})
	}

	// A probe container that still runs belongs to another doctor, and ends by itself.
	names, err := e.command("podman", "ps", "--all", "--filter", "name=^"+probeName,
		"--filter", "status=created", "--filter", "status=exited", "--format", "{{.Names}}")
	if err == nil && strings.TrimSpace(names) != "" {
		fine = false
		probes := strings.Fields(names)
		e.fix(Warning, "probe containers of a doctor that was killed: "+strings.Join(probes, " "), printable.Shell(append([]string{"podman", "rm", "--force", "--time", "0"}, probes...)...), func() (string, error) {
			_, err := e.command("podman", append([]string{"rm", "--force", "--time", "0"}, probes...)...)
			return "removed", err
		})
	}

	if fine {
		e.ok("none")
	}
}
