package doctor

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/testenv"
)

func TestTheFileOfDevicesIsExamined(t *testing.T) {
	testenv.NeedRoot(t)
	const spec = `{"cdiVersion": "0.5.0", "kind": "terok.dev/project", "devices": [{"name": "demo", "containerEdits": {"hooks": [` +
		`{"hookName": "createRuntime", "path": "DIR/terok-gate-hook", "args": ["terok-gate-hook", "createRuntime", "--project", "demo", "--task-id"]}]}}]}`
	for _, row := range []struct {
		name, make string
		want       State
		text       string
	}{
		{"complete", "", OK, "1 in DIR/cdi/terok.json"},
		{"a repository without a device", "mkdir repos/other.git", Warning, "repositories without a device: other"},
		{"the hook's program is missing", "rm terok-gate-hook", Broken, "runs DIR/terok-gate-hook, which does not exist"},
		{"a broken file", "echo '{' >cdi/terok.json", Broken, "DIR/cdi/terok.json: unexpected end"},
		{"not ours", "sed -i s,terok.dev/project,example.com/other, cdi/terok.json", Broken, "DIR/cdi/terok.json: it was not written by terok-gate install"},
		{"a name that engines refuse", "sed -i 's,\"name\": \"demo\",\"name\": \"demo.\",' cdi/terok.json", Broken, "DIR/cdi/terok.json: engines drop the whole file: "},
		{"another gate", "sed -i 's,\"--task-id\",\"--gate-socket\"\\, \"/run/other/control\",' cdi/terok.json", Broken, "device demo in DIR/cdi/terok.json asks another gate than the installed one"},
		{"nothing else of an installation", "rm hooks/*", Broken, "DIR/cdi/terok.json exists, but the rest of the installation does not"},
		{"another version of the program", "echo new >terok-gate-hook", Warning, "which is another version than"},
		{"another user's", "chown daemon cdi/terok.json", Broken, "DIR/cdi/terok.json belongs to user"},
		{"in another user's directory", "chown daemon cdi", Broken, "DIR/cdi belongs to user"},
		{"a file that others may write", "chmod 666 cdi/terok.json", Broken, "mode 0666 of DIR/cdi/terok.json lets other users"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := shared(t, "mkdir -p cdi repos/demo.git hooks units; touch terok-gate-hook this; chmod 755 terok-gate-hook")
			for path, content := range map[string]string{
				"cdi/terok.json":                    spec,
				"hooks/99-terok-gate-prestart.json": `{"hook": {"path": "DIR/terok-gate-hook", "args": ["terok-gate-hook", "prestart"]}, "stages": ["prestart"]}`,
				"units/terok-gate.service":          "# Written by terok-gate install; terok-gate uninstall removes it.\nExecStart=\"terok-gate\" \"serve\" \"--repos\" \"DIR/repos\"\n",
			} {
				testenv.Must(t, os.WriteFile(filepath.Join(dir, path), []byte(strings.ReplaceAll(content, "DIR", dir)), 0o644))
			}
			run(t, dir, row.make)
			var found []Finding
			e := examination{ctx: context.Background(), stopped: map[string]bool{}, report: func(f Finding) { found = append(found, f) }, Doctor: Doctor{Binary: filepath.Join(dir, "this"), Place: engines.Place{
				Hooks: filepath.Join(dir, "hooks"), Units: filepath.Join(dir, "units"), Devices: filepath.Join(dir, "cdi/terok.json"),
			}}}

			e.devices()
			want := strings.ReplaceAll(row.text, "DIR", dir)
			if !slices.ContainsFunc(found, func(f Finding) bool {
				return f.State == row.want && strings.Contains(f.Text, want) && (f.Remedy != "") == (f.State != OK)
			}) || len(found) != 1 {
				t.Errorf("found %+v, want %s: %s", found, row.want, want)
			}
		})
	}
}
