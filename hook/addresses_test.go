package hook

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// addressesOf writes a file of addresses, and returns settings that name it.
func addressesOf(t *testing.T, content string) Settings {
	t.Helper()
	path := filepath.Join(t.TempDir(), "projects.json")
	must(t, os.WriteFile(path, []byte(content), 0o600))
	return Settings{Projects: path, GateSocket: "/run/gate/control"}
}

// asks returns the URL that git asks if it is given the address, with the gitconfig of a container.
func asks(t *testing.T, s Settings, want request, address string) string {
	t.Helper()
	var err error
	want.addresses, err = s.addresses(want)
	must(t, err)
	files, err := s.files(want, someToken, someContainer, nil)
	must(t, err)
	for _, f := range files {
		if f.name == "gitconfig" {
			path := filepath.Join(t.TempDir(), "gitconfig")
			must(t, os.WriteFile(path, f.content, 0o600))
			out, err := git(t, "-c", "include.path="+path, "ls-remote", "--get-url", address).Output()
			must(t, err)
			return strings.TrimSpace(string(out))
		}
	}
	t.Fatal("there is no gitconfig")
	return ""
}

const (
	ofLib     = `"lib": {"source": "https://forge.example/org/lib.git", "scheme": "https", "host": "forge.example", "path": "org/lib"}`
	ofLibrary = `"library": {"source": "git@forge.example:org/library", "scheme": "ssh", "host": "forge.example", "path": "org/library"}`
	atSSHPort = `"ported": {"source": "ssh://me@forge.example:2222/org/ported", "scheme": "ssh", "host": "forge.example", "port": "2222", "path": "org/ported"}`
	atPort    = `"web": {"source": "https://forge.example:8443/web", "scheme": "https", "host": "forge.example", "port": "8443", "path": "web"}`
	absolute  = `"srv": {"source": "me@forge.example:/srv/git/srv.git", "scheme": "ssh", "host": "forge.example", "path": "srv/git/srv"}`
	directory = `"demo": {"source": "/home/me/src/demo"}`
)

func TestGitFindsAProjectAtTheGateByEveryFormOfItsAddress(t *testing.T) {
	testenv.Need(t, "git")
	s := addressesOf(t, "{"+strings.Join([]string{ofLib, ofLibrary, atSSHPort, atPort, absolute, directory}, ",")+"}")
	want := request{
		Grant: store.Grant{Project: "demo", Task: "1"},
		Also:  store.Also{"lib": "read", "library": "write", "ported": "read", "web": "read", "srv": "read", "unknown": "read"},
	}
	const gate = "http://127.0.0.1:9418/"
	for address, rewritten := range map[string]string{
		"https://forge.example/org/lib":           gate + "lib.git",
		"https://forge.example/org/lib.git":       gate + "lib.git",
		"https://forge.example/org/lib/":          gate + "lib.git/",
		"https://git@forge.example/org/lib.git":   gate + "lib.git",
		"https://forge.example:443/org/lib.git":   gate + "lib.git",
		"ssh://git@forge.example/org/lib":         gate + "lib.git",
		"ssh://git@forge.example/org/lib.git":     gate + "lib.git",
		"ssh://git@forge.example:22/org/lib.git":  gate + "lib.git",
		"ssh://forge.example/org/lib.git":         gate + "lib.git",
		"git@forge.example:org/lib":               gate + "lib.git",
		"git@forge.example:org/lib.git":           gate + "lib.git",
		"git@forge.example:/org/lib.git":          gate + "lib.git",
		"forge.example:org/lib.git":               gate + "lib.git",
		"https://forge.example/org/library":       gate + "library.git",
		"https://forge.example/org/library.git":   gate + "library.git",
		"git@forge.example:org/library.git":       gate + "library.git",
		"ssh://me@forge.example:2222/org/ported":  gate + "ported.git",
		"ssh://git@forge.example:2222/org/ported": gate + "ported.git",
		"ssh://forge.example:2222/org/ported.git": gate + "ported.git",
		"https://forge.example/org/ported.git":    gate + "ported.git",
		"https://me@forge.example/org/ported":     gate + "ported.git",
		"https://forge.example:8443/web":          gate + "web.git",
		"https://git@forge.example:8443/web.git":  gate + "web.git",
		"git@forge.example:web":                   gate + "web.git",
		"me@forge.example:/srv/git/srv.git":       gate + "srv.git",
		"ssh://me@forge.example/srv/git/srv":      gate + "srv.git",

		// A URL that only begins like a project's address becomes the URL of no other project.
		"https://forge.example/org/lib-x":    gate + "lib.git-x",
		"https://forge.example/org/library2": gate + "library.git2",
		"https://forge.example/org/lib.gitx": gate + "lib.gitx",

		// All other URLs stay as they are, such as one with another host, port, user or path.
		"https://forge.example/org/other":           "https://forge.example/org/other",
		"https://forge.example/other/lib":           "https://forge.example/other/lib",
		"https://forge.example.evil/org/lib":        "https://forge.example.evil/org/lib",
		"https://forge.example:8444/web":            "https://forge.example:8444/web",
		"https://forge.example/web":                 "https://forge.example/web",
		"ssh://git@forge.example:2223/org/ported":   "ssh://git@forge.example:2223/org/ported",
		"you@forge.example:org/lib":                 "you@forge.example:org/lib",
		"http://forge.example/org/lib":              "http://forge.example/org/lib",
		"/home/me/src/demo":                         "/home/me/src/demo",
		"http://127.0.0.1:9418/lib.git":             "http://127.0.0.1:9418/lib.git",
		"https://elsewhere.example/forge.example:x": "https://elsewhere.example/forge.example:x",
	} {
		if got := asks(t, s, want, address); got != rewritten {
			t.Errorf("for %s git asks %s, not %s", address, got, rewritten)
		}
	}
}

