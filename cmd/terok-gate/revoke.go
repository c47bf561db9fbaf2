// The revoke command: revokes tokens of a project, a task or a container, or a single one.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

func revokeCommand() *cli.Command {
	return &cli.Command{
		Name:  "revoke",
		Usage: "revoke the tokens of a task, a project or a container, or the token on standard input",
		Flags: []cli.Flag{
			projectFlag(),
			taskFlag(),
			&cli.BoolFlag{Name: "all-tasks", Usage: "revoke the tokens of all tasks of the project"},
			&cli.StringFlag{Name: "container", Usage: "the `container`: its name, or its id in full or as list shows it"},
		},
		Action: revoke,
	}
}

func revoke(c *cli.Context) error {
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	match, err := toRevoke(c, file)
	if err != nil {
		return err
	}
	revoked, err := file.Revoke(match)
	recordAll(c, trail.Revoked, revoked)
	if err != nil {
		return err
	}
	fmt.Printf("revoked %d\n", len(revoked))
	return adviseOfOthers(file, c.String("project"))
}

// adviseOfOthers prints how many tokens of other projects are for this project as well, since
// revoke leaves such tokens.
func adviseOfOthers(file store.File, project string) error {
	if project == "" {
		return nil
	}
	others := 0
	err := file.Each(func(e store.Entry) {
		if e.Also[project] != "" && e.State().Counts() {
			others++
		}
	})
	if others > 0 {
		fmt.Fprintf(os.Stderr, "terok-gate: tokens of other projects that are for project %s as well: %d; to see them: terok-gate list --project %s\n",
			printable.Shell(project), others, printable.Shell(project))
	}
	return err
}

// toRevoke returns a function that reports whether the command line means an entry's token.
func toRevoke(c *cli.Context, file store.File) (match func(store.Entry) bool, err error) {
	project, task, container := c.String("project"), c.String("task"), c.String("container")
	byProject, byTask, all := c.IsSet("project"), c.IsSet("task"), c.Bool("all-tasks")

	switch {
	case c.IsSet("container") && (byProject || byTask || all):
		return nil, misuse.Errorf("--container cannot be combined with --project, --task or --all-tasks")
	case c.IsSet("container") && container == "":
		return nil, misuse.Errorf("--container is empty")
	case c.IsSet("container"):
		id, err := containerID(c.Context, file, container)
		if err != nil {
			return nil, fmt.Errorf("--container %q: %w", container, err)
		}
		return func(e store.Entry) bool { return e.Container == id }, nil
	case byTask && all:
		return nil, misuse.Errorf("give --task or --all-tasks, not both")
	case !byProject && (byTask || all):
		return nil, misuse.Errorf("--project is missing")
	case byProject && !byTask && !all:
		return nil, misuse.Errorf("--task is missing; for the tokens of every task of the project, give --all-tasks")
	case byProject:
		return func(e store.Entry) bool { return e.Project == project && (all || e.Task == task) }, nil
	}

	token, err := readToken()
	return func(e store.Entry) bool { return e.Is(token) }, err
}

// containerID returns the full id of a container. arg is the container's name, its id, or at least
// the first shortID characters of its id. A full id is accepted even if no token belongs to it. A
// name that no container has is an error.
func containerID(ctx context.Context, file store.File, arg string) (id string, err error) {
	var ids []string // tokens' containers whose ids begin with arg
	err = file.Each(func(e store.Entry) {
		begins := e.Container == arg || len(arg) >= shortID && strings.HasPrefix(e.Container, arg)
		if begins && !slices.Contains(ids, e.Container) {
			ids = append(ids, e.Container)
		}
	})

	switch {
	case err != nil:
		return "", err
	case slices.Contains(ids, arg):
		return arg, nil
	case len(ids) == 1:
		return ids[0], nil
	case len(ids) > 1:
		return "", errors.New("more than one container's id begins with it")
	case len(arg) == 64 && strings.Trim(arg, "0123456789abcdef") == "":
		return arg, nil
	}

	names, err := engines.ContainerNames(ctx)
	for id, name := range names {
		if name == arg {
			return id, nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("no token belongs to a container with this id, and its name cannot be looked up: %w", err)
	}
	return "", errors.New("no token belongs to a container with this id, and podman has none with this name")
}
