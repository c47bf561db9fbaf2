// Opens a project's desk (the operator's own repository for the project, see package desk), and the
// repository that the gate serves for the project. The commands that work with desks use this.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/desk"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

func desksFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "desks", TakesFile: true,
		Usage: "the directory `DIR` of your desks; default: REPOS-desk with --repos REPOS, else /var/lib/terok/desk for root, else terok-gate/desk in $XDG_DATA_HOME or ~/.local/share",
	}
}

// timeoutFlag is for commands that fetch from a source or push to it.
func timeoutFlag() cli.Flag {
	return &cli.DurationFlag{
		Name: "timeout", Value: desk.TransferWithin,
		Usage: "give up if a fetch from the source, or a push to it, takes longer than `T`",
	}
}

func checkTimeout(c *cli.Context) error {
	if c.Duration("timeout") <= 0 {
		return misuse.Errorf("--timeout %s: must be more than 0", c.Duration("timeout"))
	}
	return nil
}

// desksOf returns the directory of desks that the command line names, or the default. If
// another user can change the directory, desksOf returns an error.
func desksOf(c *cli.Context) (string, error) {
	directory, err := desksNamed(c)
	if err != nil {
		return "", err
	}
	return directory, desk.CheckDirectory(directory)
}

func desksNamed(c *cli.Context) (string, error) {
	if dir := c.String("desks"); dir != "" {
		return filepath.Abs(dir)
	}
	if c.String("repos") == "" {
		return desk.DefaultDirectory()
	}
	repos, err := reposOf(c)
	if err != nil {
		return "", err
	}
	if other, err := ownerOf(filepath.Dir(repos)); err != nil {
		return "", err
	} else if other != nil {
		return "", misuse.Errorf("no default directory of desks: %s can be changed by another user: name one with --desks", filepath.Dir(repos))
	}
	return repos + "-desk", nil
}

// gateOf returns the repository that the gate serves for a project. If refs move there, the trail
// names this command as the cause.
func gateOf(c *cli.Context, project string) (g desk.Gate, err error) {
	if err := store.CheckName(project); err != nil {
		return g, misuse.Errorf("project %w", err)
	}
	repos, err := reposOf(c)
	if err != nil {
		return g, err
	}
	g.Path, err = filepath.EvalSymlinks(filepath.Join(repos, project+".git"))
	if errors.Is(err, fs.ErrNotExist) {
		return g, fmt.Errorf("there is no project %s: see terok-gate projects", project)
	}
	if err != nil {
		return g, err
	}
	as, err := ownerOf(g.Path)
	if err != nil {
		return g, err
	}
	g.As = deskUser(as)
	g.Record = func(moved bool, changes []desk.Change) error {
		event := trail.Moving
		if moved {
			event = trail.Moved
		}
		var events []trail.Event
		for _, change := range changes {
			events = append(events, trail.Event{
				Event: event, Project: project, From: c.Command.Name, Ref: change.Ref, Old: change.Old, New: change.New,
			})
		}
		return trail.Write(logFile(c.String("log-file")), events...)
	}
	return g, nil
}

// deskUser returns the owner as package desk describes users.
func deskUser(o *owner) *desk.User {
	if o == nil {
		return nil
	}
	return &desk.User{UID: o.uid, GID: o.gid, Groups: o.groups, Home: o.home}
}

// deskOf opens a project's desk.
func deskOf(c *cli.Context, project string) (*desk.Desk, error) {
	gate, err := gateOf(c, project)
	if err != nil {
		return nil, err
	}
	directory, err := desksOf(c)
	if err != nil {
		return nil, err
	}
	sources, err := desk.Sources(directory)
	if err != nil {
		return nil, err
	}
	return openDesk(c, directory, project, sources[project].Source, gate)
}

func openDesk(c *cli.Context, directory, project, source string, gate desk.Gate) (*desk.Desk, error) {
	s := desk.Settings{Directory: directory, Project: project, Source: source, Gate: gate, Keep: c.Duration("keep"), Timeout: c.Duration("timeout")}
	if s.Local = desk.IsDirectory(source); s.Local {
		reader, err := ownerOfRepository(source)
		if err != nil {
			return nil, err
		}
		s.SourceAs = deskUser(reader)
	}
	return desk.Open(c.Context, s)
}

// short returns the part of an object id that people are shown.
func short(id string) string { return id[:min(12, len(id))] }

// adding is the desk of a project that is being added.
type adding struct {
	c              *cli.Context
	desks, project string
	desk           *desk.Desk // nil until it is needed
}

// fetch fetches from a URL to the project's desk. It returns the branch that the source's HEAD
// names, and the desk's directory.
func (a *adding) fetch(url string, gate desk.Repository) (head, directory string, err error) {
	if a.desk == nil {
		if err := desk.Remove(a.desks, a.project); err != nil {
			return "", "", err
		}
		if a.desk, err = openDesk(a.c, a.desks, a.project, url, desk.Gate{Repository: gate}); err != nil {
			return "", "", err
		}
	}
	head, err = a.desk.Fetch(a.c.Context)
	return head, a.desk.Path(), err
}

// forget removes the desk of a project that is not added after all, and the record of its source.
func (a *adding) forget() {
	if a.desk != nil {
		_ = desk.Remove(a.desks, a.project)
	}
	_ = desk.Remember(a.desks, a.project, "")
}

// remember records the project's source. repository is the path that the project's repository will
// have.
func (a *adding) remember(source, repository string) error {
	if a.desk != nil {
		if err := a.desk.Filled(a.c.Context, repository); err != nil {
			return err
		}
		return desk.Remember(a.desks, a.project, source)
	}

	// A desk that an earlier project of this name has left is removed.
	if err := desk.Remove(a.desks, a.project); err != nil {
		return err
	}
	return desk.Remember(a.desks, a.project, source)
}

// projectsOf returns the projects that the command line names, or all projects with a source if
// the command line names none.
func projectsOf(c *cli.Context) ([]string, error) {
	if _, err := reposOf(c); err != nil { // one error, rather than one for each project
		return nil, err
	}
	if c.NArg() > 0 {
		return c.Args().Slice(), nil
	}
	directory, err := desksOf(c)
	if err != nil {
		return nil, err
	}
	sources, err := desk.Sources(directory)
	return slices.Sorted(maps.Keys(sources)), err
}

// eachProject calls do with each project, even if do has failed with an earlier one. If there are
// several projects, it prints each error, and returns an error that says how many failed.
func eachProject(c *cli.Context, projects []string, do func(project string) error) (failed error) {
	failures := 0
	for _, project := range projects {
		err := do(project)
		if err == nil {
			continue
		}
		failures, failed = failures+1, fmt.Errorf("%s: %w", project, err)
		if len(projects) > 1 {
			printError(fmt.Errorf("%s: %w", c.Command.Name, failed))
		}
	}

	if failures > 0 && len(projects) > 1 {
		return fmt.Errorf("%d of %d projects failed", failures, len(projects))
	}
	return failed
}
