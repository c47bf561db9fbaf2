// Package gate serves bare git repositories to containers over HTTP: git's smart
// protocol (gitprotocol-http(5)), versions 0, 1 and 2, to whoever shows a token of the
// token file. What it promises:
//
//   - A token opens one repository, <project>.git in one folder, and nothing else.
//   - A token that is revoked, or whose process is dead, opens nothing from that
//     moment; what was begun with it is cut, and a push that git has not agreed to by
//     then moves nothing.
//   - Nothing that a client sends reaches git's arguments or environment, but for the
//     version of the protocol. Answers name no path of this machine.
//   - A client that stalls or goes away costs a process and some memory for a while,
//     never the gate.
//
// The attacker is whoever runs in a container, with or without a token. Whoever owns
// the repositories' folder, or may write the token file, is trusted.
//
// A program that serves a gate calls [RunHook] first thing in main: git's hooks are
// links to it. If it does nothing else, it calls [AdoptOrphans] and [SaveMemory] too.
package gate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/gofrs/flock"

	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

// Settings are what a gate is told. The zero value of a limit is its default.
type Settings struct {
	Repos  string        // the folder of <project>.git
	Tokens *store.Reader // who may
	Hosts  []string      // names that the gate is known by, beside addresses and localhost

	PerToken int   // requests at once of one token
	Together int   // requests at once of all
	MaxPush  int64 // bytes of a push's pack
	Free     int64 // bytes that a repository's disk has free, or it takes no push; less than 0 for none

	GitMemory int64 // bytes that each process of git's may have

	Patience time.Duration // in which it is a request's turn, or never; a minute
	Stall    time.Duration // in which a client reads or sends something; two minutes

	// Trail gets every event. It may be called by many goroutines at once. A push that it
	// returns an error for is refused.
	Trail func(...trail.Event) error

	// Keeper keeps what the next gate needs to go on in containers' networks; nil for nobody.
	Keeper Keeper
}

// What goes without saying.
const (
	DefaultPerToken = 8
	DefaultTogether = 64
	DefaultMaxPush  = 2 << 30

	DefaultGitMemory = 1 << 30
)

const (
	maxFetch = 32 << 20 // bytes of a request to upload-pack, unpacked

	defaultPatience = time.Minute
	defaultStall    = 2 * time.Minute
	retryAfter      = 5 * time.Second // what those are told who waited in vain

	headerTimeout = 10 * time.Second
	idleTimeout   = time.Minute
	headerLimit   = 16 << 10
	connections   = 1024 // at once, of each listener
)

// Gate is an http.Handler. Make one with [New].
type Gate struct {
	repos, hooks string // folders: of repositories, and of links to ourselves for git
	lock         *flock.Flock
	hosts        []string
	maxPush      int64
	free         int64
	memory       uint64 // that each process of git's may have
	stall        time.Duration
	tokens       *store.Reader
	trail        func(...trail.Event) error
	summary      *summary

	git, path      string // git's binary, and PATH
	starter        starter
	turns          *turns
	pushes         pushes
	advertisements advertisements
	disabled       disabled
	counts         counts
	networks       *networks

	server *http.Server
	ctx    context.Context // of all that is under way
	cut    context.CancelCauseFunc

	hearing context.Context // hooks
	deafen  context.CancelFunc
}

// SaveMemory has Go look for garbage more often where the program's memory grows: what
// many pushes say before they are refused is garbage soon. It is for a program that does
// nothing else.
func SaveMemory() { debug.SetMemoryLimit(64 << 20) }

// errStopping cuts what is under way when the gate's patience with it is over.
var errStopping = errors.New("the gate stops")

// New returns a gate over a folder of repositories, in which it keeps a folder of its
// own, .hooks. It cleans up what an earlier gate that was killed has left. While another
// gate serves the folder it fails.
func New(s Settings) (_ *Gate, err error) {
	repos, err := filepath.Abs(s.Repos)
	if err == nil {
		repos, err = filepath.EvalSymlinks(repos)
	}
	if err != nil {
		return nil, fmt.Errorf("the folder of repositories: %w", err)
	}
	g := &Gate{
		repos: repos, hooks: filepath.Join(repos, ".hooks"), hosts: s.Hosts,
		maxPush: cmp.Or(s.MaxPush, DefaultMaxPush), memory: memoryLimit(cmp.Or(s.GitMemory, DefaultGitMemory)), stall: cmp.Or(s.Stall, defaultStall),
		free:   s.Free,
		tokens: s.Tokens, trail: s.Trail,
		turns:  newTurns(cmp.Or(s.PerToken, DefaultPerToken), cmp.Or(s.Together, DefaultTogether), cmp.Or(s.Patience, defaultPatience)),
		pushes: pushes{to: map[string]*pushesTo{}},
		counts: newCounts(s.Tokens),
	}
	if g.git, g.path, err = findGit(); err != nil {
		return nil, err
	}
	if g.lock, err = lockRepos(repos); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			g.lock.Close()
		}
	}()
	if err := g.makeHooks(); err != nil {
		return nil, fmt.Errorf("make git's hooks: %w", err)
	}
	if err := g.cleanUp(); err != nil {
		return nil, err
	}
	if g.trail == nil {
		g.trail = func(...trail.Event) error { return nil }
	}
	g.summary = newSummary(g.writeTrail)
	final := s.Keeper == nil
	if final {
		s.Keeper = nobody{}
	}
	if g.networks, err = newNetworks(g, s.Keeper); err != nil {
		return nil, err
	}
	g.ctx, g.cut = context.WithCancelCause(context.Background())
	g.starter = newStarter()
	g.server = &http.Server{
		Handler:           g,
		BaseContext:       g.contextOf,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       g.stall, // both are moved on while something moves: see stream.go
		WriteTimeout:      g.stall,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerLimit,
		// OPTIONS * has the answer of anything else that is not there.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
	g.hearing, g.deafen = context.WithCancel(context.Background())
	if final {
		g.server.RegisterOnShutdown(g.deafen)
	}
	return g, nil
}

// Serve serves a listener until the gate stops, with limits of time and size that a
// server among strangers needs. It may be called for several.
func (g *Gate) Serve(l net.Listener) error {
	g.counts.listeners.Inc()
	defer g.counts.listeners.Dec()
	err := g.server.Serve(limited(l, connections, connections, nil))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Stop accepts no new requests, waits for those under way until ctx is done, cuts what
// is left, and returns when no process of git's is left. Hooks are answered meanwhile, if
// somebody keeps what they hand over: the next gate serves it.
func (g *Gate) Stop(ctx context.Context) {
	if g.server.Shutdown(ctx) != nil {
		g.cut(errStopping)
		_ = g.server.Shutdown(context.Background())
	}
	g.cut(errStopping) // the cleaning after pushes
	g.deafen()
	g.networks.stop()
	g.pushes.cleaning.Wait()
	g.summary.end()
	g.lock.Close()
}

// lockRepos makes the folder of repositories this gate's, until the lock is closed or the
// program ends: git's hooks ask the gate that they are links of.
func lockRepos(repos string) (*flock.Flock, error) {
	path := filepath.Join(repos, ".lock")
	lock := flock.New(path, flock.SetPermissions(0o600))
	switch locked, err := lock.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("lock the folder of repositories: %w", err)
	case !locked:
		return nil, fmt.Errorf("another gate serves the repositories in %s: it holds the lock of %s", repos, path)
	}
	return lock, nil
}

// writeTrail writes a line that nobody waits for.
func (g *Gate) writeTrail(e trail.Event) {
	if err := g.trail(e); err != nil {
		slog.Error("the trail", "error", err)
	}
}
