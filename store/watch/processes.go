// The processes that tokens are tied to, each held by a pidfd as far as those go.

package watch

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"terok-gate-hook/store"
)

const (
	// spares are the descriptors that are left for all but pidfds: the token file, its
	// folder and lock, a new file, events, a log.
	spares = 32
	// turn is how many processes that no pidfd holds are looked at in one go.
	turn = 1000
)

// processes are what tokens of the file are tied to. All but waitForDeaths belongs to
// one goroutine.
type processes struct {
	died chan struct{} // says that letGoOfTheDead has work

	epoll    *os.File
	epollFd  int
	mu       sync.Mutex // held to collect
	newsOf   []uint64   // numbers of watched processes that have died
	lastNews uint64     // the number last given

	tied      map[store.Token]*tied
	byNumber  map[uint64]*tied // those that are held
	look      int              // counts the looks at the file
	unwatched int              // how many are alive and not held
	next      int              // of those, the first to be looked at next
	untold    []store.Token    // that newlyUnwatched is to name
	why       error            // why they are not watched
}

// tied is the process of one token.
type tied struct {
	process   store.Process
	number    uint64 // 0 if no pidfd is held
	pidfd     int
	dead      bool
	unwatched bool // it is alive, and no pidfd was to be had
	seen      int  // the last look at the file that saw it
}

func newProcesses() (*processes, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	p := &processes{
		died: make(chan struct{}, 1), epoll: os.NewFile(uintptr(fd), "epoll"), epollFd: fd,
		tied: map[store.Token]*tied{}, byNumber: map[uint64]*tied{},
	}
	conn, err := p.epoll.SyscallConn()
	if err != nil {
		p.epoll.Close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	go func() { _ = conn.Read(p.waitForDeaths) }()
	return p, nil
}

// waitForDeaths tells died of what epoll(7) has to say. The Go runtime calls it again
// when there is more, until the epoll is closed.
func (p *processes) waitForDeaths(uintptr) (done bool) {
	p.mu.Lock()
	p.collect()
	news := len(p.newsOf) > 0
	p.mu.Unlock()
	if news {
		select {
		case p.died <- struct{}{}:
		default: // it was told already
		}
	}
	return false
}

// collect takes what epoll(7) has to say. It does not wait.
func (p *processes) collect() {
	var events [128]unix.EpollEvent
	for {
		n, err := unix.EpollWait(p.epollFd, events[:], 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n <= 0 {
			return
		}
		for _, e := range events[:n] {
			p.newsOf = append(p.newsOf, uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32)
		}
	}
}

// letGoOfTheDead closes the pidfds of those that have died by now.
func (p *processes) letGoOfTheDead() {
	p.mu.Lock()
	p.collect()
	news := p.newsOf
	p.newsOf = nil
	p.mu.Unlock()
	for _, number := range news {
		if t := p.byNumber[number]; t != nil {
			t.dead = true
			p.letGo(t)
		}
	}
}

// watch watches the living processes of the file's tokens and no others, and counts
// the dead among them.
func (p *processes) watch(file store.File) (dead int, err error) {
	p.look++
	most := p.most()
	waiting := 0
	err = file.Each(func(e store.Entry) {
		if e.Process == nil {
			return
		}
		t := p.tied[e.Token]
		isNew := t == nil || t.process != *e.Process
		if isNew {
			if t != nil {
				p.letGo(t)
			}
			t = &tied{process: *e.Process}
			p.tied[e.Token] = t
		}
		t.seen = p.look
		inTurn := true
		if t.unwatched {
			inTurn = p.next <= waiting && waiting < p.next+turn
			waiting++
		}
		if !t.dead && t.number == 0 && (isNew || inTurn) {
			was := t.unwatched
			p.hold(t, most)
			if t.unwatched && !was {
				p.untold = append(p.untold, e.Token)
			}
		}
		if t.dead {
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
			p.letGo(t)
			delete(p.tied, token)
		} else if t.unwatched {
			p.unwatched++
		}
	}
	return dead, nil
}

// most is how many pidfds may be held. The Go runtime has raised the soft limit to
// the hard one (package os, at start).
func (p *processes) most() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(limit.Cur, 1<<30)) - spares
}

// hold looks at a process that is not held, and holds it if it is alive.
func (p *processes) hold(t *tied, most int) {
	pidfd, life, err := t.process.Open()
	t.dead, t.unwatched = life == store.Dead, err != nil
	if life != store.Alive {
		if err != nil {
			p.why = err
		}
		return
	}
	if len(p.byNumber) >= most {
		err = fmt.Errorf("there are descriptors for %d (the limit of open files is %d)", max(0, most), most+spares)
	} else {
		// Once is enough: it dies once.
		p.lastNews++
		event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(p.lastNews), Pad: int32(p.lastNews >> 32)}
		err = unix.EpollCtl(p.epollFd, unix.EPOLL_CTL_ADD, pidfd, &event)
	}
	if err != nil {
		unix.Close(pidfd)
		t.unwatched, p.why = true, err
		return
	}
	t.number, t.pidfd = p.lastNews, pidfd
	p.byNumber[t.number] = t
}

func (p *processes) letGo(t *tied) {
	if t.number != 0 {
		unix.Close(t.pidfd) // epoll(7) forgets it with that
		delete(p.byNumber, t.number)
		t.number = 0
	}
}

// sawDie tells whether the entry is tied to a process that has died.
func (p *processes) sawDie(e store.Entry) bool {
	t := p.tied[e.Token]
	return t != nil && t.dead && e.Process != nil && *e.Process == t.process
}

// newlyUnwatched is an error that names the tokens whose processes cannot be watched,
// each once.
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
	return fmt.Errorf("cannot watch the processes of %d tokens, they are looked at every second instead, %d at a time: %w:%s",
		n, turn, p.why, names.String())
}

func (p *processes) close() {
	for _, t := range p.tied {
		p.letGo(t)
	}
	p.epoll.Close()
}
