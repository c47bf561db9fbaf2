// Whether orphans are revoked at once, by the service.

package doctor

import (
	"strings"

	"terok-gate-hook/internal/printable"
	"terok-gate-hook/podman"
	"terok-gate-hook/store"
)

func (e *examination) service() {
	if !e.Place.Systemd {
		e.ok("no systemd here to run reap --watch: the next hook of any container revokes orphans")
		return
	}
	runs, err := e.Place.Watch(e.ctx)
	if err != nil || !strings.Contains(runs, "ActiveState=active") {
		remedy := e.install()
		if was, there, err := e.Place.Registration(); err == nil && there {
			remedy = e.ourselves("install", "--no-watch=false")
			if was.Watch {
				remedy = e.systemctl("enable", "--now") + "; if it fails: " + e.systemctl("status")
			}
		}
		e.warn(podman.UnitName+" does not run: an orphan is not revoked until the next hook of any container", remedy)
		return
	}
	if !e.isWatched(runs) {
		remedy := e.install()
		if e.told.TokenFile != "" {
			remedy += ", if " + e.TokenFile + " is the right one"
		}
		e.warn(podman.UnitName+" watches another token file than "+e.TokenFile, remedy)
		return
	}
	if e.Place.User && !podman.Lingers() {
		e.warn(podman.UnitName+" and your containers end when you log out", "loginctl enable-linger")
		return
	}
	e.ok(podman.UnitName + " runs")
}

// systemctl is a command for the service.
func (e *examination) systemctl(args ...string) string {
	words := []string{"systemctl"}
	if e.Place.User {
		words = append(words, "--user")
	}
	return printable.Shell(append(append(words, args...), podman.UnitName)...)
}

// isWatched tells whether a service with this ExecStart= watches our token file.
func (e *examination) isWatched(execStart string) bool {
	if strings.Contains(execStart, " --token-file ") {
		return strings.Contains(execStart, " --token-file "+e.TokenFile+" ")
	}
	usual, err := store.TokenFilePath()
	return err == nil && usual == e.TokenFile
}
