// Brings upstream's commits into the gate's repository (sync).

package desk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"terok-gate-hook/internal/printable"
)

// Synced is what a sync has done.
type Synced struct {
	Moved []Change // refs of the gate's that have moved
	Waits []Change // refs that wait for the operator's decision
	Head  string   // what HEAD was set to; "" if HEAD has not changed
}

// Sync brings upstream's commits in. It sets the refs in reset, which are full names, to what upstream has,
// even if containers have moved them, and keeps their old tips.
//
// The gate's refs move in transactions, and a container's push at the same time succeeds or fails as
// a whole. If Sync is killed or fails, each ref has either its old value or the intended new one, and
// the next Sync goes on from there.
func (d *Desk) Sync(ctx context.Context, reset ...string) (done Synced, err error) {
	unlock, err := d.lock(ctx)
	if err != nil {
		return done, err
	}
	defer unlock()

	o, known, err := d.fetchOrigin(ctx)
	if err != nil {
		return done, fmt.Errorf("fetch %s: %w", d.Source, err)
	}

	s := &syncing{Desk: d, origin: o, last: known.below(lastPrefix, "refs/"), reset: slices.Clone(reset)}
	if err := s.checkReset(ctx); err != nil {
		return done, err
	}
	for {
		// Another round follows if this one moved or deleted refs, since a deleted ref may have made room
		// for a new one. It also follows if a container's push has stopped this round.
		more, err := s.round(ctx)
		if err == nil && !more && len(s.done.Moved) > 0 {
			err = d.pack(ctx)
		}
		if err != nil || !more {
			return s.done, err
		}
	}
}

// syncing is a sync in progress.
type syncing struct {
	*Desk
	origin origin
	last   refs
	reset  []string // refs that are still to be reset

	done     Synced
	failures int // how many rounds in a row failed because of a container's push
}

// plan is the work of a round.
type plan struct {
	moves   []Change // creating and moving
	deletes []Change
	waits   []Change
	last    refs // what the gate will have taken from upstream; "" for deleted refs
}

// round compares all refs once, carries out the plan for them, and reports whether another round
// could do more.
func (s *syncing) round(ctx context.Context) (more bool, err error) {
	gate, head, err := s.Gate.refs(ctx)
	if err != nil {
		return false, err
	}
	p, err := s.plan(ctx, gate.branchesAndTags())
	if err != nil {
		return false, err
	}
	s.done.Waits = p.waits

	err = s.apply(ctx, p, gate, head)
	if errors.Is(err, errNotMoved) {
		return s.again(ctx, gate, err)
	}
	if err != nil {
		return false, err
	}
	s.failures = 0
	return len(p.moves)+len(p.deletes) > 0, nil
}

// again reports whether to try another round because a container moved a ref during the round that failed. If
// no container did, or if too many rounds in a row have failed, it returns the cause.
func (s *syncing) again(ctx context.Context, before refs, cause error) (bool, error) {
	const most = 20
	now, _, err := s.Gate.refs(ctx)
	if err != nil {
		return false, err
	}
	s.failures++
	if s.failures < most && !maps.Equal(before.branchesAndTags(), now.branchesAndTags()) {
		return true, nil
	}
	return false, cause
}

// checkReset returns an error if a ref to reset exists neither in upstream nor in the gate.
func (s *syncing) checkReset(ctx context.Context) error {
	if len(s.reset) == 0 {
		return nil
	}
	gate, _, err := s.Gate.refs(ctx)
	if err != nil {
		return err
	}
	for _, ref := range s.reset {
		if s.origin.refs[ref] == "" && gate[ref] == "" {
			return fmt.Errorf("neither upstream nor the gate has %s", ref)
		}
	}
	return nil
}

// plan decides what becomes of each ref.
func (s *syncing) plan(ctx context.Context, gate refs) (p plan, err error) {
	p.last = refs{}
	parents := parentsOf(gate)
	for _, ref := range union(s.origin.refs, s.last, gate) {
		origin, last, here := s.origin.refs[ref], s.last[ref], gate[ref]
		isForward := func() (bool, error) { return s.contains(ctx, here, origin) }

		what, err := judge(origin, last, here, isForward)
		if err != nil {
			return p, err
		}
		if slices.Contains(s.reset, ref) && what > forward {
			what = follow
		}

		change := Change{Ref: ref, Old: here, New: origin}
		switch what {
		case create:
			if other := inTheWay(ref, gate, parents); other != "" {
				change.Why = other + " is in the way: --reset " + printable.Shell(other)
				p.waits = append(p.waits, change)
				continue
			}
			p.moves = append(p.moves, change)
		case follow, forward:
			if what == follow {
				change.Kept = keep
			}
			if origin == "" {
				p.deletes = append(p.deletes, change)
			} else {
				p.moves = append(p.moves, change)
			}
		case waits:
			change.Why = "upstream and containers have moved it: --reset " + printable.Shell(ref)
			p.waits = append(p.waits, change)
			continue
		}
		if what != theirs && what != ahead && last != origin {
			p.last[ref] = origin
		}
	}
	return p, nil
}

