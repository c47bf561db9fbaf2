package trail

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestComplaintsOfHooksAloneAreReadFromAllFiles(t *testing.T) {
	t.Setenv("PATH", "") // no journal
	path := filepath.Join(t.TempDir(), "trail.log")
	write := func(e Event) {
		if err := Write(path, e); err != nil {
			t.Fatal(err)
		}
	}

	want := []Event{
		{Event: Refused, Container: "a", Error: "prestart: refused: no"},
		{Event: Failed, Container: "b", Error: "precreate: no \n\"such\" luck"},
	}

	write(want[0])
	write(Event{Event: Issued, Container: "a"})
	if err := os.Rename(path, aside(path, 1)); err != nil {
		t.Fatal(err)
	}
	write(Event{Event: Refused, From: "127.0.0.1:9", Error: "the gate's"})
	write(Event{Event: Failed, From: "reap", Error: "a sweep's"})
	write(want[1])

	events, err := Complaints(t.Context(), path)
	if diff := cmp.Diff(want, events, cmpopts.IgnoreFields(Event{}, "Time")); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}

	if err := os.Symlink("/etc/passwd", filepath.Join(filepath.Dir(path), "link")); err != nil {
		t.Fatal(err)
	}
	if events, err := Complaints(t.Context(), filepath.Join(filepath.Dir(path), "link")); err == nil {
		t.Errorf("Complaints follows a link: %+v", events)
	}
}

// A message to the system log is read back from the journal as it was sent.
func TestAMessageToTheSystemLogIsReadBack(t *testing.T) {
	e := Event{Event: Refused, Container: "c1", Project: `a "b" \`, Task: "x=y z\n", Error: `prestart: annotation "terok.acess" is not known` + strings.Repeat("é", 2000)}
	got, ok := parse(strings.SplitN(message(e), ": ", 2)[1])
	want := e
	want.Error = shortened(e.Error)
	if diff := cmp.Diff(want, got); diff != "" || !ok {
		t.Errorf("%v (-want +got):\n%s", ok, diff)
	}
	if !got.isSame(e) {
		t.Error("the message is read as another event")
	}
	for _, broken := range []string{"refused container=", "refused container=x", `refused error="`, "refused x"} {
		if e, ok := parse(broken); ok {
			t.Errorf("%s is read as %+v", broken, e)
		}
	}
}
