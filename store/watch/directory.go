// Follows changes in a directory, which need not exist.

package watch

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// followedDirectory watches a directory, or its nearest existing ancestor while the
// directory does not exist.
type followedDirectory struct {
	path    string
	watched string
	watcher *fsnotify.Watcher // nil if inotify could not be started, for example because the user has no instance left
}

// follow renews the watch, since another directory may now be at the path.
func (f *followedDirectory) follow() error {
	if f.watcher == nil {
		watcher, err := fsnotify.NewWatcher()
		if err != nil {
			return fmt.Errorf("watch directory %s: %w", f.path, err)
		}
		f.watcher = watcher
	}

	if f.watched != "" {
		_ = f.watcher.Remove(f.watched) // an error means that the directory is gone
		f.watched = ""
	}

	for {
		nearest := nearestDirectory(f.path)
		if err := f.watcher.Add(nearest); err != nil {
			if nearest != nearestDirectory(f.path) {
				continue // it was removed in between
			}
			return fmt.Errorf("watch directory %s: %w", nearest, err)
		}
		if nearest == nearestDirectory(f.path) {
			f.watched = nearest
			return nil
		}
		_ = f.watcher.Remove(nearest)
	}
}

// concerns reports whether an event can be about this file. It is false for an event of another
// file in the directory, such as the lock file.
func (f *followedDirectory) concerns(event fsnotify.Event, file string) bool {
	return f.watched != f.path || event.Name == f.watched || event.Name == file
}

// events returns the channel of events, or nil while nothing can be watched: a nil channel never
// sends.
func (f *followedDirectory) events() <-chan fsnotify.Event {
	if f.watcher == nil {
		return nil
	}
	return f.watcher.Events
}

func (f *followedDirectory) errors() <-chan error {
	if f.watcher == nil {
		return nil
	}
	return f.watcher.Errors
}

func (f *followedDirectory) close() {
	if f.watcher != nil {
		f.watcher.Close()
	}
}

// nearestDirectory returns path if it is a directory, and otherwise its nearest ancestor that
// is one.
func nearestDirectory(path string) string {
	for {
		if info, err := os.Stat(path); err == nil && info.IsDir() || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}
