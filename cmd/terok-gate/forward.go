// The forward command: connects containers, in their own networks, to services of the host.

package main

import (
	"context"
	"log/slog"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"

	"terok-gate-hook/forward"
	"terok-gate-hook/hook"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/trail"
)

func forwardCommand(given *hook.Settings) *cli.Command {
	return &cli.Command{
		Name:  "forward",
		Usage: "connect containers to services of the host, at the request of their hooks",
		Flags: append(stageFlags(given, "forward"),
			&cli.StringFlag{Name: "control", TakesFile: true, Usage: "listen for hooks at the socket `F`; its directory must belong to the program's user, with mode 0700; default: /run/terok-gate-forward/control for root, else terok-gate-forward/control in $XDG_RUNTIME_DIR"},
			&cli.DurationFlag{Name: "drain", Value: 5 * time.Second, Usage: "when told to stop, let open connections go on for this `time`"},
			&cli.StringFlag{Name: "metrics", Usage: "serve metrics for Prometheus at `ADDR`, a loopback host:port or a socket's path"},
		),
		Action: func(c *cli.Context) error { return runForward(c, *given) },
	}
}

func runForward(c *cli.Context, given hook.Settings) error {
	logToJournal()
	services, err := servicesOf(given)
	if err != nil {
		return err
	}
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	logFile := logFile(c.String("log-file"))

	metrics, err := listenForMetrics(c)
	if err != nil {
		return err
	}
	if metrics != nil {
		defer metrics.Close()
	}
	places, err := listen(c, control.ForwardSocket(control.DefaultSocket()))
	if err != nil {
		return err
	}
	debug.SetMemoryLimit(16 << 20) // enough, since most memory for 1,024 connections is the kernel's

	tokens := file.Reader(reportTokenFile)
	f, err := forward.New(forward.Settings{
		Services: services, Tokens: tokens, Keeper: keeper(),
		Trail: func(events ...trail.Event) error { return trail.Write(logFile, events...) },
	})
	if err != nil {
		return err
	}
	if metrics != nil {
		go serveMetrics(metrics, f.Metrics())
	}
	if err := forward.CheckConfined(services); err != nil {
		slog.Warn("this process can perhaps reach more than its services", "error", err)
	}
	if err := forward.Isolate(); err != nil {
		slog.Warn("this process could not isolate itself", "error", err)
	}

	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	f.Restore(places.kept)
	for _, l := range places.hooks {
		slog.Info("serving", "services", len(services), "in containers whose hooks connect to", l.Addr().String())
		go f.ServeControl(l)
	}
	notify(daemon.SdNotifyReady)
	go watchdog(ctx, tokens)

	<-ctx.Done()
	stop() // a second signal ends the process
	notify(daemon.SdNotifyStopping)
	patience, cancel := context.WithTimeout(context.Background(), c.Duration("drain"))
	defer cancel()
	f.Stop(patience)
	return nil
}

// servicesOf returns the services that the flags name.
func servicesOf(given hook.Settings) (map[string]forward.Target, error) {
	if len(given.Services) == 0 {
		return nil, misuse.Errorf("no service: name one with --service")
	}
	given.GateSocket = control.DefaultSocket() // checkedSettings refuses services without a gate socket
	if _, err := checkedSettings(given); err != nil {
		return nil, err
	}

	services := map[string]forward.Target{}
	for _, text := range given.Services {
		s, err := hook.ParseService(text)
		if err != nil { // checkedSettings has checked it
			return nil, err
		}
		services[s.Name] = forward.Target{Network: s.Network, Address: s.Address}
	}
	return services, nil
}
