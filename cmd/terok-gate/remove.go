// The remove command: removes a project's repository, its desk and the record of its source.

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/desk"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

func removeCommand() *cli.Command {
	return &cli.Command{
		Name:        "remove",
		Usage:       "remove a project for good: its repository, with the kept old tips, its desk and the record of its source",
		ArgsUsage:   "PROJECT",
		Description: `   terok-gate remove demo`,
		Flags:       []cli.Flag{reposFlag(), desksFlag(), forceFlag()},
		Action:      remove,
	}
}

func forceFlag() cli.Flag {
	return &cli.BoolFlag{Name: "force", Usage: "do it even if a container that may be alive has a token for the project"}
}

func remove(c *cli.Context) error {
	if c.NArg() != 1 {
		return misuse.Errorf("takes PROJECT, after the flags: see terok-gate remove --help")
	}
	project := c.Args().First()
	p, err := openPlaces(c, project)
	if err != nil {
		return err
	}
	defer p.repos.Close()
	aside := "." + project + ".git.removed"
	was, known := p.sources[project]
	// The leftovers of an earlier remove that was killed count, too.
	if !p.has(project+".git") && !p.has(aside) && !known {
		return fmt.Errorf("there is no project %s: see terok-gate projects", project)
	}
	if err := checkUnused(c, project); err != nil {
		return err
	}

	err = allOrNothing(c.Context,
		func(context.Context) (func() error, error) {
			if !p.has(project + ".git") {
				return nil, nil
			}
			if err := p.repos.RemoveAll(aside); err != nil {
				return nil, err
			}
			return func() error { return p.repos.Rename(aside, project+".git") }, p.repos.Rename(project+".git", aside)
		},
		func(ctx context.Context) (func() error, error) { return desk.SetAside(ctx, p.desks, project) },
		func(context.Context) (func() error, error) {
			return func() error { return desk.Remember(p.desks, project, was.Source) }, desk.Remember(p.desks, project, "")
		},
	)
	if err != nil {
		return err
	}

	updateDevices("remove", "")
	record(c.String("log-file"), trail.Event{Event: trail.Removed, Project: project, From: "remove"})
	if err := errors.Join(p.repos.RemoveAll(aside), desk.Remove(p.desks, project)); err != nil {
		return fmt.Errorf("the project is gone, but not all of its files: %w: run terok-gate remove again", err)
	}
	fmt.Println("removed", project)
	return nil
}

// projectPlaces are the places where the parts of projects are: repositories, desks and sources.
type projectPlaces struct {
	repos   *os.Root // its owner, perhaps another user, controls what is in it
	desks   string
	sources map[string]desk.Source
}

// openPlaces opens the places. If a name cannot be a project's, it returns a usage error.
func openPlaces(c *cli.Context, names ...string) (p projectPlaces, err error) {
	for _, name := range names {
		if err := store.CheckName(name); err != nil {
			return p, misuse.Errorf("project %w", err)
		}
	}
	repos, err := reposOf(c)
	if err != nil {
		return p, err
	}
	if p.desks, err = desksOf(c); err != nil {
		return p, err
	}
	if p.sources, err = desk.Sources(p.desks); err != nil {
		return p, err
	}
	if p.repos, err = os.OpenRoot(repos); err != nil {
		return p, fmt.Errorf("open the directory of repositories: %w", err)
	}
	return p, nil
}

// has reports whether there may be anything of that name in the directory of repositories. It returns
// false only if there is certainly nothing.
func (p projectPlaces) has(name string) bool {
	_, err := p.repos.Lstat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// checkUnused returns an error if a container that may still be alive has a token for the project.
// With --force, it checks nothing.
func checkUnused(c *cli.Context, project string) error {
	if c.Bool("force") {
		return nil
	}
	file, err := tokenFile(c)
	if err != nil {
		return err
	}

	var users []string
	err = file.Each(func(e store.Entry) {
		if _, is := e.In(project); is && e.Container != "" && e.State() != store.Orphan {
			users = append(users, shortContainer(e.Container))
		}
	})
	if err != nil {
		return err
	}

	if len(users) == 0 {
		return nil
	}

	slices.Sort(users)
	const most = 5
	if more := len(users) - most; more > 0 {
		users = append(users[:most], fmt.Sprintf("and %d more", more))
	}
	return fmt.Errorf("containers that may still be alive have a token for project %s: %s: stop them, or give --force", project, strings.Join(users, ", "))
}

// allOrNothing runs the steps in order. If a step fails, the earlier ones are undone, last first.
func allOrNothing(ctx context.Context, steps ...func(context.Context) (undo func() error, err error)) error {
	var undos []func() error
	for _, step := range steps {
		undo, err := step(ctx)
		if err == nil {
			undos = append(undos, undo)
			continue
		}
		for _, undo := range slices.Backward(undos) {
			if undo != nil {
				err = errors.Join(err, undo())
			}
		}
		return err
	}
	return nil
}

// repositoryPath returns the path of a project's repository, without symbolic links.
func (p projectPlaces) repositoryPath(project string) (string, error) {
	return filepath.EvalSymlinks(filepath.Join(p.repos.Name(), project+".git"))
}
