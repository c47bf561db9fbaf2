// Lists the gate's branches with commits that upstream lacks (review).

package desk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Branch describes one of the gate's branches that has commits that upstream lacks.
type Branch struct {
	Ref     string    `json:"ref"`
	Commit  string    `json:"commit"`
	Base    string    `json:"base"`   // upstream's branch to compare with; empty if there is none
	Ahead   int       `json:"ahead"`  // number of commits that the base lacks
	Behind  int       `json:"behind"` // number of the base's commits that the branch lacks
	Author  string    `json:"author"` // of the last commit, as the commit says
	Subject string    `json:"subject"`
	Time    time.Time `json:"time"`
}

// Review returns the gate's branches with commits that none of upstream's branches and tags has,
// sorted by name.
func (d *Desk) Review(ctx context.Context) (branches []Branch, err error) {
	unlock, err := d.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	o, gate, err := d.look(ctx, "")
	if err != nil {
		return nil, err
	}

	for _, ref := range union(gate) {
		b := Branch{Ref: ref, Commit: gate[ref]}
		if is, err := d.isCommit(ctx, b.Commit); err != nil || !is {
			return nil, errors.Join(fmt.Errorf("%s in the gate is not a commit", ref), err)
		}
		lacks, err := output(d.local(ctx, "rev-list", "--max-count=1", b.Commit, "--not", "--glob="+originPrefix))
		if err != nil {
			return nil, err
		}
		if lacks == "" {
			continue
		}
		if err := d.describe(ctx, o, &b); err != nil {
			return nil, err
		}
		branches = append(branches, b)
	}
	return branches, nil
}

// look fetches what upstream has, and one branch or tag of the gate's, the ref called wanted. If wanted is
// "", look fetches all of the gate's branches whose tip is not the tip of one of upstream's refs.
func (d *Desk) look(ctx context.Context, wanted string) (o origin, gate refs, err error) {
	o, known, err := d.fetchOrigin(ctx)
	if err != nil {
		return o, nil, fmt.Errorf("fetch %s: %w", d.Source, err)
	}
	all, _, err := d.Gate.refs(ctx)
	if err != nil {
		return o, nil, err
	}

	gate = refs{}
	upstreams := map[string]bool{}
	for _, id := range o.refs {
		upstreams[id] = true
	}
	for ref, id := range all {
		if wanted == ref || wanted == "" && strings.HasPrefix(ref, heads) && !upstreams[id] {
			gate[ref] = id
		}
	}

	var ids []string
	for _, ref := range union(gate) {
		if id := gate[ref]; !upstreams[id] && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	if err := d.fetchGate(ctx, ids, known); err != nil {
		return o, nil, err
	}
	if wanted == "" {
		err = d.forget(ctx, known, ids)
	}
	return o, gate, err
}

// forget drops the desk's refs in refs/terok/gate, except those of the commits that are still to be reviewed.
func (d *Desk) forget(ctx context.Context, known refs, still []string) error {
	var commands string
	for id := range known.below(gatePrefix, "") {
		if !slices.Contains(still, id) {
			commands += RefCommand(gatePrefix+id, id, "")
		}
	}
	return d.update(ctx, commands)
}

// base returns the name of upstream's branch to compare with: ref, if upstream has it, or else
// upstream's default branch.
func (o origin) base(ref string) string {
	if o.refs[ref] != "" {
		return ref
	}
	return o.head
}

// describe fills in how far the branch is ahead and behind, and the author, subject and time of its
// last commit.
func (d *Desk) describe(ctx context.Context, o origin, b *Branch) (err error) {
	if b.Base = o.base(b.Ref); b.Base == "" {
		b.Ahead, err = d.count(ctx, b.Commit)
	} else {
		b.Ahead, b.Behind, err = d.apart(ctx, b.Commit, o.refs[b.Base])
	}
	if err != nil {
		return err
	}

	said, err := output(d.local(ctx, "log", "--max-count=1", "--no-show-signature", "--format=%ct%n%an%n%s", b.Commit, "--"))
	if err != nil {
		return err
	}
	parts := append(strings.SplitN(said, "\n", 3), "", "")
	seconds, _ := strconv.ParseInt(parts[0], 10, 64)
	b.Time, b.Author, b.Subject = time.Unix(seconds, 0).UTC(), parts[1], parts[2]
	return nil
}

// apart counts the commits that are only in the history of a, and those that are only in the history of b.
func (d *Desk) apart(ctx context.Context, a, b string) (ofA, ofB int, err error) {
	out, err := output(d.local(ctx, "rev-list", "--count", "--left-right", a+"..."+b))
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscanf(out, "%d\t%d", &ofA, &ofB)
	return ofA, ofB, err
}
