// Checks that git is installed and recent enough for the gate.

package doctor

import (
	"fmt"
	"strings"
)

func (e *examination) git() {
	if e.settings.GateSocket == "" {
		return
	}
	install := packages([]string{"git"}, []string{"git"}, "install git 2.39 or later")
	out, err := e.command("git", "--version")
	if err != nil {
		e.broken("the gate serves nothing without git: "+err.Error(), install)
		e.stop()
		return
	}
	said := strings.TrimSpace(out)
	var major, minor int
	// Vendors append versions of their own: "git version 2.39.5 (Apple Git-154)".
	if _, err := fmt.Sscanf(said, "git version %d.%d", &major, &minor); err != nil || major < 2 || major == 2 && minor < 39 {
		e.broken(fmt.Sprintf("%.100s: the gate needs 2.39 or later", said), install)
		return
	}
	e.ok(said)
}
