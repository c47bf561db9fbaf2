package hook

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/store"
)

// The operator and the container can each narrow what the token allows, and neither can widen it.
func TestATokenIsLimitedBySettingsAndAnnotations(t *testing.T) {
	agents, tags := []string{"refs/heads/agent/**"}, []string{"refs/tags/*", "refs/heads/*"}
	for _, row := range []struct {
		name        string
		settings    Settings
		annotations []string
		want        store.Limits
	}{
		{"not at all", Settings{}, nil, store.Limits{}},
		{"not at all, explicitly", Settings{Access: "write"}, nil, store.Limits{}},
		{"to reading by the operator", Settings{Access: "read"}, nil, store.Limits{ReadOnly: true}},
		{"to reading by the container", Settings{Access: "write"}, []string{AccessAnnotation, "read"}, store.Limits{ReadOnly: true}},
		{"to reading by both", Settings{Access: "read"}, []string{AccessAnnotation, "read"}, store.Limits{ReadOnly: true}},
		{"to adding by the operator", Settings{Access: "append"}, nil, store.Limits{AppendOnly: true}},
		{"to adding by the container", Settings{}, []string{AccessAnnotation, "append"}, store.Limits{AppendOnly: true}},
		{"to adding by the operator, to reading by the container", Settings{Access: "append"}, []string{AccessAnnotation, "read"}, store.Limits{ReadOnly: true}},
		{"to reading by the operator, to adding by the container", Settings{Access: "read"}, []string{AccessAnnotation, "append"}, store.Limits{ReadOnly: true}},
		{"to adding by the operator and refs by the container", Settings{Access: "append"}, []string{PushAnnotation, "refs/**"},
			store.Limits{AppendOnly: true, Push: [][]string{{"refs/**"}}}},
		{"to some refs by the operator", Settings{Push: tags}, nil, store.Limits{Push: [][]string{tags}}},
		{"to some refs by the container", Settings{}, []string{PushAnnotation, "refs/tags/*,refs/heads/*"}, store.Limits{Push: [][]string{tags}}},
		{"to some refs by both", Settings{Push: agents}, []string{PushAnnotation, "refs/tags/*,refs/heads/*"}, store.Limits{Push: [][]string{agents, tags}}},
		{"to all refs by the container, to some by the operator", Settings{Push: agents}, []string{PushAnnotation, "refs/**"},
			store.Limits{Push: [][]string{agents, {"refs/**"}}}},
		{"to reading by the operator and refs by the container", Settings{Access: "read"}, []string{PushAnnotation, "refs/**"},
			store.Limits{ReadOnly: true, Push: [][]string{{"refs/**"}}}},
		{"to reading by the container and refs by the operator", Settings{Push: agents}, []string{AccessAnnotation, "read"},
			store.Limits{ReadOnly: true, Push: [][]string{agents}}},
		{"to refs of its project and task", Settings{Push: []string{"refs/heads/{project}/{task}/**", "refs/tags/{task}-{task}"}}, []string{PushAnnotation, "refs/heads/*/{task}/*"},
			store.Limits{Push: [][]string{{"refs/heads/demo/1/**", "refs/tags/1-1"}, {"refs/heads/*/1/*"}}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, hashed := range []bool{false, true} {
				s := row.settings
				s.Hashed = hashed
				s.EnvDir = filepath.Join(t.TempDir(), "env")
				s.Tokens.Path = filepath.Join(t.TempDir(), "tokens.json")

				state := map[string]any{"id": "c1"}
				annotated(row.annotations...)(state)
				out, err := s.Prestart(strings.NewReader(jsonOf(t, state)))
				if err != nil {
					t.Fatal(err)
				}

				entries, err := s.Tokens.Entries()
				if err != nil || len(entries) != 1 {
					t.Fatalf("entries: %+v, %v", entries, err)
				}
				e := entries[0]
				if diff := cmp.Diff(row.want, e.Limits); diff != "" || e.Project != "demo" || e.Task != "1" {
					t.Errorf("%+v (-want +got):\n%s", e.Grant, diff)
				}

				content, err := os.ReadFile(s.Tokens.Path)
				must(t, err)
				if held := strings.Contains(string(content), string(out.Token)); held == hashed || !e.Is(out.Token) {
					t.Errorf("hashed: %v, and the file holds\n%s", hashed, content)
				}
			}
		})
	}
}

func jsonOf(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	must(t, err)
	return string(text)
}
