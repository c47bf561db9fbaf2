// Checks that the gate or a service revokes orphaned tokens at once.

package doctor

import (
	"strings"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/store"
)

func (e *examination) service() {
	if e.settings.GateSocket != "" {
		e.gateSweeps()
		return
	}
	if !e.Place.Systemd {
		e.ok("no systemd here to run reap --watch: the next hook of any container revokes orphans")
		return
	}

	runs, err := e.Place.WatchState(e.ctx)
	if err != nil || !strings.Contains(runs, "ActiveState=active") {
		remedy := e.install()
		if was, there, err := e.Place.Registration(); err == nil && there {
			remedy = e.ourselves("install", "--no-watch=false")
			if was.Watch {
				remedy = e.systemctl(engines.WatchUnitName, "enable", "--now") + "; if it fails: " + e.systemctl(engines.WatchUnitName, "status")
			}
		}
		e.warn(engines.WatchUnitName+" does not run: the token of a dead container is not revoked until the next hook of any container runs", remedy)
		return
	}

	if !e.isWatched(runs) {
		remedy := e.install()
		if e.given.TokenFile != "" {
			remedy += ", if " + e.TokenFile + " is the right one"
		}
		e.warn(engines.WatchUnitName+" watches another token file than "+e.TokenFile, remedy)
		return
	}

	if e.Place.User && !engines.Lingers() {
		e.warn(engines.WatchUnitName+" and your containers end when you log out", "loginctl enable-linger")
		return
	}
	e.ok(engines.WatchUnitName + " runs")
}

// gateSweeps is the check for hooks with a gate of ours: the gate itself revokes orphans.
func (e *examination) gateSweeps() {
	switch {
	case e.theGate == nil: // reported already
	case e.Place.User && strings.Contains(e.gateUnit(), "ActiveState=active") && !engines.Lingers():
		e.warn(engines.GateUnitName+" and your containers end when you log out", "loginctl enable-linger")
	default:
		e.ok("the gate revokes orphans at once")
	}
}

// systemctl returns a systemctl command for a service.
func (e *examination) systemctl(unit string, args ...string) string {
	words := []string{"systemctl"}
	if e.Place.User {
		words = append(words, "--user")
	}
	return printable.Shell(append(append(words, args...), unit)...)
}

// isWatched reports whether a service with this ExecStart= watches our token file.
func (e *examination) isWatched(execStart string) bool {
	if strings.Contains(execStart, " --token-file ") {
		return strings.Contains(execStart, " --token-file "+e.TokenFile+" ")
	}
	usual, err := store.TokenFilePath()
	return err == nil && usual == e.TokenFile
}
