package main

import (
	"testing"

	"terok-gate-hook/engines"
	"terok-gate-hook/hook"
)

func TestAddSaysThatNoContainerMayAskForTheProject(t *testing.T) {
	for _, row := range []struct {
		allowed []string
		want    string
	}{
		{nil, ""},
		{[]string{"demo"}, ""},
		{[]string{"web-*", "d*"}, ""},
		{[]string{"web-*", "it's"}, "the installed hooks admit no container of project demo; if they should: " +
			`terok-gate install --allow-project 'web-*' --allow-project 'it'\''s' --allow-project demo`},
	} {
		installed := engines.Registration{Settings: hook.Settings{AllowProjects: row.allowed}}
		if got := notAdmitted(installed, "demo"); got != row.want {
			t.Errorf("of %q add says %q, want %q", row.allowed, got, row.want)
		}
	}
}
