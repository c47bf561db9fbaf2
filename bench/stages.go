package main

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// stages are what the programs took on a token file of so many tokens.
type stages struct {
	Tokens, Living int
	Took           series
}

// compared run once in each round, in this order.
var compared = []string{
	"floor", "prestart", "poststop", "python prestart", "python poststop", "shell prestart", "shell poststop",
}

func (w *world) stages(tokens, living, rounds int) (stages, error) {
	s := stages{tokens, living, series{}}
	if err := w.furnish(tokens, living); err != nil {
		return s, err
	}
	defer w.end()
	if tokens > 1000 {
		rounds = max(1, rounds/4)
	}
	for i := range rounds {
		state, _, end, err := w.container(fmt.Sprintf("c0ffee%04d", i), 0)
		if err != nil {
			return s, err
		}
		defer end()
		for _, name := range compared {
			if strings.HasSuffix(name, "poststop") {
				end()
			}
			unix.Sync() // what others left to the disk is not this one's
			took, err := timed(w.command(name), state)
			if err != nil {
				return s, err
			}
			s.Took.add(name, took)
		}
	}
	return s, nil
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
