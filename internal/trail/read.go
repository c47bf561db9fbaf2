// Reads the events of hooks that refused or failed, from the trail's files and the journal.

package trail

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/untrusted"
)

// Complaints returns the events of hooks that refused or failed, oldest first. It reads the trail's
// file, the youngest files that were set aside, and the journal, which also has events that could
// not be written to a file. A file or journal that does not exist is skipped. If Complaints returns
// an error, it also returns the events that it could read.
func Complaints(ctx context.Context, path string) (events []Event, err error) {
	for i := leastAside; i >= 0 && path != ""; i-- {
		file := path
		if i > 0 {
			file = aside(path, i)
		}
		found, readErr := complaintsIn(file)
		if readErr != nil && !errors.Is(readErr, fs.ErrNotExist) {
			err = errors.Join(err, readErr)
		}
		events = append(events, found...)
	}

	logged, journalErr := journal(ctx)
	if path != "" { // most events are in the file, so the journal may be missing
		journalErr = nil
	}
	for _, e := range logged {
		if !slices.ContainsFunc(events, e.isSame) {
			events = append(events, e)
		}
	}
	slices.SortStableFunc(events, func(a, b Event) int { return a.Time.Compare(b.Time) })
	return events, errors.Join(err, journalErr)
}

// isComplaint reports whether the event says that a hook refused or failed. Events of the gate and
// of commands that refuse or fail have a From, and those of hooks have none.
func (e Event) isComplaint() bool {
	return (e.Event == Refused || e.Event == Failed) && e.Error != "" && e.From == ""
}

// isSame reports whether two events, of which one is from the journal, are the same event. In the
// journal, the time differs a little and a long error is cut off.
func (e Event) isSame(other Event) bool {
	apart := e.Time.Sub(other.Time).Abs()
	return apart < 5*time.Second && e.Event == other.Event && e.Container == other.Container && shortened(e.Error) == shortened(other.Error)
}

// complaintsIn reads a file of the trail. It skips lines that are not events.
func complaintsIn(path string) (events []Event, err error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0) // it may be a fifo
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s: is not a regular file", path))
	}

	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e Event
		if !bytes.Contains(lines.Bytes(), []byte(`"error"`)) { // parsing all lines would take longer
			continue
		}
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.isComplaint() {
			events = append(events, e)
		}
	}
	return events, lines.Err()
}

// journal reads the messages of this user's hooks. Any user can send messages under the hooks'
// name, but the journal records the uid of the sender.
func journal(ctx context.Context) (events []Event, err error) {
	program, err := exec.LookPath("journalctl")
	if err != nil {
		return nil, nil
	}

	var output untrusted.Output
	cmd := exec.CommandContext(ctx, program, "--quiet", "--no-pager", "--output", "json", "--lines", "1000", "--priority", "err",
		"SYSLOG_IDENTIFIER="+hookProgram, fmt.Sprintf("_UID=%d", os.Geteuid()))
	cmd.Stdout = &output
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("journalctl: %w", err)
	}

	for line := range bytes.Lines(output.Bytes()) {
		var entry struct {
			Message string `json:"MESSAGE"`
			Time    string `json:"__REALTIME_TIMESTAMP"`
		}
		if json.Unmarshal(line, &entry) != nil {
			continue
		}

		micros, _ := strconv.ParseInt(entry.Time, 10, 64)
		if e, ok := parse(entry.Message); ok && e.isComplaint() {
			e.Time = time.UnixMicro(micros).UTC()
			events = append(events, e)
		}
	}
	return events, nil
}

// parse reads a message of toSystemLog: the event, and names with quoted values.
func parse(message string) (e Event, ok bool) {
	e.Event, message, _ = strings.Cut(message, " ")
	for message != "" {
		name, rest, _ := strings.Cut(message, "=")
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return e, false
		}

		value, _ := strconv.Unquote(quoted)
		switch name {
		case "container":
			e.Container = value
		case "project":
			e.Project = value
		case "task":
			e.Task = value
		case "error":
			e.Error = value
		case "from":
			e.From = value
		}

		message = strings.TrimPrefix(rest[len(quoted):], " ")
	}
	return e, true
}
