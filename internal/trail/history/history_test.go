package history

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"terok-gate-hook/internal/trail"
)

func TestTheLastMoveOfARefIsFoundInAllFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trail.log")
	for _, e := range []trail.Event{
		{Event: trail.Moved, Project: "demo", Ref: "refs/heads/old", New: "1", Task: "a"},
		{Event: trail.Moved, Project: "demo", Ref: "refs/heads/main", New: "1", Task: "a"},
	} {
		if err := trail.Write(path, e); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	err := trail.Write(path,
		trail.Event{Event: trail.Moved, Project: "demo", Ref: "refs/heads/main", New: "2", Task: "b"},
		trail.Event{Event: trail.Moving, Project: "demo", Ref: "refs/heads/main", New: "3", Task: "c"},
		trail.Event{Event: trail.Moved, Project: "other", Ref: "refs/heads/main", New: "4", Task: "d"},
	)
	if err != nil {
		t.Fatal(err)
	}

	last, err := LastMoves([]string{path}, "demo")
	if err != nil || len(last) != 2 || last["refs/heads/old"].Task != "a" || last["refs/heads/main"].Task != "b" {
		t.Errorf("%v, %v", last, err)
	}
	if none, err := LastMoves([]string{path + ".none"}, "demo"); err != nil || len(none) != 0 {
		t.Errorf("of a file that is not there: %v, %v", none, err)
	}
}

func TestMovesAreFoundInWhatWasSetAsideAndUnderEarlierNames(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "trail.log")
	theirs := filepath.Join(dir, "gate", "trail.log")

	aside := func(path, to string) {
		t.Helper()
		if err := os.Rename(path, path+to); err != nil {
			t.Fatal(err)
		}
		if filepath.Ext(to) != ".gz" {
			return
		}

		text, err := os.ReadFile(path + to)
		if err != nil {
			t.Fatal(err)
		}

		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		if _, err := w.Write(text); err != nil || w.Close() != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+to, packed.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	write := func(path string, e trail.Event) {
		t.Helper()
		at = at.Add(time.Second)
		e.Time = at
		line, err := json.Marshal(e)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(path), 0o700)
		}
		if err != nil {
			t.Fatal(err)
		}

		file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.Write(append(line, "\nno event\n"...)); err != nil {
			t.Fatal(err)
		}
	}

	move := func(project, task string) trail.Event {
		return trail.Event{Event: trail.Moved, Project: project, Task: task, Ref: "refs/heads/main"}
	}

	write(theirs, move("demo", "of an earlier demo"))
	write(path, trail.Event{Event: trail.Removed, Project: "demo"})
	write(path, trail.Event{Event: trail.Added, Project: "demo", Task: "added"})
	write(theirs, move("demo", "a"))
	aside(theirs, "-20261101.gz")
	write(theirs, move("demo", "b"))
	write(path, trail.Event{Event: trail.Renamed, Project: "tool", Old: "demo"})
	aside(path, ".3.gz")
	write(theirs, move("demo", "of a later demo"))
	write(theirs, move("tool", "c"))
	aside(theirs, ".1")
	write(path, move("tool", "d"))

	moves, err := Moves([]string{path, theirs}, "tool")
	var tasks []string
	for _, e := range moves {
		tasks = append(tasks, e.Task)
	}
	if want := []string{"added", "a", "b", "c", "d"}; err != nil || !slices.Equal(tasks, want) {
		t.Errorf("moves of %q, want %q, %v", tasks, want, err)
	}

	// A file that cannot be read is reported; the others are still read.
	if err := os.WriteFile(path+".4.gz", []byte("no gzip"), 0o600); err != nil {
		t.Fatal(err)
	}
	if moves, err := Moves([]string{path, theirs}, "tool"); err == nil || len(moves) != len(tasks) {
		t.Errorf("with a file that is broken: %v, %v", moves, err)
	}
}
