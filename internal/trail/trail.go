// Package trail keeps the audit trail: which token was issued, revoked or refused, for which
// container, and what the gate did for whom. Events are first written as lines of JSON to a log
// file, if one is set, and then sent to the system log. Sending never waits: a message that the
// system log does not accept at once is lost.
//
// When [Write] returns without an error, lines about refs that move are on the disk. If a full disk
// takes only a part of the lines, that part is removed.
package trail

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/printable"
	"terok-gate-hook/store"
)

// Kinds of events.
const (
	Issued  = "issued"
	Revoked = "revoked"
	Swept   = "swept"   // revoked because its process is dead
	Refused = "refused" // the container may not have what it requested
	Failed  = "failed"
	Lacking = "lacking" // the container starts, but lacks something that the error names

	// Events of the gate.
	Fetch  = "fetch"
	Push   = "push"
	Moving = "moving" // git is about to move a ref, for a push; not sent to the system log
	Moved  = "moved"  // git has moved a ref
	Cut    = "cut"    // a request was ended early

	// Connection is an event of terok-gate forward: a container's connection to a service of the
	// host has ended.
	Connection = "connection"

	// Events of the operator's commands.
	Released = "released" // a commit was pushed to a ref of the forge
	Added    = "added"    // a project was made
	Renamed  = "renamed"  // a project has another name; Old is the earlier one
	Removed  = "removed"  // a project is gone
	Frozen   = "frozen"   // a container or a project is frozen, or everything if the event names neither
	Thawed   = "thawed"   // the opposite of Frozen
	Changed  = "changed"  // from now on, a token allows what Rights says
)

// Event is one line of the audit trail.
type Event struct {
	Time        time.Time `json:"time"` // set by Write
	Event       string    `json:"event"`
	Container   string    `json:"container,omitempty"`
	Project     string    `json:"project,omitempty"`
	Task        string    `json:"task,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"`
	Error       string    `json:"error,omitempty"`

	// Of the gate's events.
	From     string  `json:"from,omitempty"`     // where the request came from, or the operator's command
	Host     string  `json:"host,omitempty"`     // the host that vouches for the container
	Service  string  `json:"service,omitempty"`  // a service of the host
	Bytes    int64   `json:"bytes,omitempty"`    // fetched or pushed, or both ways with a service
	Duration float64 `json:"duration,omitempty"` // in seconds
	Times    int     `json:"times,omitempty"`    // how many events the line stands for; 0 means one
	Refs     int     `json:"refs,omitempty"`     // how many refs a push moved
	Ref      string  `json:"ref,omitempty"`
	Old      string  `json:"old,omitempty"`
	New      string  `json:"new,omitempty"`

	// Of events of the operator's commands.
	User   string `json:"user,omitempty"` // who ran the command: a number
	Rights string `json:"rights,omitempty"`
}

// Of returns an event about a token of the token file.
func Of(event string, e store.Entry) Event {
	return Event{
		Event: event, Container: e.Container, Project: e.Project, Task: e.Task,
		Fingerprint: e.Token.Fingerprint(),
	}
}

// hookProgram is the name of hooks in the system log.
const hookProgram = "terok-gate-hook"

// Program is the name under which this program writes to the system log.
var Program = hookProgram

// Write appends the events to the log file, unless its path is empty, and sends them to the
// system log, if there is one. It returns only errors of the log file.
func Write(file string, events ...Event) error {
	now := time.Now().UTC().Truncate(time.Millisecond)
	for i := range events {
		events[i].Time = now
	}

	var err error
	if file != "" && len(events) > 0 {
		if err = appendLines(file, events); err != nil {
			err = fmt.Errorf("log file: %w", err)
		}
	}

	for _, e := range events {
		if e.Event != Moving {
			toSystemLog(e)
		}
	}
	return err
}

// writing lets one goroutine write at a time, so that takeBack cannot remove another's lines.
var writing sync.Mutex

// appendLines appends the events with one write(2). On a local file system, O_APPEND makes
// that safe for many writers at once.
func appendLines(path string, events []Event) (err error) {
	var lines []byte
	durable := false
	for _, e := range events {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		lines = append(append(lines, printable.JSON(line)...), '\n')
		durable = durable || e.Event == Moving || e.Event == Moved || e.Event == Released
	}

	writing.Lock()
	defer writing.Unlock()

	file, err := open(path)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(file)
	defer setAside(path, file)

	n, err := unix.Write(file, lines)
	if err == nil && n < len(lines) { // a full disk, or a full fifo
		takeBack(file, n)
		err = io.ErrShortWrite
	}
	if err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	if durable {
		if err := unix.Fdatasync(file); err != nil {
			return &os.PathError{Op: "sync", Path: path, Err: err}
		}
	}
	return nil
}

