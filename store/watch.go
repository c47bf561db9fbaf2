// Revoking a token the moment its process dies, for programs that stay.

package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watch sweeps until ctx is done: at once, and whenever a process dies that a token
// is tied to, even if nobody collects its exit status. It holds a pidfd for each
// such token and follows the token file, whoever writes it, wherever it is made,
// removed or replaced, its folder included. While nothing happens it sleeps.
//
// It tells report of each sweep that revoked tokens, and of errors, the same error
// once. After an error it goes on, a second later. When ctx is done, it looks a last
// time. It returns an error only if it cannot begin.
func (f File) Watch(ctx context.Context, report func(revoked []Entry, err error)) error {
	path, err := filepath.Abs(f.Path)
	if err != nil {
		return fmt.Errorf("watch the token file: %w", err)
	}
	f.Path = path
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch the token file %s: %w", f.Path, err)
	}
	defer events.Close()
	folder := followedFolder{path: filepath.Dir(f.Path), events: events}
	processes := watchedProcesses{died: make(chan struct{}, 1), pidfds: map[tiedToken]*os.File{}}
	defer processes.watch(nil)
	retry := time.NewTimer(0)
	var lastError string
	for {
		revoked, err := f.look(&folder, processes)
		if len(revoked) > 0 {
			report(revoked, nil)
		}
		retry.Stop()
		if err == nil {
			lastError = ""
		} else {
			retry.Reset(time.Second)
			if err.Error() != lastError {
				lastError = err.Error()
				report(nil, err)
			}
		}
		for stirred := false; !stirred; {
			select {
			case <-ctx.Done():
				// For what died just now: nobody else may be left to see it.
				revoked, err := f.look(&folder, processes)
				if len(revoked) > 0 {
					report(revoked, nil)
				}
				if err != nil && err.Error() != lastError {
					report(nil, err)
				}
				return nil
			case <-processes.died:
				stirred = true
			case <-retry.C:
				stirred = true
			case <-folder.events.Errors: // events were lost: look
				stirred = true
			case event := <-folder.events.Events:
				// In the folder itself only the token file matters, not the lock.
				stirred = folder.watched != folder.path || event.Name == folder.watched || event.Name == f.Path
			}
		}
	}
}

// look brings what is watched up to date with the token file, and sweeps if it saw
// a dead process.
func (f File) look(folder *followedFolder, processes watchedProcesses) (revoked []Entry, err error) {
	if err := folder.follow(); err != nil { // before reading: no change falls in between
		return nil, err
	}
	entries, err := f.Entries()
	if err != nil {
		return nil, err
	}
	dead := processes.watch(entries)
	if len(dead) == 0 {
		return nil, nil
	}
	return f.Revoke(func(e Entry) bool { return e.Process != nil && dead[tiedToken{e.Token, *e.Process}] })
}

// tiedToken is a token as long as it is tied to one process.
type tiedToken struct {
	Token
	Process
}

// watchedProcesses are the living processes of tokens.
type watchedProcesses struct {
	died   chan struct{}
	pidfds map[tiedToken]*os.File
}

// watch watches the living processes of these entries and no others, and returns
// the dead.
func (w watchedProcesses) watch(entries []Entry) (dead map[tiedToken]bool) {
	dead = map[tiedToken]bool{}
	current := map[tiedToken]bool{}
	for _, e := range entries {
		if e.Process == nil {
			continue
		}
		tied := tiedToken{e.Token, *e.Process}
		current[tied] = true
		if held := w.pidfds[tied]; held != nil {
			if isOver(held) {
				dead[tied] = true
			}
			continue
		}
		switch life, pidfd := here().look(e.Process); life {
		case Dead:
			dead[tied] = true
		case Alive:
			w.pidfds[tied] = os.NewFile(uintptr(pidfd), "pidfd")
			go w.wait(w.pidfds[tied])
		}
	}
	for tied, pidfd := range w.pidfds {
		if !current[tied] {
			pidfd.Close() // ends its wait
			delete(w.pidfds, tied)
		}
	}
	return dead
}

// isOver tells whether the process of a pidfd that we hold is over.
func isOver(pidfd *os.File) (over bool) {
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return false
	}
	_ = conn.Control(func(fd uintptr) { over, _ = readable(int(fd)) })
	return over
}

// wait tells died when the process is over. The wait is epoll(7), by way of the Go
// runtime, which polls descriptors that do not block.
func (w watchedProcesses) wait(pidfd *os.File) {
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return // closed
	}
	err = conn.Read(func(fd uintptr) bool {
		over, err := readable(int(fd))
		return over || err != nil
	})
	if err != nil {
		return // closed
	}
	select {
	case w.died <- struct{}{}:
	default: // somebody has told already
	}
}

// followedFolder is a folder that need not exist: while it does not, its nearest
// ancestor is watched.
type followedFolder struct {
	path    string
	watched string
	events  *fsnotify.Watcher
}

// follow watches the folder anew: another one may stand there by now.
func (f *followedFolder) follow() error {
	if f.watched != "" {
		_ = f.events.Remove(f.watched) // an error says that it was gone
		f.watched = ""
	}
	for {
		nearest := nearestFolder(f.path)
		if err := f.events.Add(nearest); err != nil {
			if nearest != nearestFolder(f.path) {
				continue // it went away in between
			}
			return fmt.Errorf("watch folder %s: %w", nearest, err)
		}
		if nearest == nearestFolder(f.path) {
			f.watched = nearest
			return nil
		}
		_ = f.events.Remove(nearest)
	}
}

// nearestFolder returns path, or else the nearest ancestor of it that is a folder.
func nearestFolder(path string) string {
	for {
		if info, err := os.Stat(path); err == nil && info.IsDir() || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}
