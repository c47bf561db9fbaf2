package gate_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/gate"
)

func TestHeadNamesTheFirstBranchThatIsPushed(t *testing.T) {
	for name, row := range map[string]struct {
		push       []string
		head, then string // what HEAD names after the push, and after a later push of another branch
	}{
		"one":                     {[]string{"trunk"}, "refs/heads/trunk", "refs/heads/trunk"},
		"the first that is named": {[]string{"trunk:zeta", "trunk:alpha"}, "refs/heads/zeta", "refs/heads/zeta"},
		"master among others":     {[]string{"trunk:alpha", "trunk:master"}, "refs/heads/master", "refs/heads/master"},
		"main among others":       {[]string{"trunk:master", "trunk:main"}, "refs/heads/main", "refs/heads/main"},
		"a tag alone":             {[]string{"trunk:refs/tags/v1"}, "refs/heads/main", "refs/heads/later"},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, gate.Settings{})
			demo := h.bare(t, "demo")
			url := h.url(h.issue(t, "demo"), "demo")
			work := filepath.Join(h.dir, "work")
			git(t, h.dir, "init", "--quiet", "--initial-branch=trunk", work)
			git(t, work, "commit", "--quiet", "--allow-empty", "-m", "one")

			git(t, work, append([]string{"push", "--quiet", url}, row.push...)...)
			if head := git(t, demo, "symbolic-ref", "HEAD"); head != row.head {
				t.Errorf("HEAD names %s", head)
			}

			git(t, work, "push", "--quiet", url, "trunk:later")
			if head := git(t, demo, "symbolic-ref", "HEAD"); head != row.then {
				t.Errorf("then HEAD names %s", head)
			}
		})
	}
}

// A limited token must not choose which branch the clones of others check out.
func TestALimitedTokenSetsHeadOnlyIfThereIsNoOtherBranch(t *testing.T) {
	h := open(t, gate.Settings{})
	h.put(t, limitedToken, `{"limited": {"project": "demo", "access": "write", "push": [["refs/heads/agent/**"]]}, "task": "1"}`)
	demo := h.demo(t, "demo", 1)
	tip := git(t, demo, "rev-parse", "main")

	for _, others := range []bool{true, false} {
		git(t, demo, "symbolic-ref", "HEAD", "refs/heads/gone")
		head := "refs/heads/gone"
		if !others {
			git(t, demo, "update-ref", "refs/tags/v1", tip)
			git(t, demo, "update-ref", "-d", "refs/heads/main")
			git(t, demo, "update-ref", "-d", "refs/heads/agent/true")
			head = "refs/heads/agent/false"
		}

		says := h.answered(t, pushRequest(limitedToken, "report-status", noObject+" "+tip+" "+fmt.Sprint("refs/heads/agent/", others)))
		if !strings.Contains(says, "ok refs/heads/agent/") {
			t.Errorf("the client is told %q", says)
		}
		if is := git(t, demo, "symbolic-ref", "HEAD"); is != head {
			t.Errorf("with other branches: %v: HEAD names %s", others, is)
		}
	}
}
