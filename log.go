// The system log and the audit trail. Neither may ever fail or hold up a hook.

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"terok-gate-hook/store"
)

// event is one line of the audit trail.
type event struct {
	Time        time.Time `json:"time"`
	Event       string    `json:"event"` // issued, revoked, swept, refused or failed
	Container   string    `json:"container,omitempty"`
	Project     string    `json:"project,omitempty"`
	Task        string    `json:"task,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"`
	Error       string    `json:"error,omitempty"`
}

// eventLog is where events go: to the system log, and to a file if it has a path.
type eventLog struct{ path string }

func openLog(path string) eventLog { return eventLog{path} }

func (l eventLog) event(e event) {
	e.Time = time.Now().UTC().Truncate(time.Millisecond)
	toSystemLog(e)
	if l.path == "" {
		return
	}
	if err := appendLine(l.path, e); err != nil {
		printError(fmt.Errorf("log file: %w", err))
	}
}

// revoked logs one event of this name for each entry.
func (l eventLog) revoked(name string, entries []store.Entry) {
	for _, e := range entries {
		l.event(event{
			Event: name, Container: e.Container, Project: e.Project, Task: e.Task,
			Fingerprint: e.Token.Fingerprint(),
		})
	}
}

// appendLine appends the event in one write(2), which O_APPEND makes safe with many
// writers on a local file system.
func appendLine(path string, e event) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	line = printableJSON(line)
	// Not as an os.File, which would wait for the reader of a fifo that is full.
	file, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(file)
	if _, err := unix.Write(file, append(line, '\n')); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// toSystemLog sends the event to /dev/log, if somebody listens there, in the form
// of RFC 3164 that glibc's syslog(3) uses. log/syslog would wait when the socket's
// buffer is full; a container start does not.
func toSystemLog(e event) {
	const daemon, err, notice = 3 << 3, 3, 5
	severity := notice
	if e.Error != "" {
		severity = err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "<%d>%s terok-gate-hook[%d]: %s", daemon|severity, time.Now().Format(time.Stamp), os.Getpid(), e.Event)
	for _, pair := range [][2]string{
		{"container", e.Container}, {"project", e.Project}, {"task", e.Task}, {"fingerprint", e.Fingerprint}, {"error", e.Error},
	} {
		if pair[1] != "" {
			// Entries of other programs may hold anything, line breaks included, and
			// more than fits into a datagram.
			fmt.Fprintf(&text, " %s=%.1000q", pair[0], pair[1])
		}
	}
	socket, sockErr := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if sockErr != nil {
		return
	}
	defer unix.Close(socket)
	_ = unix.Sendto(socket, []byte(text.String()), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: "/dev/log"})
}

// printableJSON escapes what a terminal would act on: entries of other programs may
// hold anything. encoding/json leaves control characters beyond ASCII as they are.
func printableJSON(text []byte) []byte {
	var out []byte
	for _, r := range string(text) {
		if r < 0x80 || unicode.IsPrint(r) {
			out = utf8.AppendRune(out, r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			out = fmt.Appendf(out, `\u%04x`, unit)
		}
	}
	return bytes.ReplaceAll(out, []byte{0x7f}, []byte(`\u007f`))
}

// oneLine makes an error safe to print: an image chooses the names in it.
func oneLine(s string) string {
	var out strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			out.WriteRune(r)
		} else {
			out.WriteString(strings.Trim(fmt.Sprintf("%q", r), "'"))
		}
	}
	return out.String()
}
