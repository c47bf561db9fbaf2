// Makes systemd run sync regularly: fills in terok-gate-sync.service and .timer of systemd/.

package engines

import (
	"context"
	"fmt"
	"os"
	"time"

	units "terok-gate-hook/systemd"
)

// The units by which systemd runs sync.
const (
	SyncUnitName  = "terok-gate-sync.service"
	SyncTimerName = "terok-gate-sync.timer"
)

// allUnits are the names of all units that install and sync can write.
var allUnits = append([]string{SyncTimerName, SyncUnitName}, unitNames...)

// SyncPlan plans a timer by which systemd runs a command at once, and then again and again, an interval
// after the last run has ended. If interval is 0, it plans to remove the timer.
func (p Place) SyncPlan(command []string, interval time.Duration) (plan Plan, err error) {
	plan.place = p
	if interval == 0 {
		plan.Remove, err = installed(p.syncPaths())
		return plan, err
	}

	for _, unit := range []struct{ name, key, value string }{
		{SyncUnitName, "ExecStart=", commandLine(command)},
		{SyncTimerName, "OnUnitInactiveSec=", fmt.Sprintf("%dms", interval.Milliseconds())},
	} {
		template := "system/" + unit.name
		if p.User {
			template = "user/" + unit.name
		}
		content, err := units.Files.ReadFile(template)
		if err != nil {
			return plan, err
		}
		plan.Write = append(plan.Write, File{Path: p.unit(unit.name), Content: []byte(mark + replaceLine(string(content), unit.key, unit.value))})
	}
	return plan, checkOurs(plan.Write)
}

// syncPaths returns the paths of the units by which sync runs: first the timer's, which starts the service.
func (p Place) syncPaths() []string {
	return append(p.unitPaths(SyncTimerName), p.unitPaths(SyncUnitName)...)
}

// SyncState reports whether a timer for sync is installed, and returns the properties of the timer and of
// the service that it starts, as WatchState does.
func (p Place) SyncState(ctx context.Context) (timer, sync string, there bool, err error) {
	if _, err := os.Lstat(p.unit(SyncTimerName)); err != nil {
		return "", "", false, nil
	}
	if timer, err = p.show(ctx, SyncTimerName); err == nil {
		sync, err = p.show(ctx, SyncUnitName)
	}
	return timer, sync, true, err
}
