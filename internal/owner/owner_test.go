package owner_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"terok-gate-hook/internal/owner"
	"terok-gate-hook/internal/testenv"
)

func TestWayIncludesLinksAndTheirTargets(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o700))
	must(t, os.MkdirAll(filepath.Join(dir, "real/gate"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "real/gate/file"), nil, 0o600))
	must(t, os.Symlink("../../real", filepath.Join(dir, "a/b/link")))
	must(t, os.Symlink(filepath.Join(dir, "a/b/link/gate"), filepath.Join(dir, "absolute")))
	must(t, os.Symlink("loop", filepath.Join(dir, "loop")))

	for _, row := range []struct {
		path  string
		want  []string // below dir
		fails bool
	}{
		{"real/gate/file", []string{"real", "real/gate", "real/gate/file"}, false},
		{"a/b/link/gate/file", []string{"a", "a/b", "a/b/link", "real", "real/gate", "real/gate/file"}, false},
		{"absolute/file", []string{"absolute", "a", "a/b", "a/b/link", "real", "real/gate", "real/gate/file"}, false},
		{"a/none/at all", []string{"a"}, false},
		{"loop", nil, true},
	} {
		way, err := owner.Way(filepath.Join(dir, row.path))
		if (err != nil) != row.fails {
			t.Errorf("%s: error %v", row.path, err)
		}
		if len(way) == 0 || way[0].Path != "/" {
			t.Fatalf("%s: the way does not begin at the root: %v", row.path, way)
		}

		var got []string
		for _, step := range way {
			if below, is := strings.CutPrefix(step.Path, dir+"/"); is {
				got = append(got, below)
			}
		}
		if !row.fails && !slices.Equal(got, row.want) {
			t.Errorf("%s: the way leads over %q, want %q", row.path, got, row.want)
		}
	}
}

func TestWorldWritableDirectoriesAreFound(t *testing.T) {
	dir := t.TempDir()
	for name, row := range map[string]struct {
		mode os.FileMode
		want bool
	}{
		"writable by its owner": {0o755, false},
		"world-writable":        {0o777, true},
		"sticky":                {0o777 | os.ModeSticky, false},
		"others may enter":      {0o701, false},
	} {
		path := filepath.Join(dir, name)
		must(t, os.Mkdir(path, 0o700))
		must(t, os.Chmod(path, row.mode))
		must(t, os.Symlink(path, path+" by a link"))
		for _, way := range []string{path, path + " by a link"} {
			steps, err := owner.Way(way)
			must(t, err)
			if got := slices.ContainsFunc(steps, owner.Step.IsWorldWritable); got != row.want {
				t.Errorf("%s: world-writable is %v", way, got)
			}
		}
	}
}

var must = testenv.Must
