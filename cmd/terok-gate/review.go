// The review command: shows the branches with commits that upstream lacks.

package main

import (
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/desk"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/internal/trail/history"
)

func reviewCommand() *cli.Command {
	return &cli.Command{
		Name:      "review",
		Usage:     "show the branches with commits that upstream lacks; with BRANCH, its commits and changes",
		ArgsUsage: "[PROJECT [BRANCH]]",
		Description: `The repository's settings and attributes do not change what is shown, and characters that a
terminal would act on are escaped.

   terok-gate review
   terok-gate review demo agent-1`,
		Flags:  []cli.Flag{reposFlag(), desksFlag(), timeoutFlag(), &cli.BoolFlag{Name: "json", Usage: "print JSON, for programs"}},
		Action: review,
	}
}

// reviewed is a branch as programs see it with --json.
type reviewed struct {
	Project string `json:"project"`
	desk.Branch
	Task      string     `json:"task"`      // the task that pushed it, by the trail; empty: not known
	Container string     `json:"container"` // likewise
	Pushed    *time.Time `json:"pushed"`    // null: not known
}

func review(c *cli.Context) error {
	if err := checkTimeout(c); err != nil {
		return err
	}
	switch {
	case c.NArg() > 2:
		return misuse.Errorf("takes PROJECT and BRANCH at most, after the flags: see terok-gate review --help")
	case c.NArg() == 2 && c.Bool("json"):
		return misuse.Errorf("--json is for lists: leave out BRANCH")
	case c.NArg() == 2:
		return reviewBranch(c, c.Args().Get(0), c.Args().Get(1))
	}

	projects, err := projectsOf(c)
	if err != nil {
		return err
	}
	all := []reviewed{}
	failed := eachProject(c, projects, func(project string) error {
		some, err := reviewProject(c, project)
		all = append(all, some...)
		return err
	})
	if err := printReviewed(c, all); err != nil {
		return err
	}
	return failed
}

func printReviewed(c *cli.Context, all []reviewed) error {
	if c.Bool("json") {
		return printIndented(all)
	}

	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "PROJECT\tBRANCH\tAHEAD\tBEHIND\tTASK\tCONTAINER\tAGE\tSUBJECT")
	for _, b := range all {
		at := b.Time
		if b.Pushed != nil {
			at = *b.Pushed
		}
		fmt.Fprintf(out, "%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", b.Project, printable.Line(desk.ShortRef(b.Ref)), b.Ahead, b.Behind,
			orDash(b.Task), orDash(shortContainer(b.Container)), shortAge(time.Since(at)), printable.Line(b.Subject))
	}
	return out.Flush()
}

// reviewProject returns a project's branches, and who pushed them.
func reviewProject(c *cli.Context, project string) (all []reviewed, err error) {
	d, err := deskOf(c, project)
	if err != nil {
		return nil, err
	}
	branches, err := d.Review(c.Context)
	if err != nil {
		return nil, err
	}
	moves := pushes(c, project)
	for _, b := range branches {
		r := reviewed{Project: project, Branch: b}
		if e := moves[b.Ref]; e.New == b.Commit {
			r.Task, r.Container, r.Pushed = e.Task, e.Container, &e.Time
		}
		all = append(all, r)
	}
	return all, nil
}

// pushes returns the last move of each ref, as far as the trails can be read.
func pushes(c *cli.Context, project string) map[string]trail.Event {
	last, _ := history.LastMoves(trails(c), project)
	return last
}

func reviewBranch(c *cli.Context, project, branch string) error {
	offer, err := offerOf(c, project, branch, "")
	if err != nil {
		return err
	}
	return showOffer(c, offer)
}

// offerOf returns what a release of a branch or tag would push to upstream's ref target. If target is
// "", the release goes to upstream's ref of the same name.
func offerOf(c *cli.Context, project, branch, target string) (*desk.Offer, error) {
	if target == "" {
		target = branch
	}
	refs, err := refsNamed([]string{branch, target})
	if err != nil {
		return nil, err
	}
	d, err := deskOf(c, project)
	if err != nil {
		return nil, err
	}
	return d.Offer(c.Context, refs[0], refs[1])
}

// showOffer shows what a release would push: the commits and their changes. If the trail says who
// pushed a commit to the gate, showOffer shows that, too.
func showOffer(c *cli.Context, offer *desk.Offer) error {
	out := os.Stdout
	if offer.Object != offer.Commit {
		fmt.Fprintln(out, "tag", offer.Object)
	}
	fmt.Fprintf(out, "commit %s\n%s, %d ahead, %d behind\n\n", offer.Commit, printable.Line(desk.KindAndName(offer.Ref)), offer.Ahead, offer.Behind)

	// The error is ignored: moves has the events that could be read.
	moves, _ := history.Moves(trails(c), c.Args().First())
	moves = slices.DeleteFunc(moves, func(e trail.Event) bool { return e.New == "" })
	tips := make([]string, len(moves))
	for i, e := range moves {
		tips[i] = e.New
	}
	first, _ := offer.FirstWith(c.Context, tips)
	pushed := func(commit string) string {
		i, known := first[commit]
		if !known {
			return ""
		}
		return byWhom(moves[i]) + ", " + moves[i].Time.Format(time.RFC3339)
	}
	if err := offer.Log(c.Context, out, pushed); err != nil {
		return err
	}
	fmt.Fprintln(out)
	return offer.Diff(c.Context, out)
}

// byWhom names what moved a ref: a container's push, or a command.
func byWhom(e trail.Event) string {
	if e.Task == "" {
		return "by " + e.From
	}
	return "by task " + e.Task + ", container " + orDash(e.Container)
}
