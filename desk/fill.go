// Fills a new repository from its source, and changes the source of an existing repository (add).

package desk

import (
	"context"
	"strings"
)

// Fetch fetches upstream's branches and tags into the desk, and returns upstream's default
// branch, or "" if there is none. The caller then fills the new repository with [OriginRefs].
func (d *Desk) Fetch(ctx context.Context) (head string, err error) {
	unlock, err := d.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	o, _, err := d.fetchOrigin(ctx)
	return o.head, err
}

// OriginRefs are the refspecs that fetch upstream's branches and tags from a desk.
var OriginRefs = []string{"+" + originPrefix + "heads/*:" + heads + "*", "+" + originPrefix + "tags/*:" + tags + "*"}

// Filled records that the gate's repository, now at path, has all that Fetch has fetched.
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

// Adopt fetches what upstream has, for a repository that had another source or none. It drops the record of
// what the gate took from the other source. With that record, the next sync would delete or force refs only
// because the two sources differ.
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
