// The rename command: gives a project's repository, desk and source another name.

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/desk"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/trail"
)

func renameCommand() *cli.Command {
	return &cli.Command{
		Name:        "rename",
		Usage:       "give a project another name: its repository, your copy for sync (the desk) and the record of its source",
		ArgsUsage:   "OLD NEW",
		Description: `   terok-gate rename demo tools`,
		Flags:       []cli.Flag{reposFlag(), desksFlag(), forceFlag()},
		Action:      rename,
	}
}

func rename(c *cli.Context) error {
	if c.NArg() != 2 {
		return misuse.Errorf("takes OLD and NEW, after the flags: see terok-gate rename --help")
	}
	old, new := c.Args().Get(0), c.Args().Get(1)
	p, err := openPlaces(c, old, new)
	if err != nil {
		return err
	}
	defer p.repos.Close()

	// An earlier rename that was killed may have renamed only the repository.
	_, known := p.sources[old]
	_, taken := p.sources[new]
	unfinished := !p.has(old+".git") && p.has(new+".git") && known && !taken

	switch {
	case unfinished:
	case !p.has(old + ".git"):
		return fmt.Errorf("there is no project %s: see terok-gate projects", old)
	case p.has(new + ".git"):
		return fmt.Errorf("project %s exists already", new)
	}
	if err := checkUnused(c, old); err != nil {
		return err
	}

	if !unfinished {
		// An earlier project of the new name may have left a source or a desk.
		if err := errors.Join(desk.Remember(p.desks, new, ""), desk.Remove(p.desks, new)); err != nil {
			return err
		}
	}

	err = allOrNothing(c.Context,
		func(context.Context) (func() error, error) {
			if unfinished {
				return nil, nil
			}
			return func() error { return p.repos.Rename(new+".git", old+".git") }, p.repos.Rename(old+".git", new+".git")
		},
		func(ctx context.Context) (func() error, error) {
			path, err := p.repositoryPath(new)
			if err != nil {
				return nil, err
			}
			return desk.Rename(ctx, p.desks, old, new, path)
		},
		func(context.Context) (func() error, error) { return nil, desk.RenameSource(p.desks, old, new) },
	)
	if err != nil {
		return err
	}
	updateDevices("rename", new)

	record(c.String("log-file"), trail.Event{Event: trail.Renamed, Project: new, Old: old, From: "rename"})
	fmt.Println("renamed", old, "to", new)
	return nil
}
