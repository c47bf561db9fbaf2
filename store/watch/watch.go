// Package watch revokes a token the moment its process dies, for long-running programs.
//
// It holds a pidfd for each living process that a token is tied to, as far as there are
// descriptors, and follows the token file through changes by any program, also when the file
// or its directory is created, removed or replaced. It sleeps while nothing happens.
package watch

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"terok-gate-hook/store"
)

const (
	// again is the interval of looks while events cannot be relied on.
	again = time.Second
	// rests is how long a change of the file waits for the next look, in multiples of the
	// time that the last look took. Otherwise, frequent changes of a large file would keep a
	// core busy. Deaths do not wait.
	rests = 9
)

// Tokens sweeps until ctx is done: at once, and whenever a process that a token is tied to
// dies, even if its exit status is not collected. When ctx is done, it sweeps a last time.
//
// It calls report for each sweep that revoked tokens, and for errors, once for the same
// error. After an error it continues a second later, and while the file cannot be followed
// it reads the file every second. If a process cannot be watched, for lack of descriptors
// for example, it reports an error that names the token, and checks such processes in turn.
// It returns an error only if it cannot start.
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
	reportAll := func(revoked []store.Entry, err error) {
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
		reportAll(revoked, err)
		if err != nil || processes.unwatched > 0 {
			timer.Reset(again)
		}

		rested := time.After(rests * time.Since(began))
		for stirred, changed := false, false; !stirred; {
			select {
			case <-ctx.Done():
				// This also revokes the tokens of processes that died just now, before
				// their callbacks ran.
				reportAll(file.Sweep())
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
	followErr := directory.follow() // before reading, so that no change is missed in between
	dead, err := processes.follow(file)
	if err == nil && dead > 0 {
		revoked, err = file.Revoke(processes.sawDie)
	}
	if err == nil {
		err = followErr
	}
	return revoked, err
}
