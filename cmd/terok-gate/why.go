// The why command: prints the reasons of recent refusals.

package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

func whyCommand() *cli.Command {
	return &cli.Command{
		Name:      "why",
		Usage:     "print why the last refused containers were refused, and what to do",
		ArgsUsage: "[CONTAINER]",
		Before:    misuse.OneArgument,
		Action:    why,
	}
}

// mostReasons is the largest number of refusals that why prints.
const mostReasons = 10

func why(c *cli.Context) error {
	file := logFile(c.String("log-file"))
	events, err := trail.Complaints(c.Context, file)
	names, _ := engines.ContainerNames(c.Context) // without podman, ids are printed
	frozen := printFrozen(c, names)
	if c.Args().Present() {
		arg := c.Args().First()
		events = slices.DeleteFunc(events, func(e trail.Event) bool { return !isCalled(e.Container, arg, names) })
		if len(events) == 0 && !frozen && err == nil {
			err = fmt.Errorf("no refusal of a container %s is recorded in %s: without CONTAINER, terok-gate why prints the refusals of all containers", misuse.Quote(arg), placesOf(file))
		}
	}
	if len(events) == 0 && !frozen && err == nil {
		fmt.Fprintln(os.Stderr, "terok-gate: no refusal is recorded in "+placesOf(file))
	}
	for _, e := range events[max(0, len(events)-mostReasons):] {
		printReason(os.Stdout, e, names)
	}
	return err
}

// printFrozen prints each frozen container that the command line means, or why it cannot tell which
// are frozen. It reports whether it has printed anything.
func printFrozen(c *cli.Context, names map[string]string) (found bool) {
	file, err := tokenFile(c)
	if err != nil {
		return false // without a token file, no token is frozen
	}
	freezes, err := file.Freezes()
	if err != nil {
		fmt.Println(printable.Line(err.Error()))
		return true
	}

	arg := c.Args().First()
	_ = file.Each(func(e store.Entry) {
		reason := freezes.Check(e.Container, e.Project, e.Project)
		if reason == nil || e.Container == "" || arg != "" && !isCalled(e.Container, arg, names) {
			return
		}
		found = true
		fmt.Printf("container %s project %.128q: %v: see terok-gate thaw --help\n",
			printable.Line(shortContainer(e.Container)), e.Project, reason)
	})
	return found
}

// isCalled reports whether arg is the container's name, its id, or at least the first shortID
// characters of its id.
func isCalled(id, arg string, names map[string]string) bool {
	return id != "" && (names[id] == arg || len(arg) >= shortID && strings.HasPrefix(id, arg))
}

// printReason prints which container was refused, when, and why.
func printReason(w io.Writer, e trail.Event, names map[string]string) {
	line := e.Time.Local().Format(time.DateTime) + " container " + cmp.Or(shortContainer(e.Container), "-")
	if name := names[e.Container]; name != "" {
		line += " (" + name + ")"
	}
	for _, of := range [][2]string{{"project", e.Project}, {"task", e.Task}} {
		if of[1] != "" {
			line += fmt.Sprintf(" %s %.128q", of[0], of[1])
		}
	}
	fmt.Fprintf(w, "%s\n    %s\n", printable.Line(line), printable.Line(e.Error))
	if flag := admittedBy.FindString(e.Error); flag != "" {
		fmt.Fprintf(w, "    to see what is admitted: terok-gate install --show; to admit more, add %s to what it prints\n", flag)
	}
}

// admittedBy finds the flag of install that did not admit what a container asked for. The output has
// no command to paste, since the container's author would choose what the command admits.
var admittedBy = regexp.MustCompile(`--allow-[a-z]+$`)

// placesOf names the places that why searches.
func placesOf(file string) string {
	if file == "" {
		return "the journal"
	}
	return file + " or the journal"
}
