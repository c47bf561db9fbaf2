// Watches whether a pod with our annotations would get a gate on this node.

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/control"
)

// every is how often the node is checked.
const every = time.Second

// watch is what watches a node.
type watch struct {
	plugin   *plugin
	setTaint func(ctx context.Context, on bool) error // nil for a node that gets no taint

	gate uint64 // the inode of the control socket of the gate that has been seen last
	said string
}

// run watches the node, and keeps the taint on it while it is not ready, until the context
// ends. Then it puts the taint back.
func (w *watch) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := w.check()
		if err != nil {
			w.say("the node is not ready", err)
		} else {
			w.say("the node is ready", nil)
		}
		w.taint(ctx, err != nil)

		select {
		case <-ctx.Done():
		case <-time.After(every):
		}
	}

	atLast, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	w.taint(atLast, true)
}

// taint puts the taint on the node or takes it off.
func (w *watch) taint(ctx context.Context, on bool) {
	if w.setTaint == nil {
		return
	}
	if err := w.setTaint(ctx, on); err != nil && ctx.Err() == nil {
		w.say("the taint cannot be set", err)
	}
}

// say logs what has changed.
func (w *watch) say(what string, err error) {
	if now := fmt.Sprint(what, err); now != w.said {
		slog.Info(what, "reason", err)
		w.said = now
	}
}

// check returns why a pod with our annotations would not get a gate.
func (w *watch) check() error {
	if !w.plugin.connected.Load() {
		return errors.New("the engine is not connected")
	}
	settings, err := w.plugin.device()
	if err != nil || settings.GateSocket == "" { // a gate elsewhere
		return err
	}
	if _, err := control.Ask(settings.GateSocket, time.Now().Add(time.Second), control.Request{}); err != nil {
		return err
	}
	return w.attach(settings)
}

// attach gives a gate that has started the listeners that its predecessor had: in a pod there
// is no service manager that keeps them.
func (w *watch) attach(settings hook.Settings) error {
	var socket unix.Stat_t
	if err := unix.Stat(settings.GateSocket, &socket); err != nil {
		return err
	}
	if socket.Ino == w.gate {
		return nil
	}

	living, err := settings.HandedOver()
	if err != nil {
		return errors.New(hook.Detail(err))
	}
	for _, e := range living {
		if err := settings.Attach(e); err != nil {
			slog.Warn("a container is without the gate", "container", e.Container, "error", hook.Detail(err))
		}
	}
	slog.Info("a gate is there", "containers", len(living))
	w.gate = socket.Ino
	return nil
}
