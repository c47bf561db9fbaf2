package desk

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
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
		t.Errorf("of nothing: %v, %v", all, err)
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
