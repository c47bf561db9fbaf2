// What is kept for the next gate, so that containers do not feel that the gate is
// replaced: the listeners and, for each container, what its hook said.

package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/control"
	"terok-gate-hook/store"
)

// Keeper keeps files for the next gate, under names, while there is none: a service
// manager. It may be called by many goroutines at once.
type Keeper interface {
	Keep(name string, file *os.File) error
	Drop(name string) error
}

// nobody keeps nothing.
type nobody struct{}

func (nobody) Keep(string, *os.File) error { return nil }
func (nobody) Drop(string) error           { return nil }

// IsKept tells whether a file of this name is one for [Gate.Restore].
func IsKept(name string) bool {
	return strings.HasPrefix(name, keptListener) || strings.HasPrefix(name, keptContainer)
}

const (
	keptListener  = "listener-"
	keptContainer = "container-"
)

// nameFor names what is kept for a container. No two lives of it have the same name.
func nameFor(what string, r control.Request) string {
	return what + r.Container + "-" + store.Token(r.Token).Fingerprint()
}

// kept is what is kept of a member, beside the listener.
type kept struct {
	Cookie uint64 `json:"cookie"`
	control.Request
}

func (n *networks) keepMember(name string, cookie uint64, r control.Request) error {
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
		err = n.keep.Keep(name, file)
	}
	if err != nil {
		return fmt.Errorf("keep the container: %w", err)
	}
	return nil
}

// Restore goes on where the last gate ended: files are what that had kept, by the names
// that it gave them. It closes them.
func (g *Gate) Restore(files []*os.File) {
	n := g.networks
	n.mu.Lock()
	defer n.mu.Unlock()
	listeners := map[place]*os.File{}
	ended := map[uint64]bool{} // networks in which somebody has ended a listener
	members := map[*os.File]kept{}
	for _, file := range files {
		defer file.Close()
		if s, err := examine(file); err == nil && s.listens {
			listeners[place{s.cookie, s.address}] = file
			continue
		} else if err == nil {
			ended[s.cookie] = true
			n.drop(file.Name())
			continue
		}
		m, err := readKept(file)
		if err != nil {
			slog.Error("what was kept is not understood", "name", file.Name(), "error", err)
			n.drop(file.Name())
			continue
		}
		members[file] = m
	}
	for file, m := range members {
		at := place{m.Cookie, m.Listen}
		if listeners[at] == nil && ended[m.Cookie] {
			n.drop(file.Name())
			n.report(nameFor(keptListener, m.Request), m.Request)
			continue
		}
		if err := n.restore(file.Name(), m, listeners[at]); err != nil {
			slog.Error("serve a container again", "container", m.Container, "error", err)
			n.drop(file.Name())
		}
	}
	for at, socket := range listeners {
		switch there := n.all[at]; {
		case there == nil:
			n.drop(socket.Name())
		case len(there.members) == 0:
			n.close(there)
		}
	}
}

// restore serves one container again, at the listener of its network.
func (n *networks) restore(name string, m kept, socket *os.File) (err error) {
	at := place{m.Cookie, m.Listen}
	there := n.all[at]
	switch {
	case there == nil && socket == nil:
		return errors.New("its listener was not kept")
	case there == nil:
		if there, err = n.open(at, socket, socket.Name()); err != nil {
			return err
		}
	}
	return n.add(there, name, m.Request)
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