// apply carries out a plan: it creates and moves refs, then sets HEAD to upstream's default
// branch, and deletes refs last. Until HEAD is set, it may name a branch that is to be deleted.
func (s *syncing) apply(ctx context.Context, p plan, gate refs, head string) error {
	if missing := missingIn(gate, p.moves); len(missing) > 0 {
		if err := s.sendToGate(ctx, missing); err != nil {
			return err
		}
	}
	incoming, err := s.incoming(ctx, gate, p.moves)
	if err != nil {
		return err
	}

	if err := s.Gate.move(ctx, p.moves, incoming...); err != nil {
		_ = s.Gate.move(ctx, nil, incoming...) // if that fails, the next sync removes them
		return err
	}
	s.done.Moved = append(s.done.Moved, p.moves...)
	if err := s.nameHead(ctx, p, gate, head); err != nil {
		return err
	}
	if err := s.Gate.move(ctx, p.deletes); err != nil {
		return err
	}
	s.done.Moved = append(s.done.Moved, p.deletes...)

	// A ref is reset only once: containers may have pushed to it since.
	for _, c := range slices.Concat(p.moves, p.deletes) {
		s.reset = slices.DeleteFunc(s.reset, func(ref string) bool { return ref == c.Ref })
	}
	return s.remember(ctx, p.last)
}

// incoming returns commands that delete the refs below refs/terok/incoming: those of this sync, and those
// of an earlier sync that was killed.
func (s *syncing) incoming(ctx context.Context, gate refs, moves []Change) (commands []string, err error) {
	if len(moves) > 0 {
		if gate, _, err = s.Gate.refs(ctx); err != nil {
			return nil, err
		}
	}
	for name, id := range gate {
		if strings.HasPrefix(name, incomingPrefix) {
			commands = append(commands, RefCommand(name, id, ""))
		}
	}
	return commands, nil
}

// nameHead sets the gate's HEAD to upstream's default branch, if the gate has that branch now.
func (s *syncing) nameHead(ctx context.Context, p plan, gate refs, head string) error {
	wanted := s.origin.head
	created := slices.ContainsFunc(p.moves, func(c Change) bool { return c.Ref == wanted })
	if wanted == "" || wanted == head || gate[wanted] == "" && !created {
		return nil
	}
	if err := finish(s.Gate.git(ctx, "symbolic-ref", "-m", "sync", "HEAD", wanted)); err != nil {
		return fmt.Errorf("set HEAD to %s: %w", wanted, err)
	}
	s.done.Head = wanted
	return nil
}

// remember records in the desk what the gate has taken from upstream.
func (s *syncing) remember(ctx context.Context, taken refs) error {
	var gone, there string
	for ref, id := range taken {
		name := lastPrefix + ref[len("refs/"):]
		switch last := s.last[ref]; {
		case last == id:
		case id == "":
			gone += RefCommand(name, last, "")
		default:
			there += RefCommand(name, last, id)
		}
	}
	// Delete first: a deleted ref may be in the way of a new one.
	if err := s.update(ctx, gone); err != nil {
		return err
	}
	if err := s.update(ctx, there); err != nil {
		return err
	}
	for ref, id := range taken {
		if s.last[ref] = id; id == "" {
			delete(s.last, ref)
		}
	}
	return nil
}

// missingIn returns the new tips to which none of the gate's refs points.
func missingIn(gate refs, moves []Change) (ids []string) {
	has := map[string]bool{}
	for _, id := range gate {
		has[id] = true
	}
	for _, c := range moves {
		if !has[c.New] {
			has[c.New] = true
			ids = append(ids, c.New)
		}
	}
	return ids
}

// union returns the names of all these refs, sorted.
func union(all ...refs) []string {
	names := map[string]bool{}
	for _, some := range all {
		for name := range some {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}
