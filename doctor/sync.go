// Checks that the timer of terok-gate sync runs, if there is one.

package doctor

import (
	"strings"

	"terok-gate-hook/engines"
)

func (e *examination) sync() {
	timer, sync, there, err := e.Place.SyncState(e.ctx)
	journal := "journalctl --unit " + engines.SyncUnitName
	if e.Place.User {
		journal = "journalctl --user --unit " + engines.SyncUnitName
	}

	const active = "ActiveState=active"
	switch {
	case !there: // install was not asked for a timer
	case err != nil || !strings.Contains(timer, active):
		e.warn(engines.SyncTimerName+" does not run: upstream's commits do not come in", e.systemctl(engines.SyncTimerName, "enable", "--now"))
	case strings.Contains(sync, "ActiveState=failed"):
		e.warn("the last "+engines.SyncUnitName+" failed, for at least one project", journal+" says why")
	default:
		e.ok(engines.SyncTimerName + " runs")
	}
}
