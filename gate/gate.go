// Makes, runs and stops the gate, an http.Handler that is made of the other files' parts.

package gate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/gofrs/flock"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"terok-gate-hook/desk"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/networks"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

// Gate is an http.Handler. Make one with [New].
type Gate struct {
	repos   string // the directory of repositories
	lock    *flock.Flock
	hooks   hooks
	hosts   []string
	maxPush int64
	free    int64
	stall   time.Duration
	tokens  *store.Reader
	trail   func(...trail.Event) error
	summary *trail.Summary

	git            *runner
	cleaner        *cleaner
	kept           *keeping
	slots          *slots
	networks       *networks.Networks
	advertisements advertisements
	disabled       disabled
	counts         counts

	server *http.Server
	ctx    context.Context // of all that is under way
	cut    context.CancelCauseFunc

	hearing context.Context // hooks
	deafen  context.CancelFunc
}

// SaveMemory makes Go collect garbage more often as the program's memory grows: the commands of
// many refused pushes soon become garbage. Call it in a program that does nothing else.
func SaveMemory() { debug.SetMemoryLimit(64 << 20) }

// errStopping cuts requests that are still in progress when the gate has waited long enough.
var errStopping = errors.New("the gate stops")

// New returns a gate over a directory of repositories, in which it keeps a directory of its
// own, .hooks. It cleans up after an earlier gate that was killed. It returns an error while
// another gate serves the directory.
func New(s Settings) (_ *Gate, err error) {
	repos, err := filepath.Abs(s.Repos)
	if err == nil {
		repos, err = filepath.EvalSymlinks(repos)
	}
	if err != nil {
		return nil, fmt.Errorf("the directory of repositories: %w", err)
	}
	g := &Gate{
		repos: repos, hooks: hooks(filepath.Join(repos, ".hooks")), hosts: s.Hosts,
		maxPush: cmp.Or(s.MaxPush, DefaultMaxPush), free: s.Free, stall: cmp.Or(s.Stall, defaultStall),
		tokens: s.Tokens, trail: s.Trail,
		slots:  newSlots(cmp.Or(s.PerToken, DefaultPerToken), cmp.Or(s.Together, DefaultTogether), cmp.Or(s.Patience, defaultPatience)),
		counts: newCounts(s.Tokens),
	}
	program, path, err := findGit()
	if err != nil {
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

	if err := g.hooks.make(); err != nil {
		return nil, fmt.Errorf("make git's hooks: %w", err)
	}
	if err := cleanUp(g.repos); err != nil {
		return nil, err
	}

	if g.trail == nil {
		g.trail = func(...trail.Event) error { return nil }
	}
	g.summary = trail.NewSummary(g.writeTrail)

	g.ctx, g.cut = context.WithCancelCause(context.Background())
	g.networks, err = networks.New(g.ctx, networks.Settings{
		Tokens: g.tokens, Keeper: s.Keeper, Record: g.writeTrail, Self: control.Gate{Repos: g.repos},
		Takes: noService, Serve: func(there *networks.Network) error { return g.serve(there) },
	})
	if err != nil {
		return nil, err
	}
	g.git = newRunner(program, path, cmp.Or(s.GitMemory, DefaultGitMemory), g.maxPush)
	g.cleaner = newCleaner(g.ctx, g.git)
	g.kept = newKeeping(cmp.Or(s.Keep, desk.KeepFor))
	g.cleaner.cleaning.Go(g.expireKept)

	g.server = &http.Server{
		Handler:           g,
		BaseContext:       g.networks.ContextOf,
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
	if s.Keeper == nil {
		g.server.RegisterOnShutdown(g.deafen)
	}
	return g, nil
}

// Serve serves a listener until the gate stops, with limits of time and size against hostile
// clients. It may be called for several listeners.
func (g *Gate) Serve(l net.Listener) error {
	return g.serve(networks.Limited(l, connections, connections, nil))
}

// serve serves a listener, and counts it.
func (g *Gate) serve(l net.Listener) error {
	g.counts.listeners.Inc()
	defer g.counts.listeners.Dec()
	if err := g.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ServeControl answers hooks, and programs that ask about containers, until the gate stops. The
// socket is of type SOCK_SEQPACKET. Only processes of the gate's own user and of root are
// answered.
func (g *Gate) ServeControl(l *net.UnixListener) { g.networks.ServeControl(g.hearing, l) }

// noService refuses a hook that asks for a service of the host: terok-gate forward serves those.
func noService(r control.Request) error {
	if r.Service != "" {
		return fmt.Errorf("%w: the gate serves no service of the host", control.Malformed)
	}
	return nil
}

// Stop stops accepting requests, waits for those in progress until ctx is done, then cuts them,
// and returns when all git processes have ended. With a Keeper, hooks are still answered
// meanwhile: the next gate serves what they hand over.
func (g *Gate) Stop(ctx context.Context) {
	if g.server.Shutdown(ctx) != nil {
		g.cut(errStopping)
		_ = g.server.Shutdown(context.Background())
	}
	g.cut(errStopping) // the cleaning after pushes
	g.deafen()
	g.networks.Stop()
	g.cleaner.wait()
	g.summary.End()
	g.lock.Close()
}

// lockRepos reserves the directory of repositories for this gate, until the lock is closed or the
// program ends. There can be only one: git's hooks in it are links to the gate's program.
func lockRepos(repos string) (*flock.Flock, error) {
	path := filepath.Join(repos, ".lock")
	lock := flock.New(path, flock.SetPermissions(0o600))
	switch locked, err := lock.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("lock the directory of repositories: %w", err)
	case !locked:
		return nil, fmt.Errorf("another gate serves the repositories in %s: it holds the lock of %s", repos, path)
	}
	return lock, nil
}

// writeTrail writes a line to the trail. The gate goes on if that fails, and logs the error.
func (g *Gate) writeTrail(e trail.Event) {
	if err := g.trail(e); err != nil {
		slog.Error("write the trail", "error", err)
	}
}

// Restore goes on where the last gate ended. The files are those that its Keeper kept, with the
// names under which they were kept. Restore closes them.
func (g *Gate) Restore(files []*os.File) { g.networks.Restore(files) }

// Metrics serves the gate's metrics for Prometheus. They contain no secret, but containers
// must not reach them: serve them on a listener of their own.
func (g *Gate) Metrics() http.Handler {
	return promhttp.HandlerFor(g.counts.registry, promhttp.HandlerOpts{})
}
