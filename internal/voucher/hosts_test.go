package voucher

import (
	"os"
	"path/filepath"
	"testing"
)

func TestHostVouchesForItsProjectsAlone(t *testing.T) {
	hosts, err := NewHosts([]string{"a=demo*", "a=lib", "B=other"}, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, flag := range []string{"", "a", "=demo", "a=", "a=["} {
		if _, err := NewHosts([]string{flag}, ""); err == nil {
			t.Errorf("--vouch %q is accepted", flag)
		}
	}

	for asked, want := range map[[2]string]string{
		{"a", "demo"}: "a", {"a", "demo2"}: "a", {"A", "lib"}: "a", {"b", "other"}: "b",
		{"a", "other"}: "", {"b", "demo"}: "", {"", "demo"}: "", {"a.example", "demo"}: "", {"*", "demo"}: "",
	} {
		if got := hosts.Now().Voucher([]string{"x", asked[0]}, asked[1]); got != want {
			t.Errorf("host %q for %q vouches as %q", asked[0], asked[1], got)
		}
	}
	if got := hosts.Now().Voucher(nil, "demo"); got != "" {
		t.Errorf("a host without a name vouches as %q", got)
	}
}

func TestTheFileOfHostsIsReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vouch")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	if _, err := NewHosts(nil, path); err == nil {
		t.Error("a file that is missing is accepted")
	}
	write("a")
	if _, err := NewHosts(nil, path); err == nil {
		t.Error("a file that is malformed is accepted")
	}

	write("# our hosts\n\na=demo\n b=demo \n")
	hosts, err := NewHosts([]string{"c=demo"}, path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, a, b bool) {
		t.Helper()
		for host, want := range map[string]bool{"a": a, "b": b, "c": true} {
			if got := hosts.Now().Voucher([]string{host}, "demo") != ""; got != want {
				t.Errorf("%s: host %s may vouch: %v", when, host, got)
			}
		}
	}

	check("at first", true, true)
	write("b=demo")
	check("a is taken out", false, true)
	write("b=demo\na=demo\nwhat\n")
	check("a line is not understood", false, false)
	write("a=demo")
	check("it is fixed", true, false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	check("it is gone", false, false)
}
