package desk

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/internal/testenv"
)

func TestAnAddressIsTakenApartIfItIsPlain(t *testing.T) {
	for _, row := range []struct{ source, scheme, host, port, path string }{
		{"https://git.example/org/demo.git", "https", "git.example", "", "org/demo"},
		{"https://git.example/org/demo/", "https", "git.example", "", "org/demo"},
		{"https://me@Git.Example:443/org/demo", "https", "git.example", "", "org/demo"},
		{"https://git.example:8443/org/demo.git", "https", "git.example", "8443", "org/demo"},
		{"ssh://git@git.example/org/demo.git", "ssh", "git.example", "", "org/demo"},
		{"ssh://git@git.example:2222/~me/demo", "ssh", "git.example", "2222", "~me/demo"},
		{"git@git.example:org/demo.git", "ssh", "git.example", "", "org/demo"},
		{"git.example:org/demo", "ssh", "git.example", "", "org/demo"},

		{"http://git.example/demo", "", "", "", ""},
		{"file:///srv/demo.git", "", "", "", ""},
		{"/srv/demo:1", "", "", "", ""},
		{"ext::sh -c id", "", "", "", ""},
		{"https://git.example/a b", "", "", "", ""},
		{"https://git.example/a\"]\n[core]", "", "", "", ""},
		{"https://-x/demo", "", "", "", ""},
		{"https://git.example/", "", "", "", ""},
		{"https://[::1]/demo", "", "", "", ""},
	} {
		want := Source{row.source, row.scheme, row.host, row.port, row.path}
		if diff := cmp.Diff(want, addressOf(row.source)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", row.source, diff)
		}
	}
}

func TestAnAddressThatHoldsASecretIsRefused(t *testing.T) {
	for source, want := range map[string]bool{
		"https://me:pw@git.example/demo":                         false,
		"https://:pw@git.example/demo":                           false,
		"https://ghp_0123456789@git.example/demo":                false,
		"https://0123456789abcdef0123456789abcdef@git.example/d": false,
		"ssh://git:pw@git.example/demo":                          false,
		"https://me:50%off@git.example/demo":                     false,
		"https://me:a@b@git.example/demo":                        false,
		"https://me:p w@git.example/demo":                        false,
		"http::https://me:pw@git.example/demo":                   false,
		"HTTPS://ghp_0123456789@git.example/demo":                false,
		"https://git.example/@demo:x":                            true,
		"ssh://git@git.example:2222/demo":                        true,
		"https://git.example/demo":                               true,
		"https://me@git.example/demo":                            true,
		"git@git.example:demo":                                   true,
		"/srv/demo":                                              true,
	} {
		if got := CheckSource(source) == nil; got != want {
			t.Errorf("%s: admitted %v, want %v", source, got, want)
		}
	}
}

func TestSourcesAreRemembered(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "desk")
	if all, err := Sources(dir); err != nil || len(all) > 0 {
		t.Errorf("without a file: %v, %v", all, err)
	}
	for _, s := range [][2]string{{"demo", "git@git.example:demo"}, {"lib", "/srv/lib"}, {"gone", "/srv/gone"}, {"gone", ""}} {
		if err := Remember(dir, s[0], s[1]); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]Source{
		"demo": {"git@git.example:demo", "ssh", "git.example", "", "demo"},
		"lib":  {Source: "/srv/lib"},
	}
	all, err := Sources(dir)
	if diff := cmp.Diff(want, all); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	info, err := os.Stat(SourcesFile(dir))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}

	if err := os.WriteFile(SourcesFile(dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Remember(dir, "demo", "/srv/demo"); err == nil {
		t.Error("a broken file was replaced")
	}
}

func TestBeginSourcesKeepsAFileThatIsThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "desk")
	for range 2 {
		if err := BeginSources(dir); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(SourcesFile(dir)); err != nil || string(text) != "{}\n" {
		t.Errorf("it begins as %q, %v", text, err)
	}

	if err := Remember(dir, "demo", "/srv/demo"); err != nil {
		t.Fatal(err)
	}
	if err := BeginSources(dir); err != nil {
		t.Fatal(err)
	}
	if all, err := Sources(dir); err != nil || len(all) != 1 {
		t.Errorf("after a second beginning, the sources are %v, %v", all, err)
	}
}

// The token file is beside root's desks. So the gate's user must be able to enter the directory
// above both.
func TestOtherUsersMayEnterTheDirectoryAboveTheDesks(t *testing.T) {
	testenv.NeedRoot(t)
	above := filepath.Join(t.TempDir(), "terok")
	defer syscall.Umask(syscall.Umask(0o077))
	if err := BeginSources(filepath.Join(above, "desk")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{above: 0o755, filepath.Join(above, "desk"): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

func TestSpoiledSourcesAreRefusedAndStay(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"broken":         func(path string) error { return os.WriteFile(path, []byte("{"), 0o600) },
		"a link":         func(path string) error { return errors.Join(os.Rename(path, path+"2"), os.Symlink(path+"2", path)) },
		"a directory":    func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"for all users":  func(path string) error { return os.Chmod(path, 0o666) },
		"another user's": func(path string) error { return os.Chown(path, 1234, -1) },
	} {
		t.Run(name, func(t *testing.T) {
			if name == "another user's" {
				testenv.NeedRoot(t)
			}
			dir := t.TempDir()
			if err := Remember(dir, "demo", "https://example.com/demo"); err != nil {
				t.Fatal(err)
			}
			if err := spoil(SourcesFile(dir)); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(SourcesFile(dir))
			if all, err := Sources(dir); err == nil {
				t.Errorf("the file was read as %v", all)
			}
			if err := Remember(dir, "other", "https://example.com/other"); err == nil {
				t.Error("a source was added to the file")
			}
			if after, _ := os.ReadFile(SourcesFile(dir)); string(after) != string(before) {
				t.Errorf("the file is now %s", after)
			}
		})
	}
}
