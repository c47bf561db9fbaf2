// Checks that terok-gate forward answers hooks, reaches its services of the host, and serves them to all
// living containers that may use them.

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/engines"
	"terok-gate-hook/hook"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/version"
)

func (e *examination) services() {
	if e.theGate == nil || len(e.settings.Services) == 0 {
		return
	}
	socket := control.ForwardSocket(e.settings.GateSocket)

	forwarder, err := ask(socket, control.Request{})
	switch {
	case err != nil:
		e.noForward(socket, err)
		return
	case !samePlace(forwarder.TokenFile, e.theGate.TokenFile):
		e.broken(fmt.Sprintf("terok-gate forward reads %s, and the hooks write %s: it knows none of their tokens", forwarder.TokenFile, e.theGate.TokenFile), e.forwardAnew())
		return
	case forwarder.Program != version.String():
		e.warn(fmt.Sprintf("the terok-gate forward that runs is %s, and terok-gate-hook is %s", forwarder.Program, version.String()), e.restartForward())
	}

	var reached []string
	for _, given := range e.settings.Services {
		service, err := hook.ParseService(given)
		if err != nil { // reported by the check of definitions
			continue
		}
		if e.reaches(socket, service) {
			reached = append(reached, service.Name)
		}
		if !e.listensFor(socket, service.Name) {
			return
		}
	}
	if len(reached) > 0 {
		e.ok(fmt.Sprintf("terok-gate forward answers at %s, and reaches %s", socket, strings.Join(reached, ", ")))
	}
}

// reaches reports whether terok-gate forward reaches a service.
func (e *examination) reaches(socket string, service hook.Service) bool {
	_, err := ask(socket, control.Request{Service: service.Name})
	switch {
	case err == nil:
		return true
	case errors.Is(err, control.NoService):
		e.broken("terok-gate forward does not have service "+service.Name+", and a container that asks for it does not start", e.forwardAnew())
		return false
	}

	conn, err := net.DialTimeout(service.Network, service.Address, 3*time.Second)
	if err != nil {
		e.warn(fmt.Sprintf("service %s: %v", service.Name, err), "start the service there, or give install another address with --service, which replaces the whole list; to see the list: "+e.ourselves("install", "--show"))
		return false
	}
	conn.Close()
	text := fmt.Sprintf("service %s: something answers at %s, but terok-gate forward does not reach it", service.Name, service.Address)
	if service.Network == "unix" {
		e.broken(text, owners(service.Address))
	} else {
		e.broken(text, e.forwardAnew())
	}
	return false
}

// listensFor reports the living containers that may use a service but are not served. It returns false if
// terok-gate forward does not answer.
func (e *examination) listensFor(socket, service string) bool {
	served, unserved, err := e.whoIsServed(socket, service)
	if err != nil {
		e.broken(fmt.Sprintf("terok-gate forward at %s: %v", socket, err), e.restartForward())
		return false
	}
	if without := e.notDisplaced(served, unserved, service, "what it sends to service "+service); len(without) > 0 {
		e.broken("living containers without service "+service+": "+named(without...), e.ourselves("attach"))
	}
	return true
}

// noForward reports why terok-gate forward did not answer.
func (e *examination) noForward(socket string, err error) {
	reason := err.Error()
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		reason = socket + " does not exist"
	case errors.Is(err, unix.ECONNREFUSED) && isSocket(socket):
		reason = socket + " was left by a terok-gate forward that was killed"
	case errors.Is(err, unix.ECONNREFUSED):
		e.broken(socket+" is not a socket of terok-gate forward", printable.Shell("mv", socket, socket+".away")+" && "+e.startForward())
		return
	}
	e.broken("terok-gate forward does not answer: "+reason+"; without terok-gate forward, no container that asks for a service starts", e.startForward())
}

// forwardUnit returns systemd's state of the service that runs terok-gate forward, or "" if systemd knows no
// such service.
func (e *examination) forwardUnit() string {
	if !e.Place.Systemd {
		return ""
	}
	says, err := e.Place.ForwardState(e.ctx)
	if err != nil || !strings.Contains(says, "ExecStart=") {
		return ""
	}
	return says
}

// startForward returns the command that starts terok-gate forward, which does not answer.
func (e *examination) startForward() string {
	switch unit := e.forwardUnit(); {
	case strings.Contains(unit, "ActiveState=active"):
		return e.forwardAnew() // it listens somewhere else, or hangs
	case unit != "":
		return e.systemctl(engines.ForwardUnitName, "enable", "--now") + "; if it fails: " + e.systemctl(engines.ForwardUnitName, "status")
	case e.gateUnit() != "":
		return e.install() // which writes the unit
	}
	return e.forwardByHand() + ", in a terminal of its own"
}

// restartForward returns the command that replaces a running terok-gate forward.
func (e *examination) restartForward() string {
	if e.forwardUnit() == "" {
		return "end it and start it again: " + e.forwardByHand() + ", in a terminal of its own; and then: " + e.ourselves("attach")
	}
	return e.systemctl(engines.ForwardUnitName, "restart")
}

// forwardAnew returns the command that runs terok-gate forward with the settings of the hooks.
func (e *examination) forwardAnew() string {
	if e.forwardUnit() != "" {
		return e.install()
	}
	return e.restartForward()
}

// forwardByHand returns the command that runs terok-gate forward for the hooks.
func (e *examination) forwardByHand() string {
	var args []string
	if file, err := e.hooksTokenFile(); err == nil {
		args = append(args, "--token-file", file)
	}
	args = append(args, "forward", "--control", control.ForwardSocket(e.settings.GateSocket))
	for _, given := range e.settings.Services {
		args = append(args, "--service", given)
	}
	return e.gateCommand(args...)
}
