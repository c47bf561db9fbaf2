// Watches the processes that tokens are tied to, as many as there are descriptors for.

package watch

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"terok-gate-hook/store"
)

const (
	// spares is the number of descriptors for everything but processes: the token file, its
	// directory and lock, a new file, events, a log.
	spares = 32
	// turn is the largest number of unwatched processes that one look at the file checks.
	turn = 1000
)

// processes holds the processes that the file's tokens are tied to. Only one goroutine may use it.
type processes struct {
	died chan struct{} // receives after a watched process has died

	tied      map[store.Token]*tied
	look      int           // counts the looks at the file
	watched   int           // the number of watched processes, each with a descriptor
	unwatched int           // the number of living processes that cannot be watched, for example for lack of descriptors
	next      int           // how many of the unwatched processes the next look skips
	untold    []store.Token // tokens that newlyUnwatched has not reported yet
	why       error         // why their processes cannot be watched
}

// tied is the process of one token.
type tied struct {
	process   store.Process
	dead      atomic.Bool
	forget    func() // ends the watch; nil if there is none
	unwatched bool   // it is alive, but cannot be watched for now
	seen      int    // the last look that found the token in the file
}

func newProcesses() *processes {
	return &processes{died: make(chan struct{}, 1), tied: map[store.Token]*tied{}}
}

// follow watches the living processes of the file's tokens, and ends the watch of all other
// processes. dead is the number of tokens whose process has died.
func (p *processes) follow(file store.File) (dead int, err error) {
	p.look++

	p.watched = 0
	for _, t := range p.tied {
		if t.forget != nil && !t.dead.Load() {
			p.watched++
		}
	}

	most := mostWatched()
	waiting := 0
	err = file.Each(func(e store.Entry) {
		if e.Process == nil {
			return
		}
		t := p.tied[e.Token]
		isNew := t == nil || t.process != *e.Process
		if isNew {
			t.stop()
			t = &tied{process: *e.Process}
			p.tied[e.Token] = t
		}
		t.seen = p.look

		due := isNew
		if t.unwatched {
			due = p.next <= waiting && waiting < p.next+turn
			waiting++
		}
		if due {
			wasUnwatched := t.unwatched
			p.watch(t, most)
			if t.unwatched && !wasUnwatched {
				p.untold = append(p.untold, e.Token)
			}
		}
		if t.dead.Load() {
			dead++
		}
	})
	if err != nil {
		return 0, err
	}

	if p.next += turn; p.next >= waiting {
		p.next = 0
	}

	p.unwatched = 0
	for token, t := range p.tied {
		if t.seen != p.look {
			t.stop()
			delete(p.tied, token)
		} else if t.unwatched {
			p.unwatched++
		}
	}
	return dead, nil
}

// mostWatched returns how many processes may be watched at once. When the program started, Go's
// package os raised the soft limit of descriptors to the hard limit.
func mostWatched() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return max(0, int(min(limit.Cur, 1<<30))-spares)
}

// watch checks a process that is not watched yet, and watches it if it is alive.
func (p *processes) watch(t *tied, most int) {
	forget, err := t.process.OnDeath(func() {
		t.dead.Store(true)
		select {
		case p.died <- struct{}{}:
		default: // another death is already signalled
		}
	})

	if err == nil && p.watched >= most && !t.dead.Load() {
		forget()
		err = fmt.Errorf("only %d can be watched (the limit of open files is %d)", most, most+spares)
	}

	t.unwatched = err != nil && !errors.Is(err, store.ErrUnseen)
	switch {
	case t.unwatched:
		p.why = err
	case err == nil && !t.dead.Load():
		t.forget = forget
		p.watched++
	}
}

// stop ends the watch of a process, if there is one.
func (t *tied) stop() {
	if t != nil && t.forget != nil {
		t.forget()
	}
}

// sawDie reports whether the entry is tied to a process that has died.
func (p *processes) sawDie(e store.Entry) bool {
	t := p.tied[e.Token]
	return t != nil && t.dead.Load() && e.Process != nil && *e.Process == t.process
}

// newlyUnwatched returns an error that names the tokens whose processes cannot be watched, except
// those that it has named before. It returns nil if there are none.
func (p *processes) newlyUnwatched() error {
	if len(p.untold) == 0 {
		return nil
	}

	const most = 100
	var names strings.Builder
	for i, token := range p.untold {
		if i == most {
			fmt.Fprintf(&names, " and %d more", len(p.untold)-most)
			break
		}
		names.WriteString(" " + token.Fingerprint())
	}
	n := len(p.untold)
	p.untold = nil

	return fmt.Errorf("cannot watch the processes of %d tokens; checking up to %d of them each second instead: %w; tokens:%s",
		n, turn, p.why, names.String())
}

func (p *processes) stop() {
	for _, t := range p.tied {
		t.stop()
	}
}
