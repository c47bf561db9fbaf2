// Filling a repository that is new, and having one that is not come from elsewhere.

package desk

import (
	"context"
	"strings"
)

// Fetch fetches what upstream has, for a repository that is about to be filled from the
// desk by [OriginRefs], and returns upstream's default branch; "" if it has none.
func (d *Desk) Fetch(ctx context.Context) (head string, err error) {
	unlock, err := d.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	o, _, err := d.fetchOrigin(ctx)
	return o.head, err
}

// OriginRefs fetches from a desk what it has of upstream's branches and tags.
var OriginRefs = []string{"+" + originPrefix + "heads/*:" + heads + "*", "+" + originPrefix + "tags/*:" + tags + "*"}

// Filled notes that the gate's repository has all that Fetch has fetched, and at which path
// it is.
func (d *Desk) Filled(ctx context.Context, path string) error {
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	known, err := d.refs(ctx)
	if err != nil {
		return err
	}

	var commands strings.Builder
	for name, id := range known.below(originPrefix, lastPrefix) {
		if known[name] == "" {
			commands.WriteString(RefCommand(name, "", id))
		}
	}
	if err := d.update(ctx, commands.String()); err != nil {
		return err
	}
	d.Gate.Path = path
	return finish(d.local(ctx, "config", gateKey, path))
}

// Adopt fetches what upstream has, for a repository that had no source or another one. What
// that one had last is no record of this one's: the next sync deletes and forces nothing for it.
func (d *Desk) Adopt(ctx context.Context) error {
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	_, known, err := d.fetchOrigin(ctx)
	if err != nil {
		return err
	}

	var commands strings.Builder
	for name, id := range known {
		if strings.HasPrefix(name, lastPrefix) {
			commands.WriteString(RefCommand(name, id, ""))
		}
	}
	return d.update(ctx, commands.String())
}