// takeBack removes the last n bytes, which this process has just appended. It does nothing if
// another process has appended since. If a half line stayed, the next line would continue it, and
// be lost, too.
func takeBack(file, n int) {
	var info unix.Stat_t
	end, err := unix.Seek(file, 0, io.SeekCurrent) // where the write ended
	if err == nil && unix.Fstat(file, &info) == nil && info.Size == end {
		_ = unix.Ftruncate(file, end-int64(n))
	}
}

// CheckFile returns an error if the trail could not be written to the file. The file need
// not exist yet, but its directory must.
func CheckFile(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s: is not an absolute path", path)
	}

	directory := filepath.Dir(path)
	info, err := os.Stat(directory)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: its directory does not exist: %s", path, printable.Shell("mkdir", "-p", directory))
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	case !info.IsDir():
		return fmt.Errorf("%s: %s is not a directory", path, directory)
	}

	writable := directory
	if info, err := os.Lstat(path); err == nil {
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s: is not a regular file", path)
		}
		writable = path
	}
	if err := unix.Faccessat(unix.AT_FDCWD, writable, unix.W_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("%s: you cannot write to %s: %w", path, writable, err)
	}
	return nil
}

// systemLog is the path of the system log's socket, as in syslog(3).
const systemLog = "/dev/log"

// message returns the event in the form that glibc's syslog(3) uses (RFC 3164).
func message(e Event) string {
	const daemon, err, notice = 3 << 3, 3, 5
	severity := notice
	if e.Error != "" {
		severity = err
	}

	var text strings.Builder
	fmt.Fprintf(&text, "<%d>%s %s[%d]: %s", daemon|severity, time.Now().Format(time.Stamp), Program, os.Getpid(), e.Event)
	for _, pair := range [][2]string{
		{"container", e.Container}, {"project", e.Project}, {"task", e.Task}, {"fingerprint", e.Fingerprint}, {"error", e.Error},
		{"from", e.From}, {"host", e.Host}, {"service", e.Service}, {"ref", e.Ref}, {"old", e.Old}, {"new", e.New}, {"user", e.User}, {"rights", e.Rights}, {"times", timesOf(e)},
	} {
		if pair[1] != "" {
			// Entries of the token file that other programs wrote may contain line breaks, or more
			// than fits into a datagram.
			fmt.Fprintf(&text, " %s=%q", pair[0], shortened(pair[1]))
		}
	}
	return text.String()
}

// toSystemLog sends the event to /dev/log. Package log/syslog would wait while the socket's buffer
// is full, and so delay a container's start.
func toSystemLog(e Event) {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer unix.Close(socket)

	_ = unix.Sendto(socket, []byte(message(e)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: systemLog})
}

// shortened returns as much of a value as the system log gets.
func shortened(value string) string {
	if runes := []rune(value); len(runes) > 1000 {
		return string(runes[:1000])
	}
	return value
}

// timesOf returns the number of events that the line stands for. It returns an empty string for a
// single event.
func timesOf(e Event) string {
	if e.Times == 0 {
		return ""
	}
	return strconv.Itoa(e.Times)
}

// HasSystemLog reports whether a program listens at the system log's socket.
func HasSystemLog() bool {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(socket)

	return unix.Connect(socket, &unix.SockaddrUnix{Name: systemLog}) == nil
}

// Recent reads the events in the last megabyte of a log file, oldest first. Lines that are
// not events are skipped.
func Recent(file *os.File) ([]Event, error) {
	const tail = 1 << 20
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if _, err := file.Seek(max(0, info.Size()-tail), io.SeekStart); err != nil {
		return nil, err
	}

	var events []Event
	lines := bufio.NewScanner(io.LimitReader(file, tail))
	lines.Buffer(nil, tail+1) // one byte more, since a line that fills the buffer is an error
	for lines.Scan() {
		var e Event
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			events = append(events, e)
		}
	}
	return events, lines.Err()
}
