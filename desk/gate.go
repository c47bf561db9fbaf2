// Reads and moves refs of the gate's repository, by running git as the gate's user.

package desk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Gate is a repository that the gate serves.
type Gate struct {
	Repository

	// Record is called before refs move, and again when they have moved. If the first call returns an
	// error, the refs do not move. Record may be nil.
	Record func(moved bool, changes []Change) error `json:"-"`
}

// Change describes what becomes of one of the gate's refs.
type Change struct {
	Ref  string `json:"ref"`
	Old  string `json:"old,omitempty"`  // empty if the ref did not exist
	New  string `json:"new,omitempty"`  // empty if the ref is deleted
	Kept string `json:"kept,omitempty"` // the ref that keeps the old tip
	Why  string `json:"why,omitempty"`  // why the ref waits for the operator's decision, if it does
}

// refs returns the repository's branches, tags and refs below refs/terok, and the branch that HEAD names.
func (g Gate) refs(ctx context.Context) (all refs, head string, err error) {
	all, err = listRefs(g.git(ctx, "for-each-ref", refFormat, heads, tags, "refs/terok/"))
	if err != nil {
		return nil, "", fmt.Errorf("read the gate's refs: %w", err)
	}
	head, err = output(g.git(ctx, "symbolic-ref", "--quiet", "HEAD"))
	if err != nil {
		head = "" // HEAD is detached
	}
	return all, head, nil
}

// branchesAndTags returns the refs without terok-gate's own, which are below refs/terok.
func (r refs) branchesAndTags() refs {
	all := maps.Clone(r)
	maps.DeleteFunc(all, func(name, _ string) bool { return strings.HasPrefix(name, "refs/terok/") })
	return all
}

// sendToGate pushes objects into the gate's repository, below refs/terok/incoming.
func (d *Desk) sendToGate(ctx context.Context, ids []string) error {
	const together = 2000 // the length of an argument list is limited
	number := 0
	for some := range slices.Chunk(ids, together) {
		args := []string{
			"-c", "push.followTags=false", "-c", "push.gpgSign=false", "-c", "push.recurseSubmodules=no",
			"push", "--quiet", "--no-verify", "--no-signed", peerAddress,
		}
		for _, id := range some {
			args = append(args, fmt.Sprintf("+%s:%s%d", id, incomingPrefix, number))
			number++
		}
		if err := connect(d.local(ctx, args...), d.Gate.git(ctx, "receive-pack", d.Gate.Path)); err != nil {
			return fmt.Errorf("push to the gate's repository: %w", err)
		}
	}
	return nil
}

// move moves refs of the gate's repository, and runs commands that [RefCommand] has returned, in one
// transaction. If a change's Kept is [keep], move keeps the old tip, and sets Kept to the name of the ref
// that keeps the tip.
func (g Gate) move(ctx context.Context, changes []Change, commands ...string) error {
	if len(changes) == 0 && len(commands) == 0 {
		return nil
	}
	var all strings.Builder
	now := time.Now()
	for i := range changes {
		c := &changes[i]
		if c.Kept == keep {
			c.Kept = NewKept(c.Ref, now, i)
		}
		if c.Kept != "" {
			all.WriteString(RefCommand(c.Kept, "", c.Old))
		}
		all.WriteString(RefCommand(c.Ref, c.Old, c.New))
	}
	for _, command := range commands {
		all.WriteString(command)
	}

	if err := g.record(false, changes); err != nil {
		return err
	}
	if err := feed(g.git(ctx, "update-ref", "--no-deref", "-z", "--stdin"), all.String()); err != nil {
		return fmt.Errorf("%w: %w", errNotMoved, err)
	}
	return g.record(true, changes)
}

// errNotMoved is returned, with git's error, if git did not move the refs: a container may have moved one of
// them in the meantime.
var errNotMoved = errors.New("move the gate's refs")

// keep, as a [Change]'s Kept, makes [Gate.move] keep the old tip.
const keep = "keep"

func (g Gate) record(moved bool, changes []Change) error {
	if g.Record == nil || len(changes) == 0 {
		return nil
	}
	return g.Record(moved, changes)
}
