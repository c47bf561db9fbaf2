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
	"golang.org/x/time/rate"

	"terok-gate-hook/desk"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/mtls"
	"terok-gate-hook/internal/networks"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/internal/voucher"
	"terok-gate-hook/store"
)

// Gate is an http.Handler. Make one with [New].
type Gate struct {
	hosts    []string
	maxPush  int64
	stall    time.Duration
	tokens   *store.Reader
	vouching *voucher.Hosts
	identity *mtls.Identity
	trail    func(...trail.Event) error
	summary  *trail.Summary

	slots    *slots
	networks *networks.Networks
	counts   counts

	vouchedUses vouchedUses

	// One of the two.
	*repositories
	elsewhere *elsewhere

	server      *http.Server
	hostsServer *http.Server    // for gates of containers' hosts
	handshakes  rate.Sometimes  // which of those that fail are logged
	ctx         context.Context // of all that is under way
	cut         context.CancelCauseFunc

	hearing context.Context // hooks
	deafen  context.CancelFunc
}

// repositories are a directory of repositories, with what serves them.
type repositories struct {
	repos string // the directory
	lock  *flock.Flock
	hooks hooks
	free  int64

	git            *runner
	cleaner        *cleaner
	kept           *keeping
	advertisements advertisements
	disabled       disabled
}

// SaveMemory makes Go collect garbage more often as the program's memory grows: the commands of
// many refused pushes soon become garbage. Call it in a program that does nothing else.
func SaveMemory() { debug.SetMemoryLimit(64 << 20) }

// errStopping cuts requests that are still in progress when the gate has waited long enough.
var errStopping = errors.New("the gate stops")

// New returns a gate over a directory of repositories, in which it keeps a directory of its
// own, .hooks. It cleans up after an earlier gate that was killed. It returns an error while
// another gate serves the directory. With a RepositoryGate, it returns a gate that hands
// requests on to that one.
func New(s Settings) (_ *Gate, err error) {
	g := &Gate{
		hosts: s.Hosts, maxPush: cmp.Or(s.MaxPush, DefaultMaxPush), stall: cmp.Or(s.Stall, defaultStall),
		tokens: s.Tokens, vouching: s.Vouching, identity: s.Identity, trail: s.Trail,
		slots:  newSlots(cmp.Or(s.PerToken, DefaultPerToken), cmp.Or(s.Together, DefaultTogether), cmp.Or(s.Patience, defaultPatience)),
		counts: newCounts(s.Tokens), handshakes: rate.Sometimes{Interval: logInterval},
		vouchedUses: vouchedUses{all: map[*vouchedUse]struct{}{}},
	}
	if g.trail == nil {
		g.trail = func(...trail.Event) error { return nil }
	}
	g.summary = trail.NewSummary(g.writeTrail)
	g.ctx, g.cut = context.WithCancelCause(context.Background())

	if s.RepositoryGate != "" {
		g.elsewhere = &elsewhere{url: s.RepositoryGate, identity: s.Identity, failures: rate.Sometimes{Interval: logInterval}}
	} else {
		if g.repositories, err = openRepositories(g.ctx, s); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				g.lock.Close()
			}
		}()
	}

	g.networks, err = networks.New(g.ctx, networks.Settings{
		Tokens: g.tokens, Keeper: s.Keeper, Record: g.writeTrail, Self: g.describe,
		Takes: noService, Serve: func(there *networks.Network) error { return g.serve(g.server, there) },
	})
	if err != nil {
		return nil, err
	}
	if g.repositories != nil {
		g.cleaner.cleaning.Go(g.expireKept)
	}

	g.server, g.hostsServer = g.newServer(headerLimit), g.newServer(hostHeaderLimit)
	g.hearing, g.deafen = context.WithCancel(context.Background())
	if s.Keeper == nil {
		g.server.RegisterOnShutdown(g.deafen)
	}
	return g, nil
}

// openRepositories locks the directory of repositories, cleans it up, and makes git's hooks.
func openRepositories(ctx context.Context, s Settings) (_ *repositories, err error) {
	repos, err := filepath.Abs(s.Repos)
	if err == nil {
		repos, err = filepath.EvalSymlinks(repos)
	}
	if err != nil {
		return nil, fmt.Errorf("the directory of repositories: %w", err)
	}
	program, path, err := findGit()
	if err != nil {
		return nil, err
	}

	r := &repositories{repos: repos, hooks: hooks(filepath.Join(repos, ".hooks")), free: s.Free}
	if r.lock, err = lockRepos(repos); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.lock.Close()
		}
	}()

	if err := r.hooks.make(); err != nil {
		return nil, fmt.Errorf("make git's hooks: %w", err)
	}
	if err := cleanUp(repos); err != nil {
		return nil, err
	}

	r.git = newRunner(program, path, cmp.Or(s.GitMemory, DefaultGitMemory), cmp.Or(s.MaxPush, DefaultMaxPush))
	r.cleaner = newCleaner(ctx, r.git)
	r.kept = newKeeping(cmp.Or(s.Keep, desk.KeepFor))
	return r, nil
}

// newServer returns a server of the gate that takes headers of that length.
func (g *Gate) newServer(headers int) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           g,
		Protocols:         &protocols,
		BaseContext:       g.networks.ContextOf,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       g.stall, // both are moved on while something moves: see stream.go
		WriteTimeout:      g.stall,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headers,
		// OPTIONS * has the answer of anything else that is not there.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
}

// Serve serves a listener until the gate stops, with limits of time and size against hostile
// clients. It may be called for several listeners.
func (g *Gate) Serve(l net.Listener) error {
	return g.serve(g.server, networks.Limited(l, connections, connections, nil))
}

// ServeHosts is Serve for the gates of containers' hosts, which vouch for requests: see
// [mtls.Listen]. No other client is served there.
func (g *Gate) ServeHosts(l *net.TCPListener) error {
	return g.serve(g.hostsServer, g.identity.NewListener(l, connections, g.noteHandshake))
}

// noteHandshake counts a handshake that has failed, and logs it if none was for a minute: any
// client can cause one.
func (g *Gate) noteHandshake(err error) {
	g.counts.handshakes.Inc()
	g.handshakes.Do(func() {
		slog.Warn("a TLS handshake failed; more of them within a minute are only counted", "error", printable.Line(err.Error()))
	})
}

// serve serves a listener, and counts it.
func (g *Gate) serve(server *http.Server, l net.Listener) error {
	g.counts.listeners.Inc()
	defer g.counts.listeners.Dec()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
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
	if g.shutDown(ctx) != nil {
		g.cut(errStopping)
		_ = g.shutDown(context.Background())
	}
	g.cut(errStopping) // the cleaning after pushes
	g.deafen()
	g.networks.Stop()
	if g.repositories != nil {
		g.cleaner.wait()
		defer g.lock.Close()
	}
	g.summary.End()
}

// shutDown stops both servers, and waits until ctx is done for the requests under way.
func (g *Gate) shutDown(ctx context.Context) error {
	hosts := make(chan error, 1)
	go func() { hosts <- g.hostsServer.Shutdown(ctx) }()
	return errors.Join(g.server.Shutdown(ctx), <-hosts)
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
