package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/engines"
)

// Doctor must find a timer that was stopped, and a timer whose service has failed.
func TestDoctorFindsASyncThatFailsOrDoesNotRun(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	systemd := func(timer, service string) {
		t.Helper()
		answers := "#!/bin/sh\nfor unit; do :; done\ncase $unit in *.timer) echo ActiveState=" + timer + " ;; *) echo ActiveState=" + service + " ;; esac\n"
		must(t, os.WriteFile(filepath.Join(dir, "systemctl"), []byte(answers), 0o755))
	}
	check := func() (found []Finding) {
		e := examination{
			Doctor: Doctor{Place: engines.Place{Units: dir, Systemd: true}}, ctx: t.Context(),
			report: func(f Finding) { found = append(found, f) }, check: "sync",
		}
		e.sync()
		return found
	}

	systemd("inactive", "inactive")
	if found := check(); len(found) > 0 {
		t.Errorf("without a timer: %v", found)
	}
	must(t, os.WriteFile(filepath.Join(dir, engines.SyncTimerName), nil, 0o644))
	finds(t, check(), "sync", Warning, "terok-gate-sync.timer does not run")
	systemd("active", "failed")
	found := check()
	finds(t, found, "sync", Warning, "the last terok-gate-sync.service failed")
	if remedy := found[0].Remedy; !strings.HasPrefix(remedy, "journalctl --unit terok-gate-sync.service") {
		t.Errorf("the remedy is %q", remedy)
	}
	for _, service := range []string{"inactive", "activating"} {
		systemd("active", service)
		finds(t, check(), "sync", OK, "terok-gate-sync.timer runs")
	}
}
