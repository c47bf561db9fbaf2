// The projects command: what there is.

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
		Flags:  []cli.Flag{reposFlag()},
		Action: projects,
	}
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
		if e.Container != "" && !e.Orphan() {
			live[e.Project]++
		}
	})
	if err != nil {
		return err
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(out, "PROJECT\tMIB\tCONTAINERS")
	for _, name := range names {
		size, err := sizeOf(filepath.Join(repos, name+".git"))
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s\t%.1f\t%d\n", name, float64(size)/(1<<20), live[name])
	}
	return out.Flush()
}

// sizeOf adds up the files of a folder. Those that go away meanwhile, as git's do, count
// for nothing.
func sizeOf(folder string) (size int64, err error) {
	err = filepath.WalkDir(folder+"/.", func(_ string, entry fs.DirEntry, err error) error {
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
