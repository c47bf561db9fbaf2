// Keeps listeners and, for each container, the request of its hook, so that the next gate can
// go on serving the containers.

package networks

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/control"
	"terok-gate-hook/store"
)

// Keeper keeps files under names until the next gate starts, as a service manager does. It must be
// safe for concurrent use.
type Keeper interface {
	Keep(name string, file *os.File) error
	Drop(name string) error
}

// noKeeper keeps nothing.
type noKeeper struct{}

func (noKeeper) Keep(string, *os.File) error { return nil }
func (noKeeper) Drop(string) error           { return nil }

// IsKept reports whether a file that was kept under this name is for [Networks.Restore].
func IsKept(name string) bool {
	return strings.HasPrefix(name, keptListener) || strings.HasPrefix(name, keptContainer)
}

const (
	keptListener  = "listener-"
	keptContainer = "container-"
)

// nameFor returns the name under which something is kept for a container. Each start of the
// container has its own names, and so has each of its listeners.
func nameFor(what string, r control.Request) string {
	name := what + r.Container + "-" + store.Token(r.Token).Fingerprint()
	if r.Service != "" {
		name += "-" + r.Service
	}
	return name
}

// kept is what the next gate must know of a member: the network, and the hook's request.
type kept struct {
	Cookie uint64 `json:"cookie"`
	control.Request
}

func keepMember(keep Keeper, name string, cookie uint64, r control.Request) error {
	text, err := json.Marshal(kept{cookie, r})
	if err != nil {
		return err
	}

	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("keep the container: %w", err)
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()

	if _, err = file.Write(text); err == nil {
		err = keep.Keep(name, file)
	}
	if err != nil {
		return fmt.Errorf("keep the container: %w", err)
	}
	return nil
}

func readKept(file *os.File) (m kept, err error) {
	text, err := io.ReadAll(io.NewSectionReader(file, 0, 2*control.MessageLimit))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, err
	}
	m.Request, err = control.Parse(text)
	return m, err
}
