package engines

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

// Commands of this user work on the installed token file: no other user may choose
// which file that is.
func TestWhatOthersMayHaveWrittenIsNotInstalled(t *testing.T) {
	const stranger = 12345
	const definition = `{"hook": {"args": ["terok-gate-hook", "--token-file", "/a", "prestart"]}}`
	for _, row := range []struct {
		name string
		make func(t *testing.T, path string) error // of the definition that is there
		want string
	}{
		{"one's own", func(*testing.T, string) error { return nil }, "/a"},
		{"one's own, elsewhere", func(t *testing.T, path string) error {
			elsewhere := filepath.Join(t.TempDir(), "definition")
			if err := os.Rename(path, elsewhere); err != nil {
				return err
			}
			return os.Symlink(elsewhere, path)
		}, "/a"},
		{"one that all users can write", func(_ *testing.T, path string) error { return os.Chmod(path, 0o666) }, ""},
		{"another user's", func(t *testing.T, path string) error {
			testenv.NeedRoot(t)
			return os.Chown(path, stranger, stranger)
		}, ""},
		{"a link to another user's", func(t *testing.T, path string) error {
			testenv.NeedRoot(t)
			elsewhere := filepath.Join(t.TempDir(), "definition")
			if err := os.Rename(path, elsewhere); err != nil {
				return err
			}
			if err := os.Chown(elsewhere, stranger, stranger); err != nil {
				return err
			}
			return os.Symlink(elsewhere, path)
		}, ""},
		{"a fifo", func(_ *testing.T, path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return unix.Mkfifo(path, 0o644)
		}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			place := Place{Hooks: t.TempDir()}
			path := filepath.Join(place.Hooks, "99-terok-gate-prestart.json")
			if err := os.WriteFile(path, []byte(definition), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := row.make(t, path); err != nil {
				t.Fatal(err)
			}

			if r, _, _ := place.Registration(); r.Settings.Tokens.Path != row.want {
				t.Errorf("the installed token file is %q, want %q", r.Settings.Tokens.Path, row.want)
			}
		})
	}
}

// If there are two hooks, a project needs the consent of both. If only the setting of one hook were
// kept, it might admit projects that the other hook did not.
func TestOfTwoDifferentListsOfProjectsNeitherIsKept(t *testing.T) {
	for second, want := range map[string]bool{
		`"--allow-project", "demo"`: true,
		`"--allow-project", "*"`:    false,
		``:                          false,
	} {
		place := Place{Hooks: t.TempDir()}
		for name, list := range map[string]string{"prestart": `"--allow-project", "demo"`, "zz": second} {
			if list != "" {
				list = ", " + list
			}
			definition := `{"hook": {"args": ["terok-gate-hook", "prestart"` + list + `]}, "stages": ["prestart"]}`
			if err := os.WriteFile(filepath.Join(place.Hooks, "99-terok-gate-"+name+".json"), []byte(definition), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		r, there, err := place.Registration()
		if !there || (err == nil) != want || err == nil && !slices.Equal(r.Settings.AllowProjects, []string{"demo"}) {
			t.Errorf("beside demo, %q: %q, %t, %v", second, r.Settings.AllowProjects, there, err)
		}
	}
}
