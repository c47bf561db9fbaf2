// Measures one start and one stop of a container, for different numbers of tokens in the file.

package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stages is how long each program took. Living is the number of tokens in the file whose process is
// alive.
type stages struct {
	Tokens, Living int
	Took           series
}

// compared are the programs, in the order in which tables show them.
var compared = []string{
	"floor", "prestart", "poststop", "python prestart", "python poststop", "shell prestart", "shell poststop",
}

// stages measures each program with a container of its own and a fresh token file, so that
// none finds what another left. The order is random in each round.
func (w *world) stages(tokens, living, rounds int) (stages, error) {
	s := stages{tokens, living, series{}}
	if err := w.furnish(tokens, living); err != nil {
		return s, err
	}
	defer w.end()

	const id = "c0ffee"
	before, err := w.content(tokens)
	if err != nil {
		return s, err
	}
	after, err := w.content(tokens, id)
	if err != nil {
		return s, err
	}

	for i := range rounds {
		for _, at := range rand.Perm(len(compared)) {
			name := compared[at]
			if tokens > 1000 && i%4 != 0 && strings.Contains(name, " ") {
				continue // Python and shell take long, and nearly the same time in each round
			}

			took, err := w.stage(name, id, before, after)
			if err != nil {
				return s, err
			}
			s.Took.add(name, took)
		}
	}
	return s, nil
}

// stage runs a program for a new container with this id. before and after are what the
// token file holds when the container starts and when it has ended.
func (w *world) stage(name, id string, before, after []byte) (time.Duration, error) {
	state, _, end, err := w.container(id, 0)
	if err != nil {
		return 0, err
	}
	defer end()
	content := before
	if strings.HasSuffix(name, "poststop") {
		end()
		content = after
	}
	if err := w.put(content); err != nil {
		return 0, err
	}
	unix.Sync() // so that the program need not wait until earlier writes are on disk
	return timed(w.command(name), state)
}

func (s stages) String() string {
	text := fmt.Sprintf("%d tokens, %d with a living process:", s.Tokens, s.Living)
	for _, name := range compared {
		text += fmt.Sprintf(" %s %.2f ms", name, s.Took.median(name))
		if name != "floor" {
			text += fmt.Sprintf(" (%.2f)", s.Took.median(name)/s.Took.median("floor"))
		}
	}
	return text
}
