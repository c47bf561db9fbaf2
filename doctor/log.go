// Whether the hooks can say what is wrong, and what they said last.

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

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
)

func (e *examination) log() {
	if e.LogFile == "" {
		e.systemLog()
		return
	}
	folder := filepath.Dir(e.LogFile)
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		e.broken(fmt.Sprintf("folder %s is not there, so the hooks cannot write the log file %s", folder, e.LogFile), printable.Shell("mkdir", "-p", "-m", "0700", folder))
		return
	}
	if err := trail.CheckFile(e.LogFile); errors.Is(err, fs.ErrPermission) {
		e.broken(err.Error(), owners(e.LogFile))
		return
	}
	// Hooks do not write where a link leads, and what is there is not the log.
	file, err := os.OpenFile(e.LogFile, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0) // it may be a fifo
	if errors.Is(err, unix.ELOOP) {
		e.noLog()
		return
	}
	if errors.Is(err, fs.ErrNotExist) {
		e.ok(e.LogFile + " is not there yet")
		return
	}
	if err != nil {
		e.broken(err.Error(), owners(e.LogFile))
		return
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		e.noLog()
		return
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		e.warn(fmt.Sprintf("%s has mode %04o: others can see who works on what", e.LogFile, mode), asOwner(info, "chmod", "0600", e.LogFile))
	}
	events, err := trail.Recent(file)
	if err != nil {
		e.broken(err.Error(), printable.Shell("mv", e.LogFile, e.LogFile+".away"))
		return
	}
	complaints := slices.DeleteFunc(events, func(ev trail.Event) bool {
		return ev.Event != trail.Refused && ev.Event != trail.Failed || time.Since(ev.Time) >= 24*time.Hour
	})
	count := len(complaints)
	if count == 0 {
		e.ok(e.LogFile + ": no hook refused or failed within a day")
		return
	}
	last := complaints[count-1]
	e.warn(fmt.Sprintf("hooks that refused or failed within a day: %d, the last one %s: %s", count, last.Time.Local().Format(time.DateTime), last.Error),
		"to see them all: "+printable.Shell("grep", "-E", "refused|failed", e.LogFile))
}

// noLog is for what stands in the log file's place.
func (e *examination) noLog() {
	e.broken(e.LogFile+" is not a regular file", printable.Shell("mv", e.LogFile, e.LogFile+".away")+", or name another one: "+e.install("--log-file", "F"))
}

// reason is what the hooks wrote into their log file about a task that they refused or
// failed; empty if nothing is found.
func (e *examination) reason(task string) string {
	if e.LogFile == "" {
		return ""
	}
	file, err := os.OpenFile(e.LogFile, os.O_RDONLY|unix.O_NONBLOCK, 0) // it may be a fifo
	if err != nil {
		return ""
	}
	defer file.Close()
	events, _ := trail.Recent(file)
	for _, event := range slices.Backward(events) {
		if event.Task == task && event.Error != "" {
			return event.Error
		}
	}
	return ""
}

// systemLog checks where hooks that have no log file can say what is wrong: what they
// print is shown to nobody.
func (e *examination) systemLog() {
	switch {
	case !trail.HasSystemLog():
		e.warn("nobody listens on /dev/log, and there is no log file: a hook that refuses or fails leaves no reason anywhere", e.withLogFile())
	case hasJournal():
		e.ok("what the hooks say is in the journal: journalctl -t terok-gate-hook")
	default:
		e.ok("what the hooks say is in the system log, tag terok-gate-hook")
	}
}

func hasJournal() bool {
	_, err := os.Stat("/run/systemd/journal")
	return err == nil
}

// wayToReasons is where the hooks have said why they refused or failed a task.
func (e *examination) wayToReasons(task string) string {
	switch {
	case !trail.HasSystemLog():
		return "to learn why: " + e.withLogFile() + " && " + e.again()
	case hasJournal():
		return "to learn why: journalctl -t terok-gate-hook | grep " + task
	}
	return "to learn why, look for " + task + " in the system log"
}

// withLogFile has install give the hooks a log file.
func (e *examination) withLogFile() string {
	folder := "/var/log"
	if e.Place.User {
		home, err := os.UserHomeDir()
		if err != nil {
			return e.install("--log-file", "F")
		}
		folder = cmp.Or(os.Getenv("XDG_STATE_HOME"), filepath.Join(home, ".local/state"))
	}
	install := e.install("--log-file", filepath.Join(folder, "terok-gate-hook.log"))
	if _, err := os.Stat(folder); err != nil {
		install = printable.Shell("mkdir", "-p", folder) + " && " + install
	}
	return install
}
