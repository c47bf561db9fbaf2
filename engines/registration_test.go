package engines

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// The definitions and the unit have all settings that install was given.
func TestARegistrationNamesBinaryTokenFileAndFlags(t *testing.T) {
	top, err := os.MkdirTemp("/dev/shm", "terok-") // for a file below /tmp, the unit would name /tmp itself
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })

	dir := filepath.Join(top, `a 100% "odd" $HOME`)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}

	r := Registration{
		Binary: filepath.Join(t.TempDir(), binary), // systemd accepts no odd path of a program
		Settings: hook.Settings{
			Tokens:  store.File{Path: filepath.Join(dir, "gate/tokens.json"), LockTimeout: 90 * time.Second},
			LogFile: filepath.Join(top, "log"), EnvMode: "0440",
		},
		Watch: true,
	}

	for _, program := range []string{r.Binary, r.GateBinary()} {
		if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}

	for _, place := range []Place{
		{Hooks: "/hooks", DropIn: filepath.Join(dir, "drop-in"), Units: "/units"},
		{Hooks: "/hooks", DropIn: filepath.Join(dir, "drop-in"), Units: "/units", User: true},
	} {
		files, err := r.files(place, &hookLists{inForce: []string{"/theirs", "/hooks"}})
		if err != nil {
			t.Fatal(err)
		}

		var paths []string
		for _, f := range files {
			paths = append(paths, f.Path)
			switch filepath.Ext(f.Path) {
			case ".json":
				checkDefinition(t, r, f)
			case ".service":
				checkUnit(t, r, place, string(f.Content))
			}
		}

		want := []string{
			"/hooks/99-terok-gate-poststop.json", "/hooks/99-terok-gate-precreate.json", "/hooks/99-terok-gate-prestart.json",
			"/units/" + WatchUnitName, // and no drop-in: podman reads /hooks already
		}
		if !slices.Equal(paths, want) {
			t.Errorf("files %q, want %q", paths, want)
		}
	}
}

// From 4.8 on, podman adds our directory to the lists in other files. An older podman knows
// plain lists only, so our list replaces theirs, and names their directories, too.
func TestTheDropInKeepsOthersDirectoriesInForce(t *testing.T) {
	for _, row := range []struct {
		lists hookLists
		want  string
	}{
		{hookLists{append: true, inForce: []string{"/theirs", "/more of theirs"}}, `["/ours", {append=true}]`},
		{hookLists{append: true, inForce: []string{"/theirs", "/ours"}}, `["/ours", {append=true}]`},
		{hookLists{inForce: []string{"/theirs", "/more of theirs"}}, `["/theirs", "/more of theirs", "/ours"]`},
		{hookLists{inForce: []string{"/theirs", "/ours"}}, `["/theirs", "/ours"]`},
	} {
		if got, want := string(row.lists.with("/ours")), mark+"[engine]\nhooks_dir = "+row.want+"\n"; got != want {
			t.Errorf("%+v: the drop-in is\n%s\nnot\n%s", row.lists, got, want)
		}
	}
}

func checkDefinition(t *testing.T, r Registration, f File) {
	t.Helper()
	var d Definition
	if err := json.Unmarshal(f.Content, &d); err != nil {
		t.Fatalf("%s: %v", f.Path, err)
	}

	stage := d.Stages[0]
	own := map[string][]string{"prestart": {"--env-mode", "0440"}}
	name := binary
	if stage == "precreate" { // if the hook fails, podman shows this name, and not the hook's error
		name += " (to learn why: terok-gate why)"
	}

	want := slices.Concat([]string{name, "--token-file", r.Settings.Tokens.Path, "--log-file", r.Settings.LogFile, "--lock-timeout", "1m30s", stage}, own[stage])
	if !slices.Equal(d.Hook.Args, want) || d.Hook.Path != r.Binary {
		t.Errorf("%s runs %q as %q, want %q", f.Path, d.Hook.Path, d.Hook.Args, want)
	}

	if d.Hook.Timeout <= int(r.Settings.Tokens.LockTimeout.Seconds())+10 {
		t.Errorf("podman kills %s after %d s, although it may wait %v for the lock", f.Path, d.Hook.Timeout, r.Settings.Tokens.LockTimeout)
	}
	if d.When.Annotations[`^terok\.[^./]*(/|$)`] != ".*" || !strings.Contains(f.Path, stage) {
		t.Errorf("%s is for %v at %q", f.Path, d.When.Annotations, d.Stages)
	}
}

func checkUnit(t *testing.T, r Registration, place Place, unit string) {
	t.Helper()
	if !strings.HasPrefix(unit, mark) {
		t.Errorf("the unit does not say whose it is: %s", unit)
	}
	// The service sees and can write the token file and the log file, wherever they are.
	// The token file's own directory does not exist yet.
	directories := `"` + strings.NewReplacer("%", "%%", `"`, `\"`).Replace(filepath.Dir(filepath.Dir(r.Settings.Tokens.Path))) +
		`" "` + filepath.Dir(r.Settings.LogFile) + `"`
	if !place.User && (!strings.Contains(unit, "\nReadWritePaths="+directories+"\n") || !strings.Contains(unit, "\nProtectHome=no\n")) {
		t.Errorf("the service cannot write to %s: %s", directories, unit)
	}
	verifyUnit(t, place, WatchUnitName, unit)
}

// verifyUnit checks a unit with systemd-analyze.
func verifyUnit(t *testing.T, place Place, name, unit string) {
	t.Helper()
	testenv.Need(t, "systemd-analyze")
	if _, err := os.Stat("/run/systemd"); err != nil && os.Geteuid() != 0 && !place.User {
		// systemd-analyze makes the directory, if it may.
		if err := testenv.LeaveOut(t.Name(), testenv.OnlyRoot); err != nil {
			t.Error(err)
		}
		return
	}

	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}

	args := []string{"--man=no", "verify", path}
	if place.User {
		args = slices.Insert(args, 0, "--user")
	}
	cmd := exec.Command("systemd-analyze", args...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze: %v\n%s%s", err, out, unit)
	}
}
