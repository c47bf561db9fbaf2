// Package history reads from the trail's files who moved which refs. The hooks' program links
// package trail, but not this package.
package history

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/trail"
)

// Moves returns the events by which refs of a project moved, oldest first. It reads the trails at
// the paths, and the files that package trail or logrotate(8) has set aside from them, compressed
// with gzip or not. It skips lines that are not events, and trails that do not exist. If it returns
// an error, it also returns the events that it could read.
//
// The first event is the making of the project, if the trails have it. Events under an earlier name
// of the project are included; events of an earlier, removed project of the same name are not.
func Moves(paths []string, project string) (moves []trail.Event, err error) {
	var names []trail.Event
	err = eachEvent(paths, func(e trail.Event) bool { return slices.Contains(ofNames, e.Event) }, &names)
	names = inOrder(names)

	was := lives(names, project)
	readErr := eachEvent(paths, func(e trail.Event) bool {
		return (e.Event == trail.Moved || e.Event == trail.Added) && slices.ContainsFunc(was, func(l life) bool { return l.has(e) })
	}, &moves)
	return inOrder(moves), errors.Join(err, readErr)
}

// LastMoves returns, by ref, the last event by which each ref of a project moved, from what [Moves]
// returns.
func LastMoves(paths []string, project string) (map[string]trail.Event, error) {
	moves, err := Moves(paths, project)
	last := map[string]trail.Event{}
	for _, e := range moves {
		if e.Event == trail.Moved {
			last[e.Ref] = e
		}
	}
	return last, err
}

// ofNames are the events by which projects are made, renamed and removed.
var ofNames = []string{trail.Added, trail.Renamed, trail.Removed}

// life is the time in which a project had a name.
type life struct {
	name     string
	from, to time.Time // to is zero if the project still has the name
}

func (l life) has(e trail.Event) bool {
	return e.Project == l.name && !e.Time.Before(l.from) && (l.to.IsZero() || e.Time.Before(l.to))
}

// lives returns the names that a project has had, the last one first, from the events about names.
func lives(names []trail.Event, project string) []life {
	all := []life{{name: project}}
	for _, e := range slices.Backward(names) {
		now := &all[len(all)-1]
		switch {
		case e.Event == trail.Renamed && e.Project == now.name:
			now.from = e.Time
			all = append(all, life{name: e.Old, to: e.Time})
		case e.Event != trail.Renamed && e.Project == now.name, e.Event == trail.Renamed && e.Old == now.name:
			now.from = e.Time // earlier events are another project's
			return all
		}
	}
	return all
}

func inOrder(events []trail.Event) []trail.Event {
	slices.SortStableFunc(events, func(a, b trail.Event) int { return a.Time.Compare(b.Time) })
	return events
}

// eachEvent appends the wanted events of all files of the trails to events.
func eachEvent(paths []string, wanted func(trail.Event) bool, events *[]trail.Event) (err error) {
	for _, path := range paths {
		files, listErr := filesOf(path)
		err = errors.Join(err, listErr)
		for _, file := range files {
			readErr := eventsIn(file, wanted, events)
			if readErr != nil && !errors.Is(readErr, fs.ErrNotExist) {
				err = errors.Join(err, fmt.Errorf("%s: %w", file, readErr))
			}
		}
	}
	return err
}

// filesOf returns the files of a trail, oldest first.
func filesOf(path string) (files []string, err error) {
	directory, name := filepath.Split(path)
	entries, err := os.ReadDir(directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}

	// logrotate(8) numbers files as package trail does, or dates them.
	ours := regexp.MustCompile(`^` + regexp.QuoteMeta(name) + `([.-][0-9][0-9-]*(\.gz)?)?$`)
	changed := map[string]time.Time{}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() || !ours.MatchString(entry.Name()) {
			continue
		}
		file := filepath.Join(directory, entry.Name())
		files, changed[file] = append(files, file), info.ModTime()
	}
	slices.SortStableFunc(files, func(a, b string) int { return changed[a].Compare(changed[b]) })
	return files, nil
}

// eventsIn appends the wanted events of a file to events.
func eventsIn(path string, wanted func(trail.Event) bool, events *[]trail.Event) error {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return err
	}

	var text io.Reader = file
	if filepath.Ext(path) == ".gz" {
		// The gate's user may have written the file, so it may unpack to any size.
		const most = 2 << 30
		unpacked, err := gzip.NewReader(file)
		if err != nil {
			return err
		}
		text = io.LimitReader(unpacked, most)
	}

	lines := bufio.NewScanner(text)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Bytes()
		var e trail.Event
		if hasAny(line, append(ofNames, trail.Moved)) && json.Unmarshal(line, &e) == nil && wanted(e) {
			*events = append(*events, e)
		}
	}
	return lines.Err()
}

// hasAny reports whether a line has one of the words as a value. Parsing all lines would take
// longer.
func hasAny(line []byte, words []string) bool {
	return slices.ContainsFunc(words, func(word string) bool { return bytes.Contains(line, []byte(`"`+word+`"`)) })
}
