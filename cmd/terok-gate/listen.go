// Opens the gate's listeners: for clients, hooks, other gates and metrics.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/urfave/cli/v2"

	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/mtls"
	"terok-gate-hook/internal/networks"
)

// places are the gate's listeners, and what the last gate has left.
type places struct {
	clients []net.Listener
	hooks   []*net.UnixListener
	hosts   *net.TCPListener // for the gates of containers' hosts; nil for none
	kept    []*os.File       // what the last gate left with the service manager, for its containers' networks
}

// listen takes the listeners that a service manager has passed (sd_listen_fds(3)), and opens those
// that the command line names. If there is neither, it opens the usual control socket.
func listen(c *cli.Context, usual string) (p places, err error) {
	for _, file := range activation.Files(true) {
		if networks.IsKept(file.Name()) {
			p.kept = append(p.kept, file)
			continue
		}
		l, err := net.FileListener(file)
		file.Close()
		if err != nil {
			return p, fmt.Errorf("take the service manager's socket %s: %w", file.Name(), err)
		}
		if hooks, ok := l.(*net.UnixListener); ok && l.Addr().Network() == "unixpacket" {
			p.hooks = append(p.hooks, hooks)
		} else {
			p.clients = append(p.clients, l)
		}
	}

	for _, address := range c.StringSlice("listen") {
		tcp, err := net.ResolveTCPAddr("tcp", address)
		if err != nil {
			return p, misuse.Errorf("--listen %s: %w", address, err)
		}
		if !tcp.IP.IsLoopback() && !c.Bool("insecure-http") {
			return p, misuse.Errorf("--listen %s: other machines can reach it, and tokens can be read on the way: put a proxy with TLS in front of the gate, or give --insecure-http, too", address)
		}
		l, err := net.ListenTCP("tcp", tcp)
		if err != nil {
			return p, err
		}
		p.clients = append(p.clients, l)
	}

	if address := c.String("tls-listen"); address != "" {
		if p.hosts, err = mtls.Listen(c.Context, address); err != nil {
			return p, err
		}
	}

	at := c.String("control")
	if at == "" && len(p.clients)+len(p.hooks) == 0 && p.hosts == nil {
		at = usual
	}
	if at != "" {
		l, err := listenForHooks(at)
		if err != nil {
			return p, err
		}
		p.hooks = append(p.hooks, l)
	}
	return p, nil
}

// listenForMetrics opens the listener of --metrics. Without that flag, it returns nil.
func listenForMetrics(c *cli.Context) (net.Listener, error) {
	address := c.String("metrics")
	if address == "" {
		return nil, nil
	}
	network := "tcp"
	if strings.Contains(address, "/") {
		network = "unix"
		if info, err := os.Lstat(address); err == nil && info.Mode()&fs.ModeSocket != 0 {
			_ = os.Remove(address) // the socket of a program that was killed
		}
	} else if tcp, err := net.ResolveTCPAddr("tcp", address); err != nil || !tcp.IP.IsLoopback() {
		return nil, misuse.Errorf("--metrics %s: must be a loopback host:port or a socket's path", address)
	}
	return net.Listen(network, address)
}

// serveMetrics serves the metrics until the listener is closed.
func serveMetrics(l net.Listener, metrics http.Handler) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	if err := server.Serve(l); !errors.Is(err, net.ErrClosed) {
		slog.Error("serve metrics", "error", err)
	}
}

// logToJournal leaves the time out of log lines that go to the journal (systemd.exec(5)), since the
// journal records the time.
func logToJournal() {
	if os.Getenv("JOURNAL_STREAM") != "" {
		log.SetFlags(0)
	}
}
