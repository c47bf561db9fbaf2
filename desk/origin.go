// Lists and fetches the branches and tags of upstream, which is a project's source.

package desk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"strings"
	"time"

	"terok-gate-hook/internal/untrusted"
)

// origin is what upstream has.
type origin struct {
	refs refs   // its branches and tags
	head string // its default branch; "" if it has none
}

// fetchOrigin lists upstream's refs and, if they differ from the desk's copy, fetches them over a second
// connection. known are the desk's refs before the fetch.
func (d *Desk) fetchOrigin(ctx context.Context) (o origin, known refs, err error) {
	wait := d.startRefs(ctx)
	o, err = d.listOrigin(ctx)
	known, readErr := wait()
	switch {
	case err != nil:
		return o, nil, err
	case readErr != nil:
		return o, nil, readErr
	case maps.Equal(o.refs, known.below(originPrefix, "refs/")):
		return o, known, nil
	}

	fetch := func(ctx context.Context, address string) *exec.Cmd {
		return d.operators(ctx, "fetch", "--quiet", "--no-tags", "--prune", "--no-write-fetch-head", "--no-auto-maintenance", "--",
			address, "+"+heads+"*:"+originPrefix+"heads/*", "+"+tags+"*:"+originPrefix+"tags/*")
	}
	d.removeUnfinished() // left by a fetch that was killed
	if err := d.transfer(ctx, fetch, "upload-pack"); err != nil {
		d.removeUnfinished()
		return o, nil, err
	}

	// Upstream's refs may have moved since they were listed.
	fetched, err := d.refs(ctx)
	o.refs = fetched.below(originPrefix, "refs/")
	if o.refs[o.head] == "" {
		o.head = ""
	}
	return o, known, err
}

// listWithin is how long upstream may take by default to list its refs.
const listWithin = 5 * time.Minute

// ErrNoAnswer is returned if upstream takes too long to list its refs.
var ErrNoAnswer = errors.New("upstream does not answer")

// listOrigin asks upstream for its refs.
func (d *Desk) listOrigin(ctx context.Context) (origin, error) {
	within := cmp.Or(d.Patience, listWithin)
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("%w: waited for %s", ErrNoAnswer, within))
	defer cancel()

	out := untrusted.Output{Limit: refsLimit}
	list := func(address string) *exec.Cmd {
		cmd := d.operators(ctx, "ls-remote", "--quiet", "--symref", "--", address)
		cmd.Stdout = &out
		return cmd
	}
	if err := d.speak(ctx, list, "upload-pack"); err != nil {
		return origin{}, cmp.Or(context.Cause(ctx), err)
	}

	o := origin{refs: refs{}}
	for line := range strings.Lines(out.String()) {
		id, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		target, isSymbolic := strings.CutPrefix(id, "ref: ")
		switch {
		case isSymbolic && name == "HEAD":
			o.head = target
		case isID(id) && (strings.HasPrefix(name, heads) || strings.HasPrefix(name, tags)) && checkRef(name) == nil:
			o.refs[name] = id
		}
	}
	if o.refs[o.head] == "" || !strings.HasPrefix(o.head, heads) {
		o.head = ""
	}
	return o, nil
}

// TransferWithin is how long a fetch or a push may take by default.
const TransferWithin = time.Hour

// ErrTooSlow is returned if a fetch or a push takes too long.
var ErrTooSlow = errors.New("upstream is too slow")

// transfer is [Desk.speak] for a command that fetches or pushes. The command's context ends when the transfer
// takes too long.
func (d *Desk) transfer(ctx context.Context, command func(ctx context.Context, address string) *exec.Cmd, service string) error {
	within := cmp.Or(d.Timeout, TransferWithin)
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("%w: not done within %s: see --timeout", ErrTooSlow, within))
	defer cancel()
	err := d.speak(ctx, func(address string) *exec.Cmd { return command(ctx, address) }, service)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}

// speak runs, in the desk, a command that speaks to a service of upstream's git. If the source is a
// directory, the service runs as SourceAs says, without the operator's settings. A push runs the
// directory's hooks. So if the directory does not belong to the user that the service runs as, git
// accepts a push only if the operator's configuration trusts the directory.
func (d *Desk) speak(ctx context.Context, command func(address string) *exec.Cmd, service string) error {
	if !d.Local {
		err := finish(command(d.Source))
		if err != nil && strings.Contains(err.Error(), "The requested URL returned error: 30") {
			err = fmt.Errorf("%w: the forge redirects this address, and redirects are not followed: use the address that the redirect names; for an existing project, set the new address with terok-gate add --source", err)
		}
		return err
	}

	settings := []setting{{"receive.autogc", "false"}, {"core.fsync", "objects,derived-metadata,reference"}}
	switch {
	case service != "receive-pack":
		settings = append(settings, setting{safeDirectory, "*"})
	case d.SourceAs == nil:
		settings = append(settings, d.trusted(ctx)...)
	}
	served := Repository{Path: d.Source, As: d.SourceAs}
	return connect(command(peerAddress), served.run(ctx, environment(settings), service, served.Path))
}

// safeDirectory is the setting that lists directories of other users in which git may run (git-config(1)).
const safeDirectory = "safe.directory"

// trusted returns the directories that the operator's own configuration trusts.
func (d *Desk) trusted(ctx context.Context) (settings []setting) {
	all, err := output(d.operators(ctx, "config", "--get-all", safeDirectory))
	if err != nil {
		return nil // none are set
	}
	for directory := range strings.Lines(all) {
		settings = append(settings, setting{safeDirectory, strings.TrimSuffix(directory, "\n")})
	}
	return settings
}
