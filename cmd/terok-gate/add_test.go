package main

import (
	"os"
	"testing"

	"terok-gate-hook/engines"
	"terok-gate-hook/hook"
)

func TestAddSaysThatNoContainerMayAskForTheProject(t *testing.T) {
	for _, row := range []struct {
		allowed, read []string
		want          string
	}{
		{nil, nil, ""},
		{[]string{"demo"}, nil, ""},
		{[]string{"web-*", "d*"}, nil, ""},
		{[]string{"web-*"}, []string{"lib", "d*"}, ""}, // a library
		{[]string{"web-*", "it's"}, []string{"lib"}, "the installed hooks let no container use project demo; to let containers of demo use it: " +
			`terok-gate install --allow-project 'web-*' --allow-project 'it'\''s' --allow-project demo`},
	} {
		installed := engines.Registration{Settings: hook.Settings{AllowProjects: row.allowed, AllowReads: row.read}}
		if got := notAdmitted(installed, "demo"); got != row.want {
			t.Errorf("with --allow-project %q and --allow-read %q, add says %q, want %q", row.allowed, row.read, got, row.want)
		}
	}
}

func TestASourceIsKnownFromEveryWorkingDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	must(t, err)
	must(t, os.Mkdir("clone", 0o755))
	must(t, os.WriteFile("demo.bundle", nil, 0o644))
	for source, want := range map[string]string{
		"clone":                       here + "/clone",
		"./demo.bundle":               here + "/demo.bundle",
		"git@example.com:demo.git":    "git@example.com:demo.git",
		"https://example.com/x/y.git": "https://example.com/x/y.git",
	} {
		if got, err := absoluteSource(source); err != nil || got != want {
			t.Errorf("%s is taken for %q, %v", source, got, err)
		}
	}
	if _, err := absoluteSource("none"); err == nil {
		t.Error("a file that does not exist is taken for a source")
	}
}
