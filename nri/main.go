// terok-nri is a plugin of the container engine (NRI) on a Kubernetes node. It gives the containers
// of annotated pods the device terok.dev/project=annotated, which runs the hooks.
//
// The promise: a container of a pod with our annotations gets the device. If it cannot get the
// device, it is not created, and the pod's events say why. A pod without our annotations is left
// alone.
//
// If the plugin is not connected, engines create containers without the device. Such a container
// has no gate; it never gets another pod's access. To keep pods away from such a node, the plugin,
// with --node, keeps a taint on the node while the engine, the hook or the gate is missing.
//
// The plugin was tried with containerd 2.1. NRI of containerd before 2.1 and of CRI-O before 1.34
// ignores devices.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/containerd/nri/pkg/api"
	"github.com/sirupsen/logrus"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/version"
)

const usage = `terok-nri gives the containers of annotated pods a token for terok-gate.

   terok-nri --allow team-a='demo*' --allow team-a=lib --allow team-b=web

A pod names its project by the annotations terok.project and terok.task. The pods of a namespace
may name only projects that match a pattern of that namespace. One --allow may hold several
NAMESPACE=PATTERN, with blanks between them.

`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "terok-nri:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	allowed := allowed{}
	flags := flag.NewFlagSet("terok-nri", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Var(allowed, "allow", "`NAMESPACE=PATTERN`: pods of the namespace may name projects that match; repeatable")
	socket := flags.String("socket", api.DefaultSocketPath, "connect to the engine at `F`")
	node := flags.String("node", "", "keep the taint "+taint+" on the Kubernetes `NODE`, except while gate, hook and engine are there")
	showVersion := flags.Bool("version", false, "print the version")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		flags.SetOutput(os.Stdout)
		flags.PrintDefaults()
		return nil
	case err != nil:
		return fmt.Errorf("%w: see terok-nri --help", err)
	case *showVersion:
		fmt.Println("terok-nri version", version.String())
		return nil
	case flags.NArg() > 0:
		return fmt.Errorf("takes no argument %q: see terok-nri --help", flags.Arg(0))
	}

	place, err := engines.OwnPlace()
	if err != nil {
		return err
	}
	plugin := &plugin{allowed: allowed, place: place}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	watch := &watch{plugin: plugin}
	if *node != "" {
		api, err := inCluster()
		if err != nil {
			return err
		}
		watch.setTaint = func(ctx context.Context, on bool) error { return api.setTaint(ctx, *node, on) }
	}

	logrus.SetLevel(logrus.WarnLevel) // NRI's package logs with logrus
	slog.Info("serving the engine", "socket", *socket, "allow", allowed.String())
	// At the end, the plugin stays connected until the taint is back on the node.
	connected, disconnect := context.WithCancel(context.Background())
	go func() {
		defer disconnect()
		watch.run(ctx)
	}()
	plugin.serve(connected, *socket)
	return nil
}
