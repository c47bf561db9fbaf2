// The serve command: runs the gate, and reports its state to the service manager.

package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"

	"terok-gate-hook/desk"
	"terok-gate-hook/gate"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
	"terok-gate-hook/store/watch"
)

func serveCommand() *cli.Command {
	return &cli.Command{
		Name:  "serve",
		Usage: "serve the repositories of a directory to clients with a valid token",
		Flags: append(fleetFlags(),
			reposFlag(),
			&cli.StringFlag{Name: "control", TakesFile: true, Usage: "serve containers in their own networks, at the request of hooks that connect to the socket `F` (--gate-socket of terok-gate-hook prestart); its directory must have mode 0700, and belong to the gate's user or root; default, if nothing else says where to listen: /run/terok-gate/control for root, else terok-gate/control in $XDG_RUNTIME_DIR"},
			&cli.StringSliceFlag{Name: "listen", Usage: "serve at `ADDR`, host:port; may be given more than once; a service manager's sockets are served too"},
			&cli.BoolFlag{Name: "insecure-http", DisableDefaultText: true, Usage: "serve at addresses that other machines can reach, although tokens can be read on the way"},
			&cli.StringSliceFlag{Name: "vouch", Usage: "serve the gate whose certificate names HOST, for projects that match PATTERN: `HOST=PATTERN`; may be given more than once"},
			&cli.StringSliceFlag{Name: "host", Usage: "accept `NAME` as a name of the gate; addresses, localhost, this machine's name and the names that podman and docker give a host are always accepted"},
			&cli.IntFlag{Name: "per-token", Value: gate.DefaultPerToken, Usage: "serve at most `N` requests of one token at once; others wait"},
			&cli.IntFlag{Name: "together", Value: gate.DefaultTogether, Usage: "serve at most `N` requests at once in all; others wait"},
			&cli.IntFlag{Name: "max-push", Value: gate.DefaultMaxPush >> 20, Usage: "refuse a push of more than `N` MiB"},
			&cli.IntFlag{Name: "free", DefaultText: "a twentieth of the disk, 1024 at most", Usage: "refuse pushes while the disk has less than `N` MiB free; 0 for never"},
			&cli.IntFlag{Name: "git-memory", Value: gate.DefaultGitMemory >> 20, Usage: "limit each git process to `N` MiB of memory"},
			&cli.DurationFlag{Name: "keep", Value: desk.KeepFor, Usage: "keep, for `T`, the old tips of refs that a push, sync or restore deletes or forces"},
			&cli.DurationFlag{Name: "drain", Value: 30 * time.Second, Usage: "when told to stop, let requests in progress finish for this `time`"},
			&cli.StringFlag{Name: "metrics", Usage: "serve metrics for Prometheus at `ADDR`, a loopback host:port or a socket's path"},
		),
		Action: serve,
	}
}

