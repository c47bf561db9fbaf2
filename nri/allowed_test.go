package main

import (
	"strings"
	"testing"
)

func TestANamespaceMayNameTheProjectsThatItsPatternsMatch(t *testing.T) {
	a := allowed{}
	for _, given := range []string{"team-a=demo* team-a=lib\nteam-b=web", "team-c=[ab]"} {
		if err := a.Set(given); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct {
		namespace, projects string
		may                 bool
	}{
		{"team-a", "demo", true},
		{"team-a", "demo2 lib", true},
		{"team-a", "demo web", false},
		{"team-a", "web demo", false},
		{"team-a", "Demo", false},
		{"team-b", "web", true},
		{"team-b", "web2", false},
		{"team-c", "b", true},
		{"team-c", "c", false},
		{"team", "demo", false},
		{"team-*", "demo", false},
		{"", "demo", false},
	} {
		if err := a.check(row.namespace, strings.Fields(row.projects)); (err == nil) != row.may {
			t.Errorf("namespace %q, projects %q: the error is %v", row.namespace, row.projects, err)
		}
	}
}

func TestWithoutAListNoNamespaceMayNameAProject(t *testing.T) {
	for _, namespace := range []string{"default", "team", ""} {
		if err := (allowed{}).check(namespace, []string{"demo"}); err == nil {
			t.Errorf("namespace %q may name a project", namespace)
		}
		if err := (allowed{}).check(namespace, nil); err != nil {
			t.Errorf("namespace %q is refused though it names no project: %v", namespace, err)
		}
	}
}

func TestAnAllowThatMakesNoSenseIsRefused(t *testing.T) {
	for _, given := range []string{"", " ", "team", "team=", "=demo", "team=demo lib", "team=[a"} {
		if err := (allowed{}).Set(given); err == nil {
			t.Errorf("--allow %q is taken", given)
		}
	}
}
