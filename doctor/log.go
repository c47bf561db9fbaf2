// Checks the hooks' log file, which is the trail (internal/trail), and reports the hooks' last errors.

package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
)

func (e *examination) log() {
	if e.LogFile == "" && len(e.definitions) > 0 && e.Place.User && !e.stopped["hooks"] {
		e.warn(fmt.Sprintf("%s names no log file, and there is no default for a rootless engine's hook: the reasons of refusals are %s", e.definitions[0].Path, elsewhere()), e.install())
		e.complaints("")
		return
	}
	file := cmp.Or(e.LogFile, trail.DefaultFile())
	if file == "" || e.logFile(file) {
		e.complaints(file)
	}
}

// elsewhere says where hooks without a log file record refusals.
func elsewhere() string {
	if trail.HasSystemLog() {
		return "only in the system log"
	}
	return "not recorded"
}

// logFile checks the log file, and reports whether hooks can probably write to it.
func (e *examination) logFile(file string) bool {
	directory := filepath.Dir(file)
	if _, err := os.Stat(directory); errors.Is(err, fs.ErrNotExist) {
		return true // hooks make it together with the file
	}

	if err := trail.CheckFile(file); errors.Is(err, fs.ErrPermission) {
		e.broken(err.Error(), owners(file))
		return false
	}

	// Hooks do not follow a link in the log's place, so the file behind the link is not the log.
	info, err := os.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true
	case err != nil:
		e.broken(err.Error(), owners(file))
		return false
	case !info.Mode().IsRegular():
		e.broken(file+" is not a regular file", printable.Shell("mv", file, file+".away")+", or name another one: "+e.install("--log-file", "F"))
		return false
	}

	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		e.warn(fmt.Sprintf("%s has mode %04o: others can see who works on what", file, mode), asOwner(info, "chmod", "0600", file))
	}
	return true
}

// complaints reports what hooks refused or failed to do within a day, as recorded in the file and the
// journal.
func (e *examination) complaints(file string) {
	places := "the journal"
	if file != "" {
		places = file + " and the journal"
	}

	events, err := trail.Complaints(e.ctx, file)
	if err != nil {
		e.warn(err.Error(), "read the system log: journalctl -t terok-gate-hook")
	}

	events = slices.DeleteFunc(events, func(ev trail.Event) bool { return time.Since(ev.Time) >= 24*time.Hour })
	count := len(events)
	if count == 0 {
		e.ok(places + ": no hook refused or failed within a day")
		return
	}

	for i, ev := range events[max(0, count-mostComplaints):] {
		text := fmt.Sprintf("%s: %s", ev.Time.Local().Format(time.DateTime), ev.Error)
		if i == 0 {
			text = fmt.Sprintf("hooks that refused or failed within a day: %d, the last ones: %s", count, text)
		}
		e.warn(text, "more: "+e.why())
	}
}

// why returns the command that shows all refusals and failures of hooks.
func (e *examination) why() string {
	return e.withLogFile("why")
}

// mostComplaints is how many of the last complaints are shown.
const mostComplaints = 3

// reason returns the last error of hooks for a task, or "" if there is none.
func (e *examination) reason(task string) string {
	events, _ := trail.Complaints(e.ctx, cmp.Or(e.LogFile, trail.DefaultFile()))
	for _, event := range slices.Backward(events) {
		if event.Task == task {
			return event.Error
		}
	}
	return ""
}
