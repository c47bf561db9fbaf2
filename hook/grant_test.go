package hook

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"terok-gate-hook/store"
)

func TestTheGrantIsInTheAnnotations(t *testing.T) {
	const project, task = ProjectAnnotation, TaskAnnotation
	for _, row := range []struct {
		name        string
		annotations map[string]string
		asked       bool
		grant       store.Grant
		err         string
	}{
		{name: "no annotations at all"},
		{name: "neither project nor task", annotations: map[string]string{"a": "b", EnvModeAnnotation: "0400"}},
		{name: "similar names of other programs", annotations: map[string]string{"terok.sandbox.sidecar": "1", "my.terok.project": "demo", "terok": "x"}},
		{name: "a misspelled limit beside both", annotations: map[string]string{project: "demo", task: "1", "terok.acess": "read"}, asked: true, err: `annotation "terok.acess" is not known`},
		{name: "a misspelled limit alone", annotations: map[string]string{"terok.acess": "read"}, asked: true, err: `annotation "terok.acess" is not known`},
		{name: "a name in capitals", annotations: map[string]string{project: "demo", task: "1", "terok.Access": "read"}, asked: true, err: `annotation "terok.Access" is not known`},
		{name: "no name at all", annotations: map[string]string{project: "demo", task: "1", "terok.": "read"}, asked: true, err: `annotation "terok." is not known`},
		{name: "both", annotations: map[string]string{project: "demo", task: "1"}, asked: true, grant: store.Grant{Project: "demo", Task: "1"}},
		{name: "no task", annotations: map[string]string{project: "demo"}, asked: true, err: "annotation terok.project is there, terok.task is not"},
		{name: "no project", annotations: map[string]string{task: "1"}, asked: true, err: "annotation terok.task is there, terok.project is not"},
		{name: "an empty project counts as there", annotations: map[string]string{project: "", task: "1"}, asked: true, err: `annotation terok.project: "" is refused`},
		{name: "an empty task counts as there", annotations: map[string]string{project: "demo", task: ""}, asked: true, err: `annotation terok.task: "" is refused`},
		{name: "the gate's wildcard", annotations: map[string]string{project: "*", task: "1"}, asked: true, err: `annotation terok.project: "*" is refused`},
	} {
		t.Run(row.name, func(t *testing.T) {
			want, asked, err := Settings{}.request(row.annotations)
			if row.err != "" { // for the log, the grant then says what was asked for
				row.grant = store.Grant{Project: row.annotations[project], Task: row.annotations[task]}
			}

			if want.Grant != row.grant || asked != row.asked {
				t.Errorf("grant %+v, asked %v", want.Grant, asked)
			}
			if row.err == "" {
				must(t, err)
			} else if !errors.Is(err, ErrRefused) || !strings.Contains(Detail(err), row.err) {
				t.Errorf("the error is no refusal with %q: %v", row.err, err)
			}
		})
	}
}

func TestAnyOfThePatternsAdmitsAProject(t *testing.T) {
	for _, row := range []struct {
		patterns string
		project  string
		admitted bool
	}{
		{"", "demo", true},
		{"demo", "demo", true},
		{"demo", "demo2", false},
		{"demo", "Demo", false},
		{"emo", "demo", false},
		{"demo-*", "demo-web", true},
		{"demo-*", "demo", false},
		{"demo-?", "demo-1", true},
		{"demo-?", "demo-12", false},
		{"[a-d]emo", "demo", true},
		{"[a-c]emo", "demo", false},
		{"other demo", "demo", true},
		{"other more", "demo", false},
	} {
		_, _, err := Settings{AllowProjects: strings.Fields(row.patterns)}.request(map[string]string{ProjectAnnotation: row.project, TaskAnnotation: "1"})
		if (err == nil) != row.admitted {
			t.Errorf("patterns %q, project %s: %v", row.patterns, row.project, err)
		}
		if err != nil && (!errors.Is(err, ErrRefused) || !strings.Contains(Detail(err), `"`+row.project+`"`)) {
			t.Errorf("patterns %q, project %s: no refusal that names the project: %v", row.patterns, row.project, err)
		}
	}
}

func TestModesOfTheEnvFile(t *testing.T) {
	for s, want := range map[string]fs.FileMode{"0400": 0o400, "400": 0o400, "0440": 0o440, "0444": 0o444} {
		if mode, err := parseEnvMode(s); err != nil || mode != want {
			t.Errorf("%q is %04o, %v", s, mode, err)
		}
	}
	for _, s := range []string{"", "0", "0600", "0404", "04400", "4444", "0x100", "0o400", "-0400", " 0400", "rw", strings.Repeat("4", 1000)} {
		if mode, err := parseEnvMode(s); err == nil || len(Detail(err)) > 100 {
			t.Errorf("%q is %04o, %v", s, mode, err)
		}
	}
	_, _, err := Settings{}.request(map[string]string{ProjectAnnotation: "demo", TaskAnnotation: "1", EnvModeAnnotation: "0777"})
	if !errors.Is(err, ErrRefused) || !strings.Contains(Detail(err), `annotation terok.env-mode: "0777": use 0400, 0440 or 0444`) {
		t.Errorf("the annotation 0777: %v", err)
	}
}
