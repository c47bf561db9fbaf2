// The release command: shows a container's commits, asks, and pushes them to upstream.

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/desk"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
)

func releaseCommand() *cli.Command {
	return &cli.Command{
		Name:      "release",
		Usage:     "show a branch or tag, ask, and push it to the project's source",
		ArgsUsage: "PROJECT BRANCH",
		Description: `It shows the commits and the changes, asks, and pushes exactly the commit that was shown.
BRANCH may be a full ref name.

   terok-gate release demo agent-1
   terok-gate release --to main demo agent-1
   terok-gate release demo refs/tags/v1.0
   terok-gate release --yes 3f1c9a0b5d7e2468ace013579bdf02468ace1357 demo agent-1`,
		Flags: []cli.Flag{
			reposFlag(), desksFlag(), timeoutFlag(),
			&cli.StringFlag{Name: "to", Usage: "push to upstream's branch or full ref name `BRANCH`; default: the same name as in the gate"},
			&cli.StringFlag{Name: "yes", Usage: "do not ask, since you have reviewed `COMMIT`; any other commit is refused"},
			&cli.DurationFlag{Name: "keep", Value: desk.KeepFor, Usage: "keep at your desk, for `T`, what upstream loses by --force"},
			&cli.BoolFlag{Name: "force", Usage: "allow upstream's branch to lose commits, or its tag to move; what would be lost is shown first"},
		},
		Action: release,
	}
}

func release(c *cli.Context) error {
	if c.NArg() != 2 {
		return misuse.Errorf("takes PROJECT and BRANCH, after the flags: see terok-gate release --help")
	}
	if err := errors.Join(checkKeep(c), checkTimeout(c)); err != nil {
		return err
	}
	if c.IsSet("yes") && !desk.IsFullID(c.String("yes")) {
		return misuse.Errorf("--yes takes the full id of the commit that you have reviewed")
	}
	if !c.IsSet("yes") && !isTerminal(os.Stdin) {
		return misuse.Errorf("there is no terminal to ask at: see terok-gate review, then give --yes COMMIT")
	}

	project := c.Args().Get(0)
	offer, err := offerOf(c, project, c.Args().Get(1), c.String("to"))
	if err != nil {
		return err
	}
	if err := agree(c, offer); err != nil {
		return err
	}
	err = offer.Release(c.Context, c.Bool("force"), os.Stderr)
	if errors.Is(err, desk.ErrNothing) {
		fmt.Println("upstream has it already: " + offer.Object)
		return nil
	}
	if errors.Is(err, desk.ErrBehind) {
		return fmt.Errorf("%w: bring them in with terok-gate sync, or take them away with --force", err)
	}
	if errors.Is(err, desk.ErrTag) {
		return fmt.Errorf("%w: only --force moves it", err)
	}
	if err != nil {
		return err
	}
	record(c.String("log-file"), trail.Event{
		Event: trail.Released, Project: project, From: "release", Ref: offer.To, Old: offer.Old, New: offer.Object,
	})
	fmt.Println(printable.Line("released " + offer.Object + " to " + desk.ShortRef(offer.To)))
	return nil
}

// agree returns nil if --yes names the commit, or if the operator is shown the commit and says yes.
// Otherwise, it returns an error.
func agree(c *cli.Context, offer *desk.Offer) error {
	if yes := c.String("yes"); yes != "" {
		if yes != offer.Object {
			return fmt.Errorf("%s is at %s, which is not the commit that was reviewed", desk.KindAndName(offer.Ref), offer.Object)
		}
		return nil
	}
	if err := showOffer(c, offer); err != nil {
		return err
	}
	in := bufio.NewReader(os.Stdin)
	if err := askYes(in, fmt.Sprintf("Push %s to upstream's %s?", commits(offer.Ahead), printable.Line(desk.ShortRef(offer.To)))); err != nil {
		return err
	}
	if !offer.Takes() || !c.Bool("force") {
		return nil
	}
	if err := offer.Lost(c.Context, os.Stdout); err != nil {
		return err
	}
	name := printable.Line(desk.ShortRef(offer.To))
	if offer.Behind == 0 {
		return askYes(in, fmt.Sprintf("Move upstream's tag %s, which is %s?", name, offer.Old))
	}
	return askYes(in, fmt.Sprintf("Take %s away from upstream's %s?", commits(offer.Behind), name))
}

// commits returns a number and the word commit or commits.
func commits(n int) string {
	if n == 1 {
		return "1 commit"
	}
	return fmt.Sprintf("%d commits", n)
}

var errNotAgreed = errors.New("nothing was pushed: you did not say yes")

// askYes asks a question, and returns an error unless the answer is yes.
func askYes(in *bufio.Reader, question string) error {
	fmt.Fprint(os.Stderr, question+" [y/N] ")
	answer, err := in.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errNotAgreed
}
