// Answers the engine, and keeps the connection to it.

package main

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"

	"terok-gate-hook/engines"
	"terok-gate-hook/hook"
)

// again is how long the plugin waits before it connects again.
const again = 200 * time.Millisecond

type plugin struct {
	allowed   allowed
	place     engines.Place // where the file of devices is
	connected atomic.Bool
}

// CreateContainer is called before the engine creates a container. If it returns an error, the
// container is not created, and the error is in the pod's events.
func (p *plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	adjustment, err := p.adjust(pod, c)
	name := []any{"namespace", pod.GetNamespace(), "pod", pod.GetName(), "container", c.GetName()}
	switch {
	case err != nil:
		slog.Warn("refused", append(name, "error", hook.Detail(err))...)
		return nil, nil, fmt.Errorf("terok-nri: %w", err)
	case adjustment != nil:
		slog.Info("gave the device", append(name, "project", adjustment.Annotations[hook.ProjectAnnotation])...)
	}
	return adjustment, nil, nil
}

// adjust returns the changes to a container, or nil if the container is left alone.
func (p *plugin) adjust(pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, error) {
	// The annotations are read first without the device's settings: most containers ask for
	// nothing.
	if _, asked, err := (hook.Settings{}).PodContainer(pod.GetAnnotations(), c.GetName(), nil); !asked {
		return nil, err
	}
	settings, err := p.device()
	if err != nil {
		return nil, err
	}
	asked, _, err := settings.PodContainer(pod.GetAnnotations(), c.GetName(), c.GetEnv())
	if err != nil {
		return nil, err
	}
	if err := p.allowed.check(pod.GetNamespace(), asked.Projects); err != nil {
		return nil, err
	}

	adjustment := &api.ContainerAdjustment{}
	adjustment.AddCDIDevice(&api.CDIDevice{Name: engines.DeviceKind + "=" + engines.AnnotatedDevice})
	for annotation, value := range asked.Annotations {
		adjustment.AddAnnotation(annotation, value)
	}
	// The hook must read only the annotations that were judged here. Engines can also pass on those
	// of the pod, and those of a device plugin.
	for annotation := range c.GetAnnotations() {
		base, _, _ := strings.Cut(annotation, "/")
		if _, judged := asked.Annotations[annotation]; hook.IsOurs(base) && !judged {
			adjustment.RemoveAnnotation(annotation)
		}
	}
	for _, variable := range asked.Env {
		if name, value, _ := strings.Cut(variable, "="); !slices.Contains(c.GetEnv(), variable) {
			adjustment.AddEnv(name, value)
		}
	}
	return adjustment, nil
}

// device returns the settings of the device's hook. It returns an error if the device or the hook
// is missing.
func (p *plugin) device() (hook.Settings, error) {
	devices, program, err := p.place.ReadDevices()
	if err != nil {
		return hook.Settings{}, err
	}
	settings, has := devices[engines.AnnotatedDevice]
	if !has {
		return hook.Settings{}, fmt.Errorf("%s has no device %s: terok-gate install writes it", p.place.Devices, engines.AnnotatedDevice)
	}
	if info, err := os.Stat(program); err != nil {
		return hook.Settings{}, fmt.Errorf("the hook: %w", err)
	} else if info.Mode()&0o111 == 0 {
		return hook.Settings{}, fmt.Errorf("the hook: %s: %w", program, fs.ErrPermission)
	}
	return settings, nil
}

// serve answers the engine until the context ends. It connects again after the engine has
// restarted.
func (p *plugin) serve(ctx context.Context, socket string) {
	var last string
	for ctx.Err() == nil {
		err := p.serveOnce(ctx, socket)
		p.connected.Store(false)
		if why := fmt.Sprint(err); why != last && ctx.Err() == nil {
			slog.Warn("not connected to the engine: trying again", "error", why)
			last = why
		}
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
}

// serveOnce answers the engine until the connection or the context ends.
func (p *plugin) serveOnce(ctx context.Context, socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	watched := &watched{Conn: conn, ended: make(chan struct{})}
	defer watched.Close()

	s, err := stub.New(p, stub.WithPluginName("terok"), stub.WithPluginIdx("50"), stub.WithConnection(watched),
		// An engine whose NRI has no such policy goes on if the plugin does not answer.
		stub.WithFailurePolicy(&api.FailurePolicy{FailRequest: true}))
	if err != nil {
		return err
	}
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()

	// NRI's Run waits for ever if the connection ends before the engine has configured the plugin.
	select {
	case err = <-ran:
	case <-watched.ended:
		err = net.ErrClosed
	}
	return err
}

// Synchronize is called when the engine has admitted the plugin.
func (p *plugin) Synchronize(context.Context, []*api.PodSandbox, []*api.Container) ([]*api.ContainerUpdate, error) {
	slog.Info("connected to the engine")
	p.connected.Store(true)
	return nil, nil
}

// watched is a connection. When it can no longer be read, it closes its channel, ended.
type watched struct {
	net.Conn
	once  sync.Once
	ended chan struct{}
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err != nil {
		w.once.Do(func() { close(w.ended) })
	}
	return n, err
}
