// The who command: prints which container and task brought a commit in.

package main

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/desk"
	"terok-gate-hook/engines"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/internal/trail/history"
)

func whoCommand() *cli.Command {
	return &cli.Command{
		Name:      "who",
		Usage:     "print which container and task brought a commit in, when, and on which branch",
		ArgsUsage: "PROJECT COMMIT",
		Description: `COMMIT is an object id or its first digits, or a branch or full ref name, which stands
for its tip. If nothing in the trail brought the commit in, the exit status is 3.

   terok-gate who demo agent-1
   terok-gate who demo 3f1c9a0b5d7e`,
		Flags:  []cli.Flag{reposFlag(), &cli.BoolFlag{Name: "json", Usage: "print JSON, for programs"}},
		Action: who,
	}
}

// brought is how a commit came in, as programs see it with --json.
type brought struct {
	Commit      string    `json:"commit"`
	By          string    `json:"by"` // push, or the command: add, sync, restore
	Ref         string    `json:"ref"`
	Task        string    `json:"task"`
	Container   string    `json:"container"`
	Fingerprint string    `json:"fingerprint"`
	Time        time.Time `json:"time"`
}

// errNotBrought is returned, wrapped, if nothing in the trail brought the commit in.
var errNotBrought = errors.New("the trail does not show what brought it in: it was put into the repository on the host without the gate, or came in before the trail begins, or never came in")

func who(c *cli.Context) error {
	if c.NArg() != 2 {
		return misuse.Errorf("takes PROJECT and COMMIT, after the flags: see terok-gate who --help")
	}
	project := c.Args().First()
	gate, err := gateOf(c, project)
	if err != nil {
		return err
	}
	commit, err := gate.Find(c.Context, c.Args().Get(1))
	if err != nil {
		return err
	}

	moves, err := history.Moves(trails(c), project)
	if err != nil {
		return fmt.Errorf("read the trail: %w", err)
	}
	first, err := firstWith(c, gate, commit, moves)
	if err != nil {
		return err
	}
	if first == nil {
		return fmt.Errorf("%s: %w", commit, errNotBrought)
	}
	return printBrought(c, commit, *first)
}

// firstWith returns the move that brought a commit in, or nil if no move in the trail did.
func firstWith(c *cli.Context, gate desk.Gate, commit string, moves []trail.Event) (*trail.Event, error) {
	tips, err := gate.Tips(c.Context)
	if err != nil {
		return nil, err
	}

	// If the trail begins when the project was made, no commit came in before the trail. Otherwise,
	// two kinds of commits may have come in before the trail: those that a ref had before its first
	// move, and all that a ref without a move has now.
	isWhole := len(moves) > 0 && moves[0].Event == trail.Added
	before := maps.Clone(tips)
	asked := []string{}
	seen := map[string]bool{}
	for _, e := range moves {
		if !seen[e.Ref] {
			seen[e.Ref], before[e.Ref] = true, e.Old
		}
		asked = append(asked, e.Old, e.New)
	}
	asked = append(asked, slices.Collect(maps.Values(before))...)
	slices.Sort(asked)
	asked = slices.DeleteFunc(slices.Compact(asked), func(id string) bool { return id == "" })

	containing, err := gate.Containing(c.Context, commit, asked)
	if err != nil {
		return nil, err
	}
	for _, id := range before {
		if containing[id] && !isWhole {
			return nil, nil
		}
	}
	for _, e := range moves {
		switch {
		case containing[e.Old]: // the ref had it before this move, and no earlier move in the trail brought it in
			return nil, nil
		case containing[e.New]:
			return &e, nil
		}
	}
	return nil, nil
}

func printBrought(c *cli.Context, commit string, e trail.Event) error {
	b := brought{Commit: commit, By: "push", Ref: e.Ref, Task: e.Task, Container: e.Container, Fingerprint: e.Fingerprint, Time: e.Time}
	if e.Task == "" {
		b.By = e.From
	}
	if c.Bool("json") {
		return printIndented(b)
	}

	how := "came in"
	if b.By == "push" {
		how = "pushed"
	}
	fmt.Println(printable.Line(fmt.Sprintf("%s: %s %s, to %s, %s", b.Commit, how, byWhom(e), desk.ShortRef(b.Ref), b.Time.Format(time.RFC3339))))
	return nil
}

// trails returns two log files: that of the operator's commands, and that of root's gate. A gate
// that is not root's shares the first file, and the second file then does not exist.
func trails(c *cli.Context) []string {
	ours := logFile(c.String("log-file"))
	gates := filepath.Join(filepath.Dir(ours), "gate", filepath.Base(ours))
	if place, err := engines.OwnPlace(); err == nil && !place.User {
		if installed, there, _ := place.Registration(); there && installed.Gate && installed.Settings.LogFile == ours {
			gates = engines.GateLog
		}
	}
	return []string{ours, gates}
}
