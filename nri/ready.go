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

// watch watches a node.
type watch struct {
	plugin   *plugin
	setTaint func(ctx context.Context, on bool) error // nil for a node that gets no taint

	gate uint64 // the inode of the control socket of the last gate that was seen
	said string // the last message of say, with its reason
}

// run watches the node until the context ends. It keeps the taint on the node while the node is not
// ready, and puts the taint back at the end.
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

// say logs a message with its reason, unless both are those of the last call.
func (w *watch) say(what string, err error) {
	if now := fmt.Sprint(what, err); now != w.said {
		slog.Info(what, "reason", err)
		w.said = now
	}
}

// check returns an error if a pod with our annotations would not get a gate.
func (w *watch) check() error {
	if !w.plugin.connected.Load() {
		return errors.New("the engine is not connected")
	}
	settings, err := w.plugin.device()
	if err != nil || settings.GateSocket == "" { // without a socket, the gate is elsewhere
		return err
	}
	if _, err := control.Ask(settings.GateSocket, time.Now().Add(time.Second), control.Request{}); err != nil {
		return err
	}
	return w.attach(settings)
}

// attach makes a gate that has just started serve the containers that the last gate served, at new
// listeners. In a pod, no service manager keeps the last gate's listeners.
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
			slog.Warn("the new gate cannot serve a container", "container", e.Container, "error", hook.Detail(err))
		}
	}
	slog.Info("a new gate is running", "containers", len(living))
	w.gate = socket.Ino
	return nil
}
