// The freeze and thaw commands: stop serving a container, a project or everything, and undo that.

package main

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

func freezeCommand() *cli.Command {
	return &cli.Command{
		Name:      "freeze",
		Usage:     "stop serving a container, a project or everything until thaw, and cut requests in progress",
		ArgsUsage: "[CONTAINER]",
		Flags:     frozenFlags(),
		Before:    misuse.OneArgument,
		Action:    func(c *cli.Context) error { return setFrozen(c, true) },
	}
}

func thawCommand() *cli.Command {
	return &cli.Command{
		Name:      "thaw",
		Usage:     "undo a freeze: each token allows what it allowed before",
		ArgsUsage: "[CONTAINER]",
		Flags:     frozenFlags(),
		Before:    misuse.OneArgument,
		Action:    func(c *cli.Context) error { return setFrozen(c, false) },
	}
}

func frozenFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "project", Usage: "the project `P`: its repository, and all requests of the containers whose own project it is"},
		&cli.BoolFlag{Name: "all", Usage: "everything"},
	}
}

// setFrozen freezes or thaws what the command line names.
func setFrozen(c *cli.Context, frozen bool) error {
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	target, err := frozenTarget(c, file, frozen)
	if err != nil {
		return err
	}

	changed := false
	err = file.EditFreezes(func(f *store.Freezes) bool {
		changed = target.set(f, frozen)
		return changed
	})
	if err != nil {
		return err
	}

	done := map[[2]bool]string{
		{true, true}: "frozen", {true, false}: "frozen already",
		{false, true}: "thawed", {false, false}: "not frozen",
	}[[2]bool{frozen, changed}]
	fmt.Printf("%s: %s\n", target, done)
	if changed {
		event := trail.Event{Event: trail.Frozen, Container: target.id, Project: target.project, From: "freeze"}
		if !frozen {
			event.Event, event.From = trail.Thawed, "thaw"
		}
		record(c.String("log-file"), event)
	}

	if frozen {
		return revokeElsewhere(c, file, target)
	}
	return adviseOfFreezes(file, target)
}

// freezable is what is to be frozen or thawed: a container, a project, or everything.
type freezable struct {
	id, name string // of a container; name is what the operator gave, or "" if the operator gave the id
	project  string
}

func (t freezable) String() string {
	switch {
	case t.id != "":
		return "container " + printable.Line(shortContainer(t.id))
	case t.project != "":
		return "project " + t.project
	}
	return "everything"
}

func (t freezable) set(f *store.Freezes, frozen bool) (changed bool) {
	switch {
	case t.id != "":
		return f.SetContainer(t.id, t.name, frozen)
	case t.project != "":
		return f.SetProject(t.project, frozen)
	}
	changed = f.All != frozen
	f.All = frozen
	return changed
}

// matches reports whether an entry's token belongs to t's container or is for t's project. If t is
// everything, matches returns true.
func (t freezable) matches(e store.Entry) bool {
	switch {
	case t.id != "":
		return e.Container == t.id
	case t.project != "":
		_, isFor := e.In(t.project)
		return isFor
	}
	return true
}

// containerNamed calls containerID for an argument of the command line. If that fails, the error also
// says how to find the container.
func containerNamed(c *cli.Context, file store.File, arg string) (id string, err error) {
	if id, err = containerID(c.Context, file, arg); err != nil {
		return "", fmt.Errorf("%s: %w: terok-gate list shows the containers that have tokens", misuse.Quote(arg), err)
	}
	return id, nil
}

// frozenTarget returns what the command line names. The command thaw also finds a container by the
// name that freeze was given, since podman may no longer know the container.
func frozenTarget(c *cli.Context, file store.File, frozen bool) (freezable, error) {
	given := 0
	for _, is := range []bool{c.Args().Present(), c.IsSet("project"), c.Bool("all")} {
		if is {
			given++
		}
	}
	switch project := c.String("project"); {
	case given != 1:
		return freezable{}, misuse.Errorf("give exactly one of CONTAINER, --project and --all")
	case c.Bool("all"):
		return freezable{}, nil
	case c.IsSet("project"):
		if err := store.CheckName(project); err != nil {
			return freezable{}, misuse.Errorf("--project: %w", err)
		}
		return freezable{project: project}, nil
	}

	arg := c.Args().First()
	if !frozen {
		switch ids, err := frozenAs(file, arg); {
		case err != nil:
			return freezable{}, err
		case len(ids) == 1:
			return freezable{id: ids[0]}, nil
		case len(ids) > 1:
			return freezable{}, fmt.Errorf("%s: this matches several frozen containers: give a full id, such as %s", misuse.Quote(arg), printable.Line(ids[0]))
		}
	}

	id, err := containerNamed(c, file, arg)
	if err != nil {
		return freezable{}, err
	}
	if id == arg {
		arg = ""
	}
	return freezable{id: id, name: arg}, nil
}

// frozenAs returns the ids of the frozen containers whose name is arg, or whose id begins with arg
// (at least shortID characters). If arg is the full id of a frozen container, frozenAs returns only
// that id.
func frozenAs(file store.File, arg string) (ids []string, err error) {
	freezes, err := file.Freezes()
	if err != nil {
		return nil, err
	}
	for _, id := range freezes.Frozen() {
		if id == arg {
			return []string{id}, nil
		}
		if isCalled(id, arg, freezes.Containers) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// revokeElsewhere revokes the target's tokens if the hooks have --gate-url and use this token file,
// since the gate at that URL may not support freezes.
func revokeElsewhere(c *cli.Context, file store.File, target freezable) error {
	hooks := installed().Settings
	if hooks.GateURL == "" || hooks.Tokens.Path != "" && hooks.Tokens.Path != file.Path {
		return nil
	}

	revoked, err := file.Revoke(target.matches)
	recordAll(c, trail.Revoked, revoked)
	if err == nil {
		fmt.Fprintf(os.Stderr, "terok-gate: the hooks have --gate-url, and that gate may not support freezes: tokens revoked: %d; thaw cannot restore them\n", len(revoked))
	}
	return err
}

// adviseOfFreezes prints which freeze still applies to what was thawed: the freeze of everything or
// else, for a container, the freeze of its own project. After a thaw of everything, it prints how
// many freezes are left.
func adviseOfFreezes(file store.File, target freezable) error {
	freezes, err := file.Freezes()
	if err != nil {
		return err
	}
	switch {
	case freezes.All && target != (freezable{}):
		fmt.Fprintln(os.Stderr, "terok-gate: everything is still frozen: terok-gate thaw --all")
	case target == (freezable{}) && len(freezes.Containers)+len(freezes.Projects) > 0:
		fmt.Fprintf(os.Stderr, "terok-gate: still frozen by freezes of their own: containers: %d, projects: %d\n", len(freezes.Containers), len(freezes.Projects))
	case target.id != "":
		return file.Each(func(e store.Entry) {
			if e.Container == target.id && freezes.Check(e.Container, e.Project, e.Project) != nil {
				fmt.Fprintf(os.Stderr, "terok-gate: its project is still frozen: terok-gate thaw --project %s\n", printable.Shell(e.Project))
			}
		})
	}
	return nil
}
