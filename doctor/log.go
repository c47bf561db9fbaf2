// What the hooks themselves complained about last.

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/trail"
)

func (e *examination) log() {
	if e.LogFile == "" {
		e.ok("no log file; what the hooks say is in journalctl -t terok-gate-hook")
		return
	}
	file, err := os.OpenFile(e.LogFile, os.O_RDONLY|unix.O_NONBLOCK, 0) // it may be a fifo
	if errors.Is(err, fs.ErrNotExist) {
		e.ok(e.LogFile + " is not there yet")
		return
	}
	if err != nil {
		e.broken(err.Error(), "see its owner and mode: the hooks run as you")
		return
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		e.broken(e.LogFile+" is not a regular file", "name another one: terok-gate-hook --log-file F install")
		return
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		e.warn(fmt.Sprintf("%s has mode %04o: others can see who works on what", e.LogFile, mode), "chmod 0600 "+e.LogFile)
	}
	events, err := trail.Recent(file)
	if err != nil {
		e.broken(err.Error(), "move it away")
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
		"the others: grep -E 'refused|failed' "+e.LogFile)
}
