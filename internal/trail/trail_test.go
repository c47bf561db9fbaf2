package trail

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

func read(t *testing.T, path string) []Event {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	events, err := Recent(file)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	written := []Event{
		{Event: Issued, Container: "a", Project: "demo", Task: "1", Fingerprint: "01234567"},
		{Event: Refused, Container: "b", Project: "a\n\"\x1b[31m\u009b", Error: "no"},
	}
	for _, e := range written {
		if err := Write(path, e); err != nil {
			t.Fatal(err)
		}
	}
	events := read(t, path)
	if diff := cmp.Diff(written, events, cmpopts.IgnoreFields(Event{}, "Time")); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
	for _, e := range events {
		if e.Time.IsZero() {
			t.Errorf("without a time: %+v", e)
		}
	}
}

// A log file may be years long, and then is not read in full. It may hold anything.
func TestTheEndOfALongLogFileIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	long := strings.Repeat(`{"event":"issued","project":"old"}`+"\n", 100_000) + "not an event\n"
	if err := os.WriteFile(path, []byte(long), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, Event{Event: Revoked, Project: "new"}); err != nil {
		t.Fatal(err)
	}
	events := read(t, path)
	if last := events[len(events)-1]; last.Event != Revoked || last.Project != "new" {
		t.Errorf("the last event is %+v", last)
	}
	if len(events) < 10_000 || len(events) > 50_000 {
		t.Errorf("it reads %d events", len(events))
	}
	for _, e := range events[:len(events)-1] {
		if e.Event != Issued || e.Project != "old" {
			t.Fatalf("half a line is read as %+v", e)
		}
	}
}

// The last megabyte can be one line, or the end of a line.
func TestAnOverlongLineIsNoEvent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 3<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	if events := read(t, path); len(events) > 0 {
		t.Errorf("it is read as %+v", events)
	}
}

// The kernel takes only the beginning of the write, as on a full disk.
func TestAPartialWriteIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(reader)
	page, err := unix.FcntlInt(uintptr(reader), unix.F_SETPIPE_SZ, os.Getpagesize())
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(path, Event{Event: Failed, Error: strings.Repeat("x", page)}); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("the error is %v", err)
	}
}

// A full disk takes only the beginning of a line. The next line must not be appended to that.
func TestAPartialLineIsRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := Write(path, Event{Event: Moved, Ref: "refs/heads/one"}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}

	// No file may grow beyond this limit: the kernel takes what fits, as on a full disk.
	signal.Ignore(unix.SIGXFSZ)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: uint64(info.Size()) + 30, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	err = Write(path, Event{Event: Moved, Ref: "refs/heads/two"})
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("the error is %v", err)
	}

	if err := Write(path, Event{Event: Moved, Ref: "refs/heads/three"}); err != nil {
		t.Fatal(err)
	}
	var refs []string
	for _, e := range read(t, path) {
		refs = append(refs, e.Ref)
	}
	if diff := cmp.Diff([]string{"refs/heads/one", "refs/heads/three"}, refs); diff != "" {
		t.Errorf("(-want +read):\n%s", diff)
	}
}
