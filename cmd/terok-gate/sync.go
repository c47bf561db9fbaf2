// The sync command: brings upstream's commits into the gate's repositories.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/desk"
	"terok-gate-hook/engines"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/store"
)

func syncCommand() *cli.Command {
	return &cli.Command{
		Name:      "sync",
		Usage:     "bring upstream's commits in, for all projects with a source or for some of them",
		ArgsUsage: "[PROJECT]...",
		Description: `A branch or tag that only upstream has moved gets upstream's value. One that only containers
have moved stays as it is. One that both have moved stays, too, and sync names it.

   terok-gate sync
   terok-gate sync --reset main demo
   terok-gate sync --every 15m`,
		Flags: []cli.Flag{
			reposFlag(), desksFlag(),
			&cli.StringSliceFlag{Name: "reset", Usage: "set the branch or full ref name `REF` to what upstream has; the old tip is kept; repeatable"},
			&cli.DurationFlag{Name: "keep", DefaultText: "the gate's", Usage: "drop old tips that have been kept for longer than `T`; a running gate does so by itself"},
			&cli.DurationFlag{Name: "timeout", Value: desk.TransferWithin, Usage: "give up on a project that takes longer than `T`, and go on with the next one"},
			&cli.DurationFlag{Name: "every", DefaultText: "never", Usage: "make systemd run this command with your keys, at once and then `T` after each run; 0 removes the timer"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON, for programs"},
		},
		Action: syncProjects,
	}
}

// checkKeep returns an error if --keep makes no sense.
func checkKeep(c *cli.Context) error {
	if c.IsSet("keep") && c.Duration("keep") <= 0 {
		return misuse.Errorf("--keep %s: must be more than 0", c.Duration("keep"))
	}
	return nil
}

// synced is what was done for a project, as programs see it with --json.
type synced struct {
	Project string        `json:"project"`
	Moved   []desk.Change `json:"moved"`
	Waits   []desk.Change `json:"waits"`
	Head    string        `json:"head,omitempty"`
	Error   string        `json:"error,omitempty"`
}

func syncProjects(c *cli.Context) error {
	saveTime()
	reset, err := refsNamed(c.StringSlice("reset"))
	if err != nil {
		return err
	}
	if len(reset) > 0 && c.NArg() != 1 {
		return misuse.Errorf("--reset is for one project: name it, after the flags")
	}
	if err := checkKeep(c); err != nil {
		return err
	}
	if err := checkTimeout(c); err != nil {
		return err
	}
	if c.IsSet("every") {
		return syncRegularly(c)
	}
	projects, err := projectsOf(c)
	if err != nil {
		return err
	}

	all := []synced{}
	failed := eachProject(c, projects, func(project string) error {
		done, err := syncProject(c, project, reset)
		if err != nil {
			done.Error = err.Error()
		}
		if all = append(all, done); !c.Bool("json") {
			printSynced(done)
		}
		return err
	})
	if c.Bool("json") {
		if err := printIndented(all); err != nil {
			return err
		}
	}
	return failed
}

// syncRegularly makes a systemd timer run this command without --every, or removes the timer.
func syncRegularly(c *cli.Context) error {
	every := c.Duration("every")
	switch {
	case c.IsSet("reset") || c.Bool("json"):
		return misuse.Errorf("--every cannot be combined with --reset or --json")
	case every != 0 && every < time.Minute:
		return misuse.Errorf("--every %s: a minute at least, or 0 for never", every)
	}
	place, err := engines.OwnPlace()
	if err != nil {
		return err
	}
	if _, there, _ := place.Registration(); !there && every != 0 {
		return errors.New("run terok-gate install first: without it, terok-gate uninstall would not find the timer")
	}
	if !place.Systemd {
		return errors.New("there is no systemd here: run terok-gate sync by cron(8)")
	}

	var command []string
	if every != 0 {
		if command, err = regularCommand(c); err != nil {
			return err
		}
	}
	plan, err := place.SyncPlan(command, every)
	if err != nil {
		return explain(err)
	}
	if err := plan.CarryOut(c.Context, func(what, which string) { fmt.Println(what, which) }); err != nil {
		return err
	}
	if every != 0 && place.User && !engines.Lingers() {
		fmt.Fprintln(os.Stderr, "terok-gate: systemd ends the timer when you log out; for it to go on: loginctl enable-linger")
	}
	return nil
}

// regularCommand returns the timer's command line, with absolute paths.
func regularCommand(c *cli.Context) (words []string, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	repos, err := reposOf(c)
	if err != nil {
		return nil, err
	}
	desks, err := desksOf(c)
	if err != nil {
		return nil, err
	}

	words = []string{self}
	if file := c.String("log-file"); file != "" {
		if file, err = filepath.Abs(file); err != nil {
			return nil, err
		}
		words = append(words, "--log-file", file)
	}
	words = append(words, "sync", "--repos", repos, "--desks", desks)
	for _, flag := range []string{"keep", "timeout"} {
		if c.IsSet(flag) {
			words = append(words, "--"+flag, c.Duration(flag).String())
		}
	}
	for _, project := range c.Args().Slice() {
		if err := store.CheckName(project); err != nil {
			return nil, misuse.Errorf("project %w", err)
		}
		words = append(words, project)
	}
	return words, nil
}

// refsNamed returns the full names of refs.
func refsNamed(names []string) (full []string, err error) {
	for _, name := range names {
		ref, err := desk.FullRef(name)
		if err != nil {
			return nil, misuse.Errorf("%w", err)
		}
		full = append(full, ref)
	}
	return full, nil
}

// syncProject syncs a project, and gives up after --timeout.
func syncProject(c *cli.Context, project string, reset []string) (synced, error) {
	timeout := c.Duration("timeout")
	ctx, cancel := context.WithTimeoutCause(c.Context, timeout, fmt.Errorf("not done within %s: see --timeout", timeout))
	defer cancel()

	within := *c
	within.Context = ctx
	done, err := syncUntilDone(&within, project, reset)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return done, err
}

func syncUntilDone(c *cli.Context, project string, reset []string) (synced, error) {
	done := synced{Project: project, Moved: []desk.Change{}, Waits: []desk.Change{}}
	d, err := deskOf(c, project)
	if err != nil {
		return done, err
	}
	result, err := d.Sync(c.Context, reset...)
	done.Moved = append(done.Moved, result.Moved...)
	done.Waits = append(done.Waits, result.Waits...)
	done.Head = result.Head
	if err != nil {
		return done, err
	}
	if !c.IsSet("keep") {
		return done, nil
	}
	_, err = d.Gate.Expire(c.Context, time.Now().Add(-c.Duration("keep")))
	return done, err
}

// printSynced prints a line for each ref that has moved, or waits.
func printSynced(s synced) {
	line := func(ref, format string, a ...any) {
		fmt.Println(printable.Line(s.Project + ": " + desk.ShortRef(ref) + ": " + fmt.Sprintf(format, a...)))
	}
	for _, c := range s.Moved {
		line(c.Ref, "%s", whatMoved(c))
	}
	if s.Head != "" {
		line("HEAD", "%s", desk.ShortRef(s.Head))
	}
	for _, c := range s.Waits {
		line(c.Ref, "waits: %s", c.Why)
	}
}

func whatMoved(c desk.Change) string {
	var what string
	switch {
	case c.Old == "":
		what = "created " + short(c.New)
	case c.New == "":
		what = "deleted " + short(c.Old)
	default:
		what = short(c.Old) + " to " + short(c.New)
	}
	if c.Kept != "" {
		what += "; the old tip is kept"
	}
	return what
}
