package gate_test

import (
	"path/filepath"
	"testing"

	"terok-gate-hook/gate"
)

func TestHeadNamesTheFirstBranchThatIsPushed(t *testing.T) {
	for name, row := range map[string]struct {
		push []string
		head string
	}{
		"one":                     {[]string{"trunk"}, "refs/heads/trunk"},
		"the first that is named": {[]string{"trunk:zeta", "trunk:alpha"}, "refs/heads/zeta"},
		"master among others":     {[]string{"trunk:alpha", "trunk:master"}, "refs/heads/master"},
		"main among others":       {[]string{"trunk:master", "trunk:main"}, "refs/heads/main"},
		"a tag alone":             {[]string{"trunk:refs/tags/v1"}, "refs/heads/main"},
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
			if head := git(t, demo, "symbolic-ref", "HEAD"); name != "a tag alone" && head != row.head {
				t.Errorf("then HEAD names %s", head)
			}
		})
	}
}
