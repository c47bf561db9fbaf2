// Restores the listeners and containers that the previous program served.

package networks

import (
	"errors"
	"log/slog"
	"os"
)

// Restore goes on where the previous program ended, with the files that it kept and their names.
// Restore closes the files.
func (n *Networks) Restore(files []*os.File) {
	n.mu.Lock()
	defer n.mu.Unlock()

	listeners := map[place]*os.File{}
	ended := map[uint64]bool{} // networks in which another process has ended a listener
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
			slog.Error("a file kept for the gate cannot be read", "name", file.Name(), "error", err)
			n.drop(file.Name())
			continue
		}
		members[file] = m
	}

	for file, m := range members {
		at := place{m.Cookie, m.Listen}
		if listeners[at] == nil && ended[m.Cookie] {
			n.drop(file.Name())
			n.losses.report(nameFor(keptListener, m.Request), m.Request)
			continue
		}
		if err := n.restoreMember(file.Name(), m, listeners[at]); err != nil {
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

// restoreMember serves one container again, at the listener of its network.
func (n *Networks) restoreMember(name string, m kept, socket *os.File) (err error) {
	at := place{m.Cookie, m.Listen}
	there := n.all[at]
	switch {
	case there == nil && socket == nil:
		return errors.New("its listener was not kept")
	case there == nil:
		if there, err = n.open(at, socket, socket.Name(), m.Service); err != nil {
			return err
		}
	}
	return n.add(there, name, m.Request)
}
