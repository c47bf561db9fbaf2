// Lists, brings back and drops the old tips of refs that were deleted or forced (restore).

package desk

import (
	"context"
	"fmt"
	"time"
)

// Kept returns the old tips that the gate keeps, newest first.
func (g Gate) Kept(ctx context.Context) ([]Kept, error) {
	all, _, err := g.refs(ctx)
	return keptIn(all), err
}

// Restore sets the ref called name to what the ref was before it was last deleted or forced. If name is
// that of a ref that keeps an old tip, Restore sets the original ref to that tip. The present tip of the
// ref is kept in turn.
func (g Gate) Restore(ctx context.Context, name string) (Change, error) {
	all, _, err := g.refs(ctx)
	if err != nil {
		return Change{}, err
	}
	for _, k := range keptIn(all) {
		if k.Ref != name && k.Name != name {
			continue
		}
		changes := []Change{{Ref: k.Ref, Old: all[k.Ref], New: k.Commit}}
		c := &changes[0]
		if c.Old == c.New {
			return *c, nil
		}
		if c.Old != "" {
			c.Kept = keep
		}
		err := g.move(ctx, changes, RefCommand(k.Name, k.Commit, ""))
		return *c, err
	}
	return Change{}, fmt.Errorf("no old tips of %s are kept", ShortRef(name))
}

// Forget drops all old tips of the ref called name. If name is that of a ref that keeps an old tip, Forget
// drops only that tip. It returns what it has dropped.
func (g Gate) Forget(ctx context.Context, name string) ([]Kept, error) {
	dropped, err := g.drop(ctx, func(k Kept) bool { return k.Ref == name || k.Name == name })
	if err == nil && len(dropped) == 0 {
		err = fmt.Errorf("no old tips of %s are kept", ShortRef(name))
	}
	return dropped, err
}

// Expire drops the old tips that were kept before a time, and returns them.
func (g Gate) Expire(ctx context.Context, before time.Time) ([]Kept, error) {
	return g.drop(ctx, func(k Kept) bool { return k.Time.Before(before) })
}

func (g Gate) drop(ctx context.Context, which func(Kept) bool) (dropped []Kept, err error) {
	all, err := g.Kept(ctx)
	if err != nil {
		return nil, err
	}
	var commands []string
	for _, k := range all {
		if which(k) {
			dropped = append(dropped, k)
			commands = append(commands, RefCommand(k.Name, k.Commit, ""))
		}
	}
	return dropped, g.move(ctx, nil, commands...)
}
