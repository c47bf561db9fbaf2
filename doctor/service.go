// Whether orphans die at once.

package doctor

import (
	"strings"

	"terok-gate-hook/podman"
	"terok-gate-hook/store"
)

func (e *examination) service() {
	if !e.Place.Systemd {
		e.ok("no systemd here to run reap --watch: an orphan's token goes with the next hook of any container")
		return
	}
	runs, err := e.Place.Watch(e.ctx)
	if err != nil || !strings.Contains(runs, "ActiveState=active") {
		status := "systemctl status "
		if e.Place.User {
			status = "systemctl --user status "
		}
		e.warn(podman.UnitName+" does not run: an orphan's token lives until the next hook of any container",
			"terok-gate-hook install, or see "+status+podman.UnitName)
		return
	}
	if !e.isWatched(runs) {
		e.warn(podman.UnitName+" watches another token file than "+e.TokenFile, "terok-gate-hook install")
		return
	}
	if e.Place.User && !podman.Lingers() {
		e.warn(podman.UnitName+" and your containers end when you log out", "loginctl enable-linger")
		return
	}
	e.ok(podman.UnitName + " runs")
}

// isWatched tells whether a service with this ExecStart= watches our token file.
func (e *examination) isWatched(execStart string) bool {
	if strings.Contains(execStart, " --token-file ") {
		return strings.Contains(execStart, " --token-file "+e.TokenFile+" ")
	}
	usual, err := store.TokenFilePath()
	return err == nil && usual == e.TokenFile
}
