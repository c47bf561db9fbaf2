package trail

import (
	"os"
	"path/filepath"
	"testing"
)

func TestTheLastMoveOfARefIsFoundInAllFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trail.log")
	for _, e := range []Event{
		{Event: Moved, Project: "demo", Ref: "refs/heads/old", New: "1", Task: "a"},
		{Event: Moved, Project: "demo", Ref: "refs/heads/main", New: "1", Task: "a"},
	} {
		if err := Write(path, e); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	err := Write(path,
		Event{Event: Moved, Project: "demo", Ref: "refs/heads/main", New: "2", Task: "b"},
		Event{Event: Moving, Project: "demo", Ref: "refs/heads/main", New: "3", Task: "c"},
		Event{Event: Moved, Project: "other", Ref: "refs/heads/main", New: "4", Task: "d"},
	)
	if err != nil {
		t.Fatal(err)
	}

	last, err := LastMoves(path, "demo")
	if err != nil || len(last) != 2 || last["refs/heads/old"].Task != "a" || last["refs/heads/main"].Task != "b" {
		t.Errorf("%v, %v", last, err)
	}
	if none, err := LastMoves(path+".none", "demo"); err != nil || len(none) != 0 {
		t.Errorf("of a file that is not there: %v, %v", none, err)
	}
}
