package doctor

import (
	"path/filepath"
	"testing"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
)

// Root's hooks have a default log file, which need not exist. The hooks of a rootless engine have no default.
func TestDoctorLooksWhereTheHooksWriteByDefault(t *testing.T) {
	testenv.NeedRoot(t)
	onAThread(t, func() {
		ourOwn(t, "/var/log")
		const usual = "/var/log/terok-gate/trail.log"
		finds(t, oneCheck("log", Doctor{}), "log", OK, usual+" and the journal: no hook refused or failed")
		noError(t, trail.Write(usual, trail.Event{Event: trail.Refused, Container: "a", Error: "prestart: no"}))
		found := oneCheck("log", Doctor{Binary: "/nothing/terok-gate-hook"})
		finds(t, found, "log", Warning, "within a day: 1, the last ones: ")
		if want := "more: /nothing/terok-gate why"; found[0].Remedy != want {
			t.Errorf("the remedy is %s, not %s", found[0].Remedy, want)
		}
	})
}

func TestDoctorSaysThatARootlessHookHasNoLogFile(t *testing.T) {
	var found []Finding
	e := examination{ctx: t.Context(), check: "log", report: func(f Finding) { found = append(found, f) }}
	e.Place.User, e.Binary = true, "/nothing/terok-gate-hook"
	e.definitions = []engines.Registered{{Path: "/hooks/99-terok-gate-prestart.json"}}
	e.log()
	finds(t, found, "log", Warning, "/hooks/99-terok-gate-prestart.json names no log file")
}

func TestDoctorShowsTheLastThreeComplaintsOfADay(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // without journalctl: the machine's journal has what other tests wrote
	path := filepath.Join(t.TempDir(), "log")
	for _, why := range []string{"one", "two", "three", "four"} {
		must(t, trail.Write(path, trail.Event{Event: trail.Refused, Container: why, Error: why}))
	}
	must(t, trail.Write(path, trail.Event{Event: trail.Refused, From: "127.0.0.1", Error: "the gate's"}))
	found := oneCheck("log", Doctor{LogFile: path, Binary: "/nothing/terok-gate-hook"})
	if len(found) != 3 {
		t.Fatalf("findings: %+v", found)
	}
	for i, why := range []string{"two", "three", "four"} {
		finds(t, found[i:i+1], "log", Warning, ": "+why)
	}
}
