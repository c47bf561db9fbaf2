// The doctor command: checks everything between podman or Docker and the gate, and prints fixes.

package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/doctor"
	"terok-gate-hook/engines"
	"terok-gate-hook/internal/printable"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "check everything between podman or Docker and the gate; exit status 1 if something is broken",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "gate-url", Usage: "the gate's `URL` as the container reaches it; default: as installed"},
			&cli.StringFlag{Name: "gate-user", Usage: "check that the gate's `user` can read the token file"},
			&cli.StringFlag{Name: "project", Usage: "the project `P` that the probe container asks for"},
			&cli.StringFlag{Name: "network", Usage: "the probe container's `network`, as podman run or docker run takes it"},
			&cli.StringFlag{Name: "image", Usage: "the probe container's `image`; by default, the container borrows this machine's programs"},
			&cli.BoolFlag{Name: "repair", Usage: "fix what is safe to fix; a corrupt token file is set aside"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON, for programs"},
		},
		Action: examine,
	}
}

func examine(c *cli.Context) error {
	place, err := engines.OwnPlace()
	if err != nil {
		return err
	}

	d := doctor.Doctor{
		Place: place, GateURL: c.String("gate-url"), GateUser: c.String("gate-user"),
		Project: c.String("project"), Network: c.String("network"), Image: c.String("image"), Repair: c.Bool("repair"),
		TokenFile: c.String("token-file"), LogFile: c.String("log-file"),
	}
	for _, path := range []*string{&d.TokenFile, &d.LogFile} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if d.Binary, err = hookBinary(); err != nil {
		return err
	}

	ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
	defer stop()
	findings := []doctor.Finding{}
	broken := 0
	d.Examine(ctx, func(f doctor.Finding) {
		f.Text, f.Remedy = printable.Line(f.Text), printable.Line(f.Remedy)
		if f.State == doctor.Broken {
			broken++
		}
		findings = append(findings, f)
		if !c.Bool("json") {
			printFinding(os.Stdout, f) // at once, since a probe takes seconds
		}
	})

	if c.Bool("json") {
		if err := printIndented(findings); err != nil {
			return err
		}
	}

	if broken > 0 {
		return fmt.Errorf("problems found: %d", broken)
	}
	return nil
}

// arrow stands between a finding and what fixes it.
const arrow = "→"

// printFinding prints a line: a mark, the finding, and what fixes it.
func printFinding(w *os.File, f doctor.Finding) {
	mark := paint(w, green, "✓")
	switch f.State {
	case doctor.Warning:
		mark = paint(w, yellow, "!")
	case doctor.Broken:
		mark = paint(w, red, "✗")
	}

	// People paste what follows the arrow. The text may quote an annotation, whose author must not
	// be able to put an arrow there.
	line := strings.ReplaceAll(f.Text, arrow, `\u2192`)
	if f.Remedy != "" {
		line += " " + arrow + " " + f.Remedy
	}
	fmt.Fprintf(w, "%s %s: %s\n", mark, f.Check, line)
}
