// Package watch revokes a token as soon as its process dies, in a long-running program.
//
// It holds a pidfd for each living process that a token is tied to, as far as there are
// descriptors. It follows changes of the token file by any program, even if the file or its
// directory is created, removed or replaced. It sleeps while nothing happens.
package watch

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"terok-gate-hook/store"
)

const (
	// again is the interval between looks at the file after an error, and while some process cannot
	// be watched.
	again = time.Second
	// A change of the file causes a look only after a pause since the last look. rests is the
	// shortest pause, in multiples of the time that the last look took. Without the pause, frequent
	// changes of a large file would keep a core busy. A death causes a look at once.
	rests = 9
)

// Tokens sweeps at once, and whenever a process that a token is tied to dies, even if the exit
// status of the process is not collected. A sweep revokes the tokens of dead processes. When ctx is
// done, Tokens sweeps a last time and returns.
//
// It calls report with the tokens that a sweep revoked, and with each error that differs from the
// last one. After an error, it tries again a second later. So while the file cannot be followed,
// Tokens reads the file every second. If a process cannot be watched, for example for lack of
// descriptors, it reports an error that names the token, and checks such processes in turn.
// Tokens returns an error only if it cannot start.
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
				// This also revokes the tokens of processes that have just died, and whose
				// callbacks have not run yet.
				reportAll(file.Sweep())
				return nil
			case <-processes.died:
				stirred = true
			case <-timer.C:
				stirred = true
			case <-directory.errors(): // events were lost, so a look is due
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

// sweep watches the processes that the token file names now, and revokes the tokens of those that
// have died.
func sweep(file store.File, directory *followedDirectory, processes *processes) (revoked []store.Entry, err error) {
	followErr := directory.follow() // before the file is read, so that no change after the read is missed
	dead, err := processes.follow(file)
	if err == nil && dead > 0 {
		revoked, err = file.Revoke(processes.sawDie)
	}
	if err == nil {
		err = followErr
	}
	return revoked, err
}
