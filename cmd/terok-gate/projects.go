// The projects command: lists the repositories.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/gate"
	"terok-gate-hook/store"
)

func projectsCommand() *cli.Command {
	return &cli.Command{
		Name:   "projects",
		Usage:  "list the repositories: project, size, live containers",
		Flags:  []cli.Flag{reposFlag(), &cli.BoolFlag{Name: "json", Usage: "print JSON, for programs"}},
		Action: projects,
	}
}

// project is a repository as programs see it with --json.
type project struct {
	Project    string `json:"project"`
	Repository string `json:"repository"` // its path
	Bytes      int64  `json:"bytes"`
	Containers int    `json:"containers"` // live ones with a token for the project
}

func projects(c *cli.Context) error {
	repos, err := reposOf(c)
	if err != nil {
		return err
	}
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	names, err := gate.Projects(repos)
	if err != nil {
		return err
	}

	live := map[string]int{}
	err = file.Each(func(e store.Entry) {
		if e.Container != "" && e.State() == store.Live {
			live[e.Project]++
			for other := range e.Also {
				live[other]++
			}
		}
	})
	if err != nil {
		return err
	}

	all := []project{}
	for _, name := range names {
		path := filepath.Join(repos, name+".git")
		size, err := sizeOf(path)
		if err != nil {
			return err
		}
		all = append(all, project{name, path, size, live[name]})
	}

	if c.Bool("json") {
		return printIndented(all)
	}

	out := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(out, "PROJECT\tMIB\tCONTAINERS")
	for _, p := range all {
		fmt.Fprintf(out, "%s\t%.1f\t%d\n", p.Project, float64(p.Bytes)/(1<<20), p.Containers)
	}
	return out.Flush()
}

// sizeOf adds up the sizes of the files in a directory. It leaves out files that disappear meanwhile,
// such as git's temporary files.
func sizeOf(directory string) (size int64, err error) {
	err = filepath.WalkDir(directory+"/.", func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = entry.Info(); err == nil {
				size += info.Size()
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return size, err
}
