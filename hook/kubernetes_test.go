package hook

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAContainerOfAKubernetesPodAsksForWhatItsAnnotationsSay(t *testing.T) {
	type annotations = map[string]string
	demo := annotations{ProjectAnnotation: "demo", TaskAnnotation: "1"}
	for _, row := range []struct {
		name     string
		pod      annotations
		want     annotations
		projects []string
		refused  string
	}{
		{"the pod's annotations", demo, demo, []string{"demo"}, ""},
		{"other programs' annotations are left out", annotations{ProjectAnnotation: "demo", TaskAnnotation: "1", "terok.sandbox.sidecar": "x", "example.com/terok.project": "x"}, demo, []string{"demo"}, ""},
		{"the container's own annotations", annotations{ProjectAnnotation: "demo", "terok.task/work": "1", "terok.task/test": "2"}, demo, []string{"demo"}, ""},
		{"the container's own annotations before the pod's", annotations{ProjectAnnotation: "other", "terok.project/work": "demo", TaskAnnotation: "1"}, demo, []string{"demo"}, ""},
		{"annotations of another container, whose name is the end of this one's", annotations{"terok.project/ork": "demo", "terok.task/ork": "1"}, annotations{}, nil, ""},
		{"no annotation of ours", annotations{"a": "b"}, annotations{}, nil, ""},
		{"other projects", annotations{ProjectAnnotation: "demo", TaskAnnotation: "1", ReadAnnotation: "lib,abc", WriteAnnotation: "docs"},
			annotations{ProjectAnnotation: "demo", TaskAnnotation: "1", ReadAnnotation: "lib,abc", WriteAnnotation: "docs"}, []string{"demo", "abc", "docs", "lib"}, ""},
		{"a project without a task", annotations{ProjectAnnotation: "demo"}, nil, nil, "terok.task is not: set both or neither"},
		{"a misspelled annotation", annotations{"terok.acess": "read"}, nil, nil, "is not known"},
		{"a project that the node does not admit", annotations{ProjectAnnotation: "secret", TaskAnnotation: "1"}, nil, nil, "is not among those that are admitted"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := Settings{GateSocket: "/run/terok-gate/control", AllowProjects: []string{"demo", "other", "lib", "abc", "docs"}}
			c, asked, err := s.PodContainer(row.pod, "work", []string{"CODE_REPO=mine"})
			if row.refused != "" {
				if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), row.refused) {
					t.Errorf("no refusal with %q: %v", row.refused, err)
				}
				return
			}
			must(t, err)
			if asked != (row.projects != nil) || !slices.Equal(c.Projects, row.projects) {
				t.Errorf("asked %v, projects %q", asked, c.Projects)
			}
			if diff := cmp.Diff(row.want, c.Annotations); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAContainerOfAKubernetesPodKeepsItsVariables(t *testing.T) {
	s := Settings{GateSocket: "/run/terok-gate/control"}
	had := []string{"CODE_REPO=mine", "GIT_CONFIG_PARAMETERS='a.b=c'"}
	c, _, err := s.PodContainer(map[string]string{ProjectAnnotation: "demo", TaskAnnotation: "1"}, "work", had)
	must(t, err)
	for _, want := range []string{"CODE_REPO=mine", "GIT_CONFIG_PARAMETERS='a.b=c' 'include.path=/run/terok/gitconfig'", "TEROK_GATE_ENV=/run/terok/gate.env"} {
		if !slices.Contains(c.Env, want) {
			t.Errorf("no %s in %q", want, c.Env)
		}
	}
	if had[1] != "GIT_CONFIG_PARAMETERS='a.b=c'" {
		t.Error("the caller's variables were changed")
	}
}