func serve(c *cli.Context) error {
	logToJournal()

	for _, name := range []string{"per-token", "together", "max-push", "git-memory"} {
		if c.Int(name) < 1 {
			return misuse.Errorf("--%s %d: must be 1 or more", name, c.Int(name))
		}
	}

	if err := checkKeep(c); err != nil {
		return err
	}
	free := int64(c.Int("free")) << 20
	if c.IsSet("free") && free <= 0 {
		free = -1
	}

	fleet, err := fleetOf(c)
	if err != nil {
		return err
	}
	repos := ""
	if fleet.repositoryGate == "" {
		if repos, err = reposOf(c); err != nil {
			return err
		}
	}
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	logFile := logFile(c.String("log-file"))
	record := func(events ...trail.Event) error { return trail.Write(logFile, events...) }

	// From here on, clients can connect; they wait until the gate is ready.
	metrics, err := listenForMetrics(c)
	if err != nil {
		return err
	}
	if metrics != nil {
		defer metrics.Close()
	}
	places, err := listen(c, control.DefaultSocket())
	if err != nil {
		return err
	}

	if err := gate.AdoptOrphans(); err != nil {
		return err
	}
	gate.SaveMemory()

	tokens := file.Reader(reportTokenFile)
	g, err := gate.New(gate.Settings{
		Repos: repos, Tokens: tokens, Hosts: hosts(c),
		PerToken: c.Int("per-token"), Together: c.Int("together"), MaxPush: int64(c.Int("max-push")) << 20, Free: free,
		GitMemory: int64(c.Int("git-memory")) << 20, Keep: c.Duration("keep"),
		RepositoryGate: fleet.repositoryGate, Identity: fleet.identity, Vouching: fleet.vouching,
		Trail: record, Keeper: keeper(),
	})
	if err != nil {
		return err
	}
	if metrics != nil {
		go serveMetrics(metrics, g.Metrics())
	}

	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ended := make(chan error, len(places.clients)+2)
	go func() { ended <- sweep(ctx, file, record) }()

	served := []any{"repositories", repos}
	if repos == "" {
		served = []any{"repositories of", string(fleet.repositoryGate)}
	}
	for _, l := range places.clients {
		slog.Info("serving", append(served, "at", l.Addr().String())...)
		go func() { ended <- g.Serve(l) }()
	}

	if l := places.hosts; l != nil {
		slog.Info("serving", append(served, "gates of hosts at", l.Addr().String())...)
		go func() { ended <- g.ServeHosts(l) }()
	}

	g.Restore(places.kept)
	for _, l := range places.hooks {
		slog.Info("serving", append(served, "in containers whose hooks connect to", l.Addr().String())...)
		go g.ServeControl(l)
	}

	notify(daemon.SdNotifyReady)
	go watchdog(ctx, tokens)

	select {
	case <-ctx.Done():
	case err = <-ended:
	}
	stop() // a second signal ends the process

	notify(daemon.SdNotifyStopping)
	patience, cancel := context.WithTimeout(context.Background(), c.Duration("drain"))
	defer cancel()
	g.Stop(patience)
	return err
}

// reportTokenFile logs why no token is valid, or why everything is frozen. A nil error means that
// neither is the case any more.
func reportTokenFile(err error) {
	switch {
	case err == nil:
		slog.Info("the token file and the list of freezes can be read again")
	case errors.Is(err, store.ErrFreezesWrong):
		slog.Error("nothing is served", "reason", err)
	case errors.Is(err, fs.ErrNotExist):
		slog.Info("no valid tokens yet", "reason", err)
	default:
		slog.Error("no valid tokens", "reason", err)
	}
}

// sweep revokes the tokens of processes that have died, so the gate needs no reap --watch beside
// it.
func sweep(ctx context.Context, file store.File, record func(...trail.Event) error) error {
	return watch.Tokens(ctx, file, func(revoked []store.Entry, err error) {
		var events []trail.Event
		for _, e := range revoked {
			events = append(events, trail.Of(trail.Swept, e))
		}
		if err != nil {
			events = append(events, trail.Event{Event: trail.Failed, From: "serve", Error: printable.Line(err.Error())})
			slog.Warn("sweep", "error", err)
		}
		if err := record(events...); err != nil {
			slog.Error("write the log file", "error", err)
		}
	})
}

// hosts returns the names that clients may use for the gate.
func hosts(c *cli.Context) []string {
	names := append([]string{"host.containers.internal", "host.docker.internal"}, c.StringSlice("host")...)
	if name, err := os.Hostname(); err == nil {
		names = append(names, name)
	}
	for i, name := range names {
		names[i] = strings.ToLower(name)
	}
	return names
}

// notify sends a state to the service manager, if there is one (sd_notify(3)).
func notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		slog.Warn("tell the service manager", "error", err)
	}
}

// watchdog tells the service manager at regular intervals that this process can still judge tokens. It
// does nothing if the manager does not ask for that (WatchdogSec=, systemd.service(5)).
func watchdog(ctx context.Context, tokens *store.Reader) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			tokens.Tokens()
			notify(daemon.SdNotifyWatchdog)
		}
	}
}
