// Connects git in the desk with git in another repository, by pipes.

package desk

import (
	"fmt"
	"os"
	"os/exec"
)

// peerAddress is the peer's address for a command in the desk: two descriptors
// (git-remote-fd(1)).
const peerAddress = "fd::3,4"

// connect runs two commands, here and peer, that speak to each other: here runs in the desk and speaks
// to peerAddress, and peer speaks to its standard input and output.
func connect(here, peer *exec.Cmd) error {
	toPeer, fromHere, err := os.Pipe()
	if err != nil {
		return err
	}
	toHere, fromPeer, err := os.Pipe()
	if err != nil {
		toPeer.Close()
		fromHere.Close()
		return err
	}

	peer.Stdin, peer.Stdout = toPeer, fromPeer
	peerSaid := keepErrors(peer)
	err = peer.Start()
	toPeer.Close()
	fromPeer.Close()
	if err != nil {
		fromHere.Close()
		toHere.Close()
		return failure(err, peerSaid)
	}

	here.ExtraFiles = []*os.File{toHere, fromHere}
	said := keepErrors(here)
	err = here.Start()
	toHere.Close()
	fromHere.Close()
	if err == nil {
		err = here.Wait()
	}
	err = failure(err, said)

	peerErr := failure(peer.Wait(), peerSaid)
	switch {
	case err != nil && peerErr != nil:
		return fmt.Errorf("%w; its peer: %w", err, peerErr)
	case err != nil:
		return err
	}
	return nil // if git in the desk has succeeded, a failure of its peer came too late to matter
}
