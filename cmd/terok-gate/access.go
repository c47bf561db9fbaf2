// The access command: shows and changes what a running container may do.

package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

func accessCommand() *cli.Command {
	return &cli.Command{
		Name:      "access",
		Usage:     "show or change what a container may do while it runs",
		ArgsUsage: "CONTAINER",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "read", Usage: "let the container also fetch from the project `P`"},
			&cli.StringSliceFlag{Name: "write", Usage: "let the container also push to the project `P`"},
			&cli.StringSliceFlag{Name: "drop", Usage: "take away `P`: another project, or a service of the host"},
			&cli.StringFlag{Name: "access", Usage: "let the container do at most `A`: read, append or write"},
			&cli.StringSliceFlag{Name: "push", Usage: "let the container push only to refs that match `PATTERN`; replaces all earlier limits of refs; empty for no limit; repeatable"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON, as list does"},
		},
		Before: misuse.OneArgument,
		Action: access,
	}
}

func access(c *cli.Context) error {
	if !c.Args().Present() {
		return misuse.Errorf("name a container: terok-gate list shows the containers that have tokens")
	}
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	arg := c.Args().First()
	id, err := containerNamed(c, file, arg)
	if err != nil {
		return err
	}

	if slices.ContainsFunc([]string{"read", "write", "drop", "access", "push"}, c.IsSet) {
		changed, err := file.ChangeRights(id, func(r *store.Rights) error { return changeRights(c, r) })
		if err != nil {
			return err
		}
		for _, e := range changed {
			event := trail.Of(trail.Changed, e)
			event.From, event.Rights = "access", rightsOf(e)
			record(c.String("log-file"), event)
		}
		if len(changed) > 0 {
			fmt.Fprintln(os.Stderr, "terok-gate: the change holds until the container starts again; then its annotations decide")
		}
	}

	tokens, err := listTokens(c.Context, file, func(e store.Entry) bool { return e.Container == id })
	switch {
	case err != nil:
		return err
	case len(tokens.rows) == 0:
		return fmt.Errorf("%s: no token belongs to this container: terok-gate list shows the containers that have tokens", misuse.Quote(arg))
	case c.Bool("json"):
		return printJSON(os.Stdout, tokens)
	}
	return printTable(os.Stdout, tokens)
}

// rightsOf describes what an entry's token allows.
func rightsOf(e store.Entry) string {
	rights := e.Limits.Access()
	if refs := e.Limits.Pushes(); refs != "" && rights != store.AccessRead {
		rights += " to " + refs
	}
	if also := alsoOf(e.Also); also != "" {
		rights += "; " + also
	}
	if e.Gate != nil && len(e.Gate.Services) > 0 {
		rights += "; services " + strings.Join(slices.Sorted(maps.Keys(e.Gate.Services)), ", ")
	}
	return rights
}

// changeRights makes the changes that the command line asks for.
func changeRights(c *cli.Context, r *store.Rights) error {
	for _, name := range c.StringSlice("drop") {
		if err := drop(r, name); err != nil {
			return fmt.Errorf("--drop %s: %w", misuse.Quote(name), err)
		}
	}
	for _, access := range []string{store.AccessRead, store.AccessWrite} {
		for _, project := range c.StringSlice(access) {
			r.Also[project] = access
		}
	}

	if c.IsSet("access") && !r.Limits.SetAccess(c.String("access")) {
		return misuse.Errorf("--access %s: must be read, append or write", misuse.Quote(c.String("access")))
	}
	if c.IsSet("push") {
		r.Limits.Push = nil
		if patterns := slices.DeleteFunc(c.StringSlice("push"), func(p string) bool { return p == "" }); len(patterns) > 0 {
			r.Limits.Push = [][]string{patterns}
		}
	}
	return nil
}

// drop takes away the right to what has this name: another project, a service of the host, or both.
func drop(r *store.Rights, name string) error {
	_, project := r.Also[name]
	_, service := r.Services[name]
	switch {
	case project || service:
		delete(r.Also, name)
		delete(r.Services, name)
		return nil
	case name == r.Project:
		return errors.New("it is the token's own project: to take that away, revoke or freeze the container")
	}
	return errors.New("the container has no right to a project or service of this name")
}
