// The attach command: the gate in containers' networks again, after one that was lost.

package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/store"
)

func attachCommand(given *hook.Settings) *cli.Command {
	return &cli.Command{
		Name: "attach", Category: forAdministrators,
		Usage: "have a gate that was killed or moved serve the networks of living containers again",
		Description: `Takes the gate's socket and the token file from the installed hooks, unless told. What
a container has already stays. For a rootless podman it goes into podman's own user
namespace, by podman unshare.`,
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
		s.GateSocket = installedGateSocket()
	}
	if s.GateSocket == "" {
		return misuse.Errorf("no installed hook names the gate's socket: give --gate-socket")
	}
	if s.Tokens, err = orDefault(s.Tokens); err != nil {
		return err
	}
	var living []store.Entry
	err = s.Tokens.Each(func(e store.Entry) {
		if e.Gate != nil && e.State() == store.Live {
			living = append(living, e)
		}
	})
	if err != nil {
		return err
	}
	inside, err := store.InUserNamespace()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 && !inside && len(living) > 0 {
		return inPodmansNamespace(s)
	}
	failed := 0
	for _, e := range living {
		if err := s.Attach(e); err != nil {
			failed++
			printError(fmt.Errorf("attach: container %.12s: %s%s", e.Container, hook.Detail(err), wayOut(err)))
		}
	}
	fmt.Printf("attached %d\n", len(living)-failed)
	if failed > 0 {
		return fmt.Errorf("%d containers are without the gate", failed)
	}
	return nil
}

// installedGateSocket is the one that the installed hooks are told, if there is one.
func installedGateSocket() string {
	place, err := placeOfOurs()
	if err != nil {
		return ""
	}
	installed, _, _ := place.Registration()
	return installed.Settings.GateSocket
}

// inPodmansNamespace runs the command in the user namespace that the networks of a
// rootless podman's containers belong to.
func inPodmansNamespace(s hook.Settings) (err error) {
	if s.Tokens.Path, err = filepath.Abs(s.Tokens.Path); err != nil {
		return err
	}
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
