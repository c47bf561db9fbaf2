// Makes, runs and stops the gate.

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

	// One of these two is nil.
	*repositories
	elsewhere *elsewhere

	server      *http.Server
	hostsServer *http.Server    // for gates of containers' hosts
	handshakes  rate.Sometimes  // which failed handshakes are logged
	ctx         context.Context // of all requests and of the cleaning
	cut         context.CancelCauseFunc

	hearing context.Context // hooks are answered until it is done
	deafen  context.CancelFunc
}

// repositories are a directory of repositories, and what the gate needs to serve them.
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

// SaveMemory makes Go collect garbage more often as the program's memory grows, since the commands
// of many refused pushes soon become garbage. Call it only in a program that does nothing but serve
// a gate.
func SaveMemory() { debug.SetMemoryLimit(64 << 20) }

// errStopping cuts the requests that are still in progress when [Gate.Stop] stops waiting.
var errStopping = errors.New("the gate is stopping")

// New returns a gate that serves a directory of repositories, and makes the directory .hooks there.
// It cleans up after an earlier gate that was killed. It returns an error if another gate serves
// the directory. If there is a RepositoryGate, New instead returns a gate that hands requests on to
// the RepositoryGate.
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
	if r.lock, err = lockRepos(ctx, repos); err != nil {
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

// newServer returns an HTTP server for the gate. headers is how long the headers of a request may
// be.
func (g *Gate) newServer(headers int) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           g,
		Protocols:         &protocols,
		BaseContext:       g.networks.ContextOf,
		ConnContext:       withConnection,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       g.stall, // each read and write begins these two anew: see stream.go
		WriteTimeout:      g.stall,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headers,
		// OPTIONS * is refused like any other path that the gate does not serve.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
}

// Serve serves a listener until the gate stops, with limits of time and size against hostile
// clients. It may be called for several listeners.
func (g *Gate) Serve(l net.Listener) error {
	return g.serve(g.server, networks.Limited(l, connections, connections, nil))
}

// ServeHosts is [Gate.Serve] for the gates of containers' hosts, which vouch for requests. It
// serves no other clients. [mtls.Listen] makes the listener.
func (g *Gate) ServeHosts(l *net.TCPListener) error {
	return g.serve(g.hostsServer, g.identity.NewListener(l, connections, g.noteHandshake))
}

// noteHandshake counts a failed handshake. It logs at most one a minute, since any client can make
// a handshake fail.
func (g *Gate) noteHandshake(err error) {
	g.counts.handshakes.Inc()
	g.handshakes.Do(func() {
		slog.Warn("a TLS handshake failed; more of them within a minute are only counted", "error", printable.Line(err.Error()))
	})
}

// serve serves a listener, and counts it in the metrics meanwhile.
func (g *Gate) serve(server *http.Server, l net.Listener) error {
	g.counts.listeners.Inc()
	defer g.counts.listeners.Dec()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ServeControl answers hooks, and programs that ask about containers, until the gate stops. The
// listener's socket must be of type SOCK_SEQPACKET. ServeControl answers only processes of the
// gate's own user and of root.
func (g *Gate) ServeControl(l *net.UnixListener) { g.networks.ServeControl(g.hearing, l) }

// noService refuses a hook that asks for a service of the host: terok-gate forward serves these
// services, and the gate does not.
func noService(r control.Request) error {
	if r.Service != "" {
		return fmt.Errorf("%w: the gate serves no service of the host", control.Malformed)
	}
	return nil
}

// Stop stops accepting requests, and waits for those in progress. When ctx is done, it cuts the
// requests that are left. It returns when all git processes have ended. If there is a Keeper, the
// gate answers hooks while Stop waits for requests, since the next gate serves the containers that
// these hooks hand over.
func (g *Gate) Stop(ctx context.Context) {
	if g.shutDown(ctx) != nil {
		g.cut(errStopping)
		_ = g.shutDown(context.Background())
	}
	g.cut(errStopping) // ends the cleaning
	g.deafen()
	g.networks.Stop()
	if g.repositories != nil {
		g.cleaner.wait()
		defer g.lock.Close()
	}
	g.summary.End()
}

// shutDown stops both servers, and waits for the requests under way. It returns an error if ctx is
// done before they have ended.
func (g *Gate) shutDown(ctx context.Context) error {
	hosts := make(chan error, 1)
	go func() { hosts <- g.hostsServer.Shutdown(ctx) }()
	return errors.Join(g.server.Shutdown(ctx), <-hosts)
}

// lockPatience is how long a gate waits for another gate's lock. If the other gate was killed just
// when it started git, its child process holds the lock until that process executes git.
const lockPatience = 2 * time.Second

// lockRepos reserves the directory of repositories for this gate, until the lock is closed or the
// program ends. Two gates cannot serve the directory, since git's hooks in it are links to the
// program of one gate.
func lockRepos(ctx context.Context, repos string) (*flock.Flock, error) {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()

	path := filepath.Join(repos, ".lock")
	lock := flock.New(path, flock.SetPermissions(0o600))
	switch _, err := lock.TryLockContext(ctx, 20*time.Millisecond); {
	case err != nil && ctx.Err() == nil:
		return nil, fmt.Errorf("lock the directory of repositories: %w", err)
	case err != nil:
		return nil, fmt.Errorf("another gate serves the repositories in %s: it holds the lock of %s", repos, path)
	}
	return lock, nil
}

// writeTrail writes a line to the trail. If that fails, it logs the error, and the gate goes on.
func (g *Gate) writeTrail(e trail.Event) {
	if err := g.trail(e); err != nil {
		slog.Error("write the trail", "error", err)
	}
}

// Restore serves the containers that the last gate served. files are what the last gate's Keeper
// kept, with the names under which it kept them. Restore closes the files.
func (g *Gate) Restore(files []*os.File) { g.networks.Restore(files) }

// Metrics serves the gate's metrics for Prometheus. They contain no secret, but containers
// must not reach them: serve them on a listener of their own.
func (g *Gate) Metrics() http.Handler {
	return promhttp.HandlerFor(g.counts.registry, promhttp.HandlerOpts{})
}
