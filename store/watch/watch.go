// Package watch revokes a token the moment its process dies, for programs that stay.
//
// It holds a pidfd for each living process that a token is tied to, as far as the
// descriptors go, and follows the token file: whoever writes it, wherever it is made,
// removed or replaced, its directory included. While nothing happens it sleeps.
package watch

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"terok-gate-hook/store"
)

const (
	// again is how long it is until the next look, where no event says when.
	again = time.Second
	// rests is how many times as long as a look took changes of the file wait for the next
	// one: writers of a large file would keep a whole core busy. Deaths do not wait.
	rests = 9
)

// Tokens sweeps until ctx is done: at once, and whenever a process dies that a token
// is tied to, even if nobody collects its exit status. When ctx is done, it sweeps a
// last time.
//
// It tells report of each sweep that revoked tokens, and of errors, the same error
// once. After an error it goes on, a second later, and as long as the file cannot be
// followed, it reads it every second. A token whose process cannot be watched, for
// want of descriptors say, is named in an error and looked at in turn. It returns an
// error only if it cannot begin.
func Tokens(ctx context.Context, file store.File, report func(revoked []store.Entry, err error)) error {
	path, err := filepath.Abs(file.Path)
	if err != nil {
		return fmt.Errorf("watch the token file: %w", err)
	}
	file.Path = path
	processes := newProcesses()
	defer processes.stop()
	directory := followedDirectory{path: filepath.Dir(file.Path)}
	defer directory.close()

	var lastError string
	tell := func(revoked []store.Entry, err error) {
		if len(revoked) > 0 {
			report(revoked, nil)
		}
		if unwatched := processes.newlyUnwatched(); unwatched != nil {
			report(nil, unwatched)
		}
		switch {
		case err == nil:
			lastError = ""
		case err.Error() != lastError:
			lastError = err.Error()
			report(nil, err)
		}
	}

	timer := time.NewTimer(0)
	for {
		timer.Stop()
		began := time.Now()
		revoked, err := sweep(file, &directory, processes)
		tell(revoked, err)
		if err != nil || processes.unwatched > 0 {
			timer.Reset(again)
		}

		rested := time.After(rests * time.Since(began))
		for stirred, changed := false, false; !stirred; {
			select {
			case <-ctx.Done():
				// For what died just now, which nobody else may be left to see and which
				// no callback need have told of yet.
				tell(file.Sweep())
				return nil
			case <-processes.died:
				stirred = true
			case <-timer.C:
				stirred = true
			case <-directory.errors(): // events were lost: look
				stirred = true
			case <-rested:
				rested = nil
			case event := <-directory.events():
				changed = changed || directory.concerns(event, file.Path)
			}
			stirred = stirred || changed && rested == nil
		}
	}
}

// sweep brings what is watched up to date with the token file, and revokes the tokens
// of the dead.
func sweep(file store.File, directory *followedDirectory, processes *processes) (revoked []store.Entry, err error) {
	followErr := directory.follow() // before reading: no change falls in between
	dead, err := processes.follow(file)
	if err == nil && dead > 0 {
		revoked, err = file.Revoke(processes.sawDie)
	}
	if err == nil {
		err = followErr
	}
	return revoked, err
}