// The address of a project that is not granted may begin with the address of a granted one. It is
// never taken for the granted one.
func TestANeighbourThatIsNotGrantedIsNotFoundAtTheGate(t *testing.T) {
	testenv.Need(t, "git")
	s := addressesOf(t, "{"+ofLib+","+ofLibrary+"}")
	want := request{Grant: store.Grant{Project: "lib", Task: "1"}}
	if got := asks(t, s, want, "https://forge.example/org/library"); got != "http://127.0.0.1:9418/lib.gitrary" {
		t.Errorf("git asks %s", got)
	}
}

// An image's own rule for the whole forge matches a shorter beginning of the address than ours, and
// git takes the rule with the longest match.
func TestAnImagesOwnRewritingOfTheForgeGivesWay(t *testing.T) {
	testenv.Need(t, "git")
	s := addressesOf(t, "{"+ofLib+"}")
	path := filepath.Join(t.TempDir(), "gitconfig")
	addresses, err := s.addresses(request{Grant: store.Grant{Project: "lib", Task: "1"}})
	must(t, err)
	must(t, os.WriteFile(path, rewriting(s.URL(), addresses), 0o600))
	ask := git(t, "-c", "include.path="+path, "-c", "url.git@forge.example:.insteadOf=https://forge.example/",
		"ls-remote", "--get-url", "https://forge.example/org/lib")
	if out, err := ask.Output(); err != nil || string(out) != "http://127.0.0.1:9418/lib.git\n" {
		t.Errorf("git asks %s, %v", out, err)
	}
}

func TestTheGoCommandFetchesGrantedModulesWithoutAProxy(t *testing.T) {
	s := addressesOf(t, "{"+ofLib+","+ofLibrary+"}")
	for _, row := range []struct {
		own, want string
		also      store.Also
	}{
		{"", "GOPRIVATE=forge.example/org/lib,forge.example/org/lib.git\n", nil},
		{"corp.example", "GOPRIVATE=corp.example,forge.example/org/lib,forge.example/org/lib.git\n", nil},
		{"a\nb", "GOPRIVATE=forge.example/org/lib,forge.example/org/lib.git\n", nil},
		{"", "GOPRIVATE=forge.example/org/lib,forge.example/org/lib.git,forge.example/org/library,forge.example/org/library.git\n", store.Also{"library": "read"}},
	} {
		want := request{Grant: store.Grant{Project: "lib", Task: "1"}, Also: row.also}
		var err error
		want.addresses, err = s.addresses(want)
		must(t, err)
		files, err := s.files(want, someToken, someContainer, []string{"GOPRIVATE=" + row.own})
		must(t, err)
		if !strings.Contains(string(files[0].content), row.want) {
			t.Errorf("with %q, gate.env is\n%s", row.own, files[0].content)
		}
	}
}

// A file that is wrong keeps no container from starting, and the log says what is wrong.
func TestAddressesThatCannotBeReadAreLeftOut(t *testing.T) {
	const good = "{" + ofLib + "}"
	for _, row := range []struct {
		name   string
		change func(t *testing.T, path string)
		says   string // empty: they are read
	}{
		{"nothing is wrong", func(*testing.T, string) {}, ""},
		{"readable by every user", func(t *testing.T, path string) { must(t, os.Chmod(path, 0o644)) }, ""},
		{"missing", func(t *testing.T, path string) { must(t, os.Remove(path)) }, "no such file"},
		{"writable by the group", func(t *testing.T, path string) { must(t, os.Chmod(path, 0o660)) }, "others can write it"},
		{"writable by every user", func(t *testing.T, path string) { must(t, os.Chmod(path, 0o602)) }, "others can write it"},
		{"another user's", func(t *testing.T, path string) {
			testenv.NeedRoot(t)
			must(t, os.Chown(path, 4711, 4711))
		}, "it belongs to user 4711"},
		{"a link", func(t *testing.T, path string) {
			must(t, os.Rename(path, path+".real"))
			must(t, os.Symlink(path+".real", path))
		}, "too many levels of symbolic links"},
		{"a directory", func(t *testing.T, path string) {
			must(t, os.Remove(path))
			must(t, os.Mkdir(path, 0o700))
		}, "not a regular file"},
		{"a fifo", func(t *testing.T, path string) {
			must(t, os.Remove(path))
			must(t, unix.Mkfifo(path, 0o600))
		}, "not a regular file"},
		{"empty", content(""), "unexpected end"},
		{"cut off", content(good[:20]), "unexpected end"},
		{"null", content("null"), "JSON null"},
		{"an array", content("[]"), "array"},
		{"too large", content(`{"x": "` + strings.Repeat("x", addressesLimit) + `"}`), "more than"},
		{"only another project's address is in an unknown form", content(`{` + ofLib + `, "x": 7}`), ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := addressesOf(t, good)
			row.change(t, s.Projects)

			addresses, err := s.addresses(request{Grant: store.Grant{Project: "lib", Task: "1"}})
			if row.says == "" {
				must(t, err)
				if len(addresses) != 1 {
					t.Errorf("the addresses are %v", addresses)
				}
			} else if len(addresses) != 0 || err == nil || !strings.Contains(err.Error(), row.says) || !strings.Contains(err.Error(), s.Projects) {
				t.Errorf("addresses %v, error %v", addresses, err)
			}
		})
	}
}

