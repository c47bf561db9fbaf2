// The attach command: makes new listeners in living containers' networks after the gate has lost
// its listeners there.

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/store"
)

func attachCommand(given *hook.Settings) *cli.Command {
	return &cli.Command{
		Name:  "attach",
		Usage: "serve living containers again after the gate was killed",
		Description: `Makes the gate serve the living containers that hooks have handed over to it. --gate-socket names
the gate's socket. Without the flag, it is the socket of the installed hooks. Listeners that are not
lost stay. For rootless podman, attach runs itself in podman's user namespace, by podman unshare.`,
		Flags:  stageFlags(given, "attach"),
		Action: func(*cli.Context) error { return attach(*given) },
	}
}

func attach(given hook.Settings) error {
	s, err := checkedSettings(given)
	if err != nil {
		return err
	}

	if s.GateSocket == "" {
		s.GateSocket = installed().Settings.GateSocket
	}
	if s.GateSocket == "" {
		return misuse.Errorf("no installed hook names the gate's socket: give --gate-socket")
	}

	living, recordsErr := s.HandedOver()
	inside, err := store.InUserNamespace()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 && !inside && len(living) > 0 {
		return inPodmansNamespace(s)
	}

	attached := 0
	for _, e := range living {
		if err := s.Attach(e); err != nil {
			printError(fmt.Errorf("attach: container %.12s: %s%s", e.Container, hook.Detail(err), hook.WayOut(err)))
			continue
		}
		attached++
	}

	fmt.Printf("attached %d\n", attached)
	switch {
	case recordsErr != nil:
		return errors.New(hook.Detail(recordsErr))
	case attached < len(living):
		return fmt.Errorf("%d containers are without the gate", len(living)-attached)
	}
	return nil
}

// inPodmansNamespace replaces this process by one that runs attach in rootless podman's user
// namespace, which owns the networks of podman's containers.
func inPodmansNamespace(s hook.Settings) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	podman, err := exec.LookPath("podman")
	if err != nil {
		return err
	}
	err = syscall.Exec(podman, append([]string{"podman", "unshare", self}, s.Args("attach")...), os.Environ())
	return fmt.Errorf("run podman unshare: %w", err)
}
