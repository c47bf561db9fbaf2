// Finds commits in the gate's repository, and the tips that have a commit in their history (who).

package desk

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Tips returns the present objects of the gate's branches and tags, by full ref name.
func (g Gate) Tips(ctx context.Context) (map[string]string, error) {
	all, _, err := g.refs(ctx)
	return all.branchesAndTags(), err
}

// Find returns the full id of the object that text names in the gate's repository. The beginning of an id,
// of 4 digits or more, names the only commit whose id begins with it. A branch, or the full name of a
// branch or tag, stands for its tip. A full id is returned as it is, even if the repository lacks the
// object. Text that looks like the beginning of an id is never taken for a branch, since containers choose
// the names of branches.
func (g Gate) Find(ctx context.Context, text string) (string, error) {
	if isID(text) {
		return text, nil
	}
	if len(text) < 4 || strings.Trim(text, "0123456789abcdef") != "" {
		return g.tip(ctx, text)
	}

	objects, err := output(g.git(ctx, "rev-parse", "--disambiguate="+text))
	if err != nil {
		return "", err
	}
	commits, err := g.commits(ctx, strings.Fields(objects))
	if err != nil {
		return "", err
	}
	maps.DeleteFunc(commits, func(object, commit string) bool { return object != commit })
	switch len(commits) {
	case 0:
		return "", fmt.Errorf("the gate has no commit %s", text)
	case 1:
		return slices.Collect(maps.Keys(commits))[0], nil
	}
	return "", fmt.Errorf("%d commits in the gate begin with %s: give more of the id", len(commits), text)
}

// tip returns the tip of a branch, or of a full ref name, in the gate.
func (g Gate) tip(ctx context.Context, name string) (string, error) {
	tips, err := g.Tips(ctx)
	if err != nil {
		return "", err
	}
	if ref, err := FullRef(name); err == nil && tips[ref] != "" {
		return tips[ref], nil
	}
	return "", fmt.Errorf("%q is neither a commit id nor a branch in the gate", name)
}

// Containing reports, for each tip, whether it is the object or, if the object is a commit, has the commit
// in its history. A tip that the gate no longer has is left out.
func (g Gate) Containing(ctx context.Context, object string, tips []string) (map[string]bool, error) {
	containing := map[string]bool{object: true}
	commits, err := g.commits(ctx, append(slices.Clone(tips), object))
	if err != nil || commits[object] != object {
		return containing, err
	}

	later, err := g.descendants(ctx, object, slices.Collect(maps.Values(commits)))
	if err != nil {
		return nil, err
	}
	for tip, commit := range commits {
		containing[tip] = commit == object || later[commit]
	}
	return containing, nil
}

// commits returns a commit for each object: for a commit, the commit itself, and for an annotated tag, the
// commit that the tag names. Other objects are left out.
func (g Gate) commits(ctx context.Context, objects []string) (map[string]string, error) {
	var asked strings.Builder
	for _, id := range objects {
		asked.WriteString(id + "^{commit}\n")
	}
	check := g.git(ctx, "cat-file", "--batch-check=%(objectname)")
	check.Stdin = strings.NewReader(asked.String())
	out, err := output(check)
	if err != nil {
		return nil, fmt.Errorf("read the gate's objects: %w", err)
	}

	commits := map[string]string{}
	answers := strings.Split(out, "\n")
	for i, object := range objects {
		if i < len(answers) && isID(answers[i]) {
			commits[object] = answers[i]
		}
	}
	return commits, nil
}

// descendants reports for each of the tips whether it is a descendant of the commit.
func (g Gate) descendants(ctx context.Context, commit string, tips []string) (map[string]bool, error) {
	walk := g.git(ctx, "rev-list", "--ancestry-path", "--stdin")
	walk.Stdin = strings.NewReader("^" + commit + "\n" + strings.Join(tips, "\n") + "\n")
	said := keepErrors(walk)
	out, err := walk.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := walk.Start(); err != nil {
		return nil, err
	}

	later := map[string]bool{}
	for _, tip := range tips {
		later[tip] = false
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, asked := later[lines.Text()]; asked {
			later[lines.Text()] = true
		}
	}
	if err := failure(walk.Wait(), said); err != nil {
		return nil, fmt.Errorf("read the gate's history: %w", err)
	}
	return later, lines.Err()
}

// firstWith returns, for each commit in the history of the tips, the index of the first tip that has the
// commit in its history. Commits in the history of excluded are left out.
func (g Gate) firstWith(ctx context.Context, tips, excluded []string) (map[string]int, error) {
	commits, err := g.commits(ctx, tips)
	if err != nil || len(commits) == 0 {
		return nil, err
	}
	var asked strings.Builder
	for _, id := range commits {
		asked.WriteString(id + "\n")
	}
	for _, id := range excluded {
		asked.WriteString("^" + id + "\n")
	}
	walk := g.git(ctx, "rev-list", "--parents", "--stdin")
	walk.Stdin = strings.NewReader(asked.String())
	out, err := output(walk)
	if err != nil {
		return nil, fmt.Errorf("read the gate's history: %w", err)
	}
	parents := map[string][]string{}
	for line := range strings.Lines(out) {
		if ids := strings.Fields(line); len(ids) > 0 {
			parents[ids[0]] = ids[1:]
		}
	}

	first := map[string]int{}
	for i, tip := range tips {
		for next := []string{commits[tip]}; len(next) > 0; {
			id := next[len(next)-1]
			next = next[:len(next)-1]
			_, seen := first[id]
			if above, is := parents[id]; is && !seen {
				first[id] = i
				next = append(next, above...)
			}
		}
	}
	return first, nil
}