func content(text string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		must(t, os.WriteFile(path, []byte(text), 0o600))
	}
}

// An address goes into git's configuration, where a line break would begin another setting.
func TestOnlyTheAddressThatIsNotPlainIsLeftOut(t *testing.T) {
	for _, bad := range []string{
		`7`, `"https://forge.example/x"`, `{"scheme": 7}`,
		`{"scheme": "http", "host": "forge.example", "path": "x"}`,
		`{"scheme": "ext::sh -c id", "host": "forge.example", "path": "x"}`,
		`{"scheme": "ssh", "path": "x"}`,
		`{"scheme": "ssh", "host": "-oProxyCommand=id", "path": "x"}`,
		`{"scheme": "https", "host": "forge.example\n[core]\n\tsshCommand = id", "path": "x"}`,
		`{"scheme": "https", "host": "me:secret@forge.example", "path": "x"}`,
		`{"scheme": "https", "host": "forge.example", "port": "1;id", "path": "x"}`,
		`{"scheme": "https", "host": "forge.example", "port": "123456", "path": "x"}`,
		`{"scheme": "https", "host": "forge.example", "path": ""}`,
		`{"scheme": "https", "host": "forge.example", "path": "/x"}`,
		`{"scheme": "https", "host": "forge.example", "path": "x\ty"}`,
		`{"scheme": "https", "host": "forge.example", "path": "x # y"}`,
		`{"scheme": "https", "host": "forge.example", "path": "x\"\\"}`,
		`{"scheme": "https", "host": "forge.example", "path": "` + strings.Repeat("x", 401) + `"}`,
	} {
		s := addressesOf(t, `{`+ofLib+`, "demo": `+bad+`}`)
		addresses, err := s.addresses(request{Grant: store.Grant{Project: "demo", Task: "1"}, Also: store.Also{"lib": "read"}})
		if _, lib := addresses["lib"]; len(addresses) != 1 || !lib || err == nil || !strings.Contains(err.Error(), "project demo") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: addresses %v, error %v", bad, addresses, err)
		}
	}
	// A user in the source is taken if it is plain.
	for source, users := range map[string]string{
		"": "|git@", "https://forge.example/x": "|git@", "git@forge.example:x": "|git@", "ssh://git@forge.example/x": "|git@",
		"me@forge.example:x": "|git@|me@", "ssh://me@forge.example/x": "|git@|me@", "me:secret@forge.example:x": "|git@", "a\nb@forge.example:x": "|git@",
	} {
		if got := strings.Join(address{Source: source}.users(), "|"); got != users {
			t.Errorf("of %q the users are %q, not %q", source, got, users)
		}
	}
}

// /run/terok has room for all addresses that a container can have, and a container starts no matter
// what the file of addresses holds.
func TestAContainerHasTheAddressesOfAllItsProjects(t *testing.T) {
	t.Parallel()
	names := []string{"demo"}
	for i := range store.MostAlso {
		names = append(names, fmt.Sprint("lib", i))
	}

	long := strings.Repeat("d/", 190)
	var entries []string
	for _, name := range names {
		entries = append(entries, fmt.Sprintf(`%q: {"scheme": "https", "host": "forge.example", "path": %q}`, name, long+name))
	}

	for name, row := range map[string]struct {
		content string
		lines   int
		lacks   bool
	}{
		"all there can be": {"{" + strings.Join(entries, ",") + "}", len(names) * 24, false},
		"none":             {"{}", 0, false},
		"a broken file":    {"{", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := prepare(t)
			c.hook.GateURL, c.hook.Projects = gate, addressesOf(t, row.content).Projects
			c.start(t, 0)

			out, err := c.prestart(t, "crun", annotated(ReadAnnotation, strings.Join(names[1:], " ")))
			must(t, err)
			if lacks := out.Lacks != nil; lacks != row.lacks || out.Token == "" {
				t.Errorf("the token is %s, and the container lacks: %v", out.Token, out.Lacks)
			}

			config, err := os.ReadFile(c.inside("/run/terok/gitconfig"))
			must(t, err)
			if lines := strings.Count(string(config), "insteadOf = "); lines != row.lines {
				t.Errorf("there are %d addresses, not %d", lines, row.lines)
			}
		})
	}
}
