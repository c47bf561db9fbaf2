package main

import (
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
