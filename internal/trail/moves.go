// Reading who moved what, from the trail's files.

package trail

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// LastMoves returns for each ref of a project the last event by which it moved, from the
// file and from those that were set aside. Lines that are no events are skipped. A file that
// is not there has no events.
func LastMoves(path, project string) (map[string]Event, error) {
	last := map[string]Event{}
	oldest := 0
	for unix.Access(aside(path, oldest+1), unix.F_OK) == nil {
		oldest++
	}
	for i := oldest; i >= 0; i-- {
		file := path
		if i > 0 {
			file = aside(path, i)
		}
		if err := movesIn(file, project, last); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return last, err
		}
	}
	return last, nil
}

// movesIn adds a file's events.
func movesIn(path, project string, last map[string]Event) error {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return err
	}

	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e Event
		if bytes.Contains(lines.Bytes(), []byte(`"`+Moved+`"`)) && json.Unmarshal(lines.Bytes(), &e) == nil &&
			e.Event == Moved && e.Project == project {
			last[e.Ref] = e
		}
	}
	return lines.Err()
}
