package hook

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

const (
	someToken     = store.Token("terok-g-0123456789abcdef0123456789abcdef")
	someContainer = "c0ffee"
)

var someRequest = request{Grant: store.Grant{Project: "demo", Task: "1"}}

// theFiles returns the contents of a container's files, by the files' names.
func theFiles(t *testing.T, s Settings, token store.Token, env ...string) map[string]string {
	t.Helper()
	files, err := s.files(someRequest, token, someContainer, env)
	must(t, err)
	contents := map[string]string{}
	for _, f := range files {
		contents[string(f.name)] = string(f.content)
	}
	return contents
}

// writeFiles writes a container's files into a directory that stands for the one in the container.
func writeFiles(t *testing.T, dir string, contents map[string]string) {
	t.Helper()
	for name, content := range contents {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(content, MountPath, dir)), 0o600))
	}
}

const (
	tokenLine = "TEROK_GATE_TOKEN=terok-g-0123456789abcdef0123456789abcdef\n"
	grantIs   = "TEROK_PROJECT=demo\nTEROK_TASK=1\n"
	gitsLines = `GIT_CONFIG_PARAMETERS="'include.path=/run/terok/gitconfig'"` + "\nGIT_CONFIG_SYSTEM=/run/terok/gitidentity\n"
	unquoted  = "# For podman run --env-file, which knows no quotes:\n" +
		"TEROK_UNQUOTED=\"\nGIT_CONFIG_PARAMETERS='include.path=/run/terok/gitconfig'\n\"\n"
)

func TestWhatIsInTheEnvFile(t *testing.T) {
	none, socket := "", Settings{GateSocket: "/run/gate/control"}
	const address = "TEROK_GATE_URL=http://gate:9418\nCODE_REPO=http://gate:9418/demo.git\nTEROK_ACCESS=write\n"
	withheld := socket
	withheld.WithholdToken = true

	for _, row := range []struct {
		name  string
		hook  Settings
		token store.Token
		env   []string
		want  string
		names string
	}{
		{"no gate URL", Settings{}, someToken, nil, tokenLine + grantIs, "gate.env"},
		{"a gate URL", Settings{GateURL: "http://gate:9418"}, someToken, nil,
			tokenLine + grantIs + address + gitsLines + unquoted, "credential gate.env gitconfig gitidentity"},
		{"no identity", Settings{GateURL: "http://gate:9418", Identity: &none}, someToken, nil,
			tokenLine + grantIs + address + strings.Replace(gitsLines, "GIT_CONFIG_SYSTEM=/run/terok/gitidentity\n", "", 1) + unquoted,
			"credential gate.env gitconfig"},
		{"git configured by the environment already", Settings{GateURL: "http://gate:9418"}, someToken,
			[]string{`GIT_CONFIG_PARAMETERS='alias.x'='!echo "$HOME" \'`, "GIT_CONFIG_SYSTEM=/opt/git config", "GIT_CONFIG_COUNT=many"},
			tokenLine + grantIs + address + `GIT_CONFIG_PARAMETERS="'alias.x'='!echo \"\$HOME\" \\' 'include.path=/run/terok/gitconfig'"` +
				"\nGIT_CONFIG_SYSTEM=/run/terok/gitidentity\n" + unquoted, "credential gate.env gitconfig gitidentity"},
		{"a gate URL with a path and a slash at its end", Settings{GateURL: "https://gate/git/", Identity: &none}, someToken, nil,
			tokenLine + grantIs + "TEROK_GATE_URL=https://gate/git\nCODE_REPO=https://gate/git/demo.git\nTEROK_ACCESS=write\n" +
				`GIT_CONFIG_PARAMETERS="'include.path=/run/terok/gitconfig'"` + "\n" + unquoted,
			"credential gate.env gitconfig"},
		{"a gate in the container's network", socket, someToken, []string{"no_proxy=a"},
			tokenLine + grantIs + strings.ReplaceAll(address, "gate:", "127.0.0.1:") + "no_proxy=a,127.0.0.1\nNO_PROXY=a,127.0.0.1\n" + gitsLines + unquoted,
			"credential gate.env gitconfig gitidentity"},
		{"the token withheld", withheld, "", nil,
			grantIs + strings.ReplaceAll(address, "gate:", "127.0.0.1:") + "no_proxy=127.0.0.1\nNO_PROXY=127.0.0.1\n" + gitsLines + unquoted,
			"gate.env gitconfig gitidentity"},
	} {
		t.Run(row.name, func(t *testing.T) {
			files := theFiles(t, row.hook, row.token, row.env...)
			if diff := cmp.Diff(row.want, files["gate.env"]); diff != "" {
				t.Errorf("gate.env (-want +got):\n%s", diff)
			}
			if got := strings.Join(slices.Sorted(maps.Keys(files)), " "); got != row.names {
				t.Errorf("the files are %s, not %s", got, row.names)
			}

			for name, content := range files {
				if name != "gate.env" && name != "credential" && strings.Contains(content, "terok-g-") {
					t.Errorf("the token is in %s", name)
				}
			}
		})
	}
}

func TestTheEnvFileSaysWhatTheContainerMayDo(t *testing.T) {
	for _, row := range []struct {
		limits store.Limits
		want   string
	}{
		{store.Limits{}, "TEROK_ACCESS=write\n"},
		{store.Limits{ReadOnly: true}, "TEROK_ACCESS=read\n"},
		{store.Limits{AppendOnly: true}, "TEROK_ACCESS=append\n"},
		{store.Limits{ReadOnly: true, Push: [][]string{{"refs/heads/a"}}}, "TEROK_ACCESS=read\n"},
		{store.Limits{Push: [][]string{{"refs/heads/a"}}}, "TEROK_ACCESS=write\nTEROK_PUSH=refs/heads/a\n"},
		{store.Limits{Push: [][]string{{"refs/heads/a/**", "refs/tags/*"}, {"refs/heads/a/+@=#"}}},
			"TEROK_ACCESS=write\nTEROK_PUSH=refs/heads/a/**,refs/tags/*:refs/heads/a/+@=#\n"},
	} {
		must(t, row.limits.Check())
		want := request{Grant: someRequest.Grant, Limits: row.limits}
		files, err := Settings{GateURL: gate}.files(want, someToken, someContainer, nil)
		must(t, err)
		if !strings.Contains(string(files[0].content), "demo.git\n"+row.want+"GIT_") {
			t.Errorf("%+v: gate.env is\n%s", row.limits, files[0].content)
		}
	}
}

// Every reader gets the same values. A shell unquotes them, and so does systemd's EnvironmentFile=.
// podman's --env-file takes lines as they stand. If there are several lines for a name, it takes
// the last one.
func TestEveryReaderTakesTheSameFromTheEnvFile(t *testing.T) {
	widest := request{Grant: store.Grant{Project: "A" + strings.Repeat("z9._-", 25), Task: "0.-_"},
		Limits: store.Limits{Push: [][]string{{"refs/**", "refs/a+@=#"}, {"refs/*"}}},
		Also:   store.Also{"lib": "read", "0.-_": "read", "tools": "write", "x": "write"}}
	must(t, widest.Grant.Check())
	must(t, widest.Limits.Check())
	s := Settings{GateURL: "https://user-1_2~3.example:9418/a/b~c"}
	must(t, s.Check())

	const ours = "'include.path=/run/terok/gitconfig'"
	for name, own := range map[string]string{"nothing": "", "characters that are special to a shell": `'a.b'='"$HOME" $(id) \ ` + "`id`\n" + `it'\''s'`} {
		files, err := s.files(widest, someToken, someContainer, []string{"GIT_CONFIG_PARAMETERS=" + own})
		must(t, err)
		content := files[0].content
		path := filepath.Join(t.TempDir(), "gate.env")
		must(t, os.WriteFile(path, content, 0o600))
		shell := exec.Command("sh", "-euc", `set -a; . "$1"; exec env -0`, "sh", path)
		shell.Env = []string{"PATH=" + os.Getenv("PATH")}
		out, err := shell.Output()
		must(t, err)
		read := map[string]string{}
		for entry := range strings.SplitSeq(string(out), "\x00") {
			name, value, _ := strings.Cut(entry, "=")
			read[name] = value
		}

		if want := strings.TrimSpace(own + " " + ours); read["GIT_CONFIG_PARAMETERS"] != want {
			t.Errorf("where the container's own value is %s, the shell has %q, not %q", name, read["GIT_CONFIG_PARAMETERS"], want)
		}
		literal := map[string]string{}
		for line := range strings.Lines(string(content)) {
			if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok && !strings.HasPrefix(line, "#") {
				literal[name] = value
			}
		}
		if own == "" && len(literal) != 12 {
			t.Errorf("there are %d variables: %v", len(literal), literal)
		}
		for _, name := range []string{"TEROK_GATE_TOKEN", "TEROK_PROJECT", "TEROK_TASK", "TEROK_GATE_URL", "CODE_REPO", "TEROK_ACCESS", "TEROK_PUSH", "TEROK_READ", "TEROK_WRITE", "GIT_CONFIG_SYSTEM"} {
			if value := literal[name]; value == "" || value != read[name] {
				t.Errorf("%s is %q, for a shell %q", name, value, read[name])
			}
		}
		if got := literal["GIT_CONFIG_PARAMETERS"]; got != ours {
			t.Errorf("a reader without quotes has %q, not %q", got, ours)
		}
	}
}

func TestGitSendsTheTokenToTheGateAndNowhereElse(t *testing.T) {
	testenv.Need(t, "git")
	for _, row := range []struct {
		gate, url string
		sent      bool
	}{
		{"http://gate.example:9418", "http://gate.example:9418/demo.git", true},
		{"http://gate.example:9418", "http://gate.example:9418", true},
		{"http://gate.example:9418/", "http://gate.example:9418/demo.git/info/refs", true},
		{"http://gate.example", "http://gate.example:80/demo.git", true},
		{"https://gate.example/git", "https://gate.example/git/demo.git", true},
		{"http://[::1]:9418", "http://[::1]:9418/demo.git", true},

		{"http://gate.example:9418", "http://gate.example:94180/demo.git", false},
		{"http://gate.example:9418", "http://gate.example/demo.git", false},
		{"http://gate.example:9418", "https://gate.example:9418/demo.git", false},
		{"http://gate.example:9418", "http://gate.example.evil:9418/demo.git", false},
		{"http://gate.example:9418", "http://evil.gate.example:9418/demo.git", false},
		{"http://gate.example", "http://gate.example@evil/demo.git", false},
		{"https://gate.example/git", "https://gate.example/gitolite/demo.git", false},
		{"https://gate.example/git", "https://gate.example/demo.git", false},
		{"http://[::1]:9418", "http://[::2]:9418/demo.git", false},
	} {
		must(t, checkGateURL(row.gate))
		dir := t.TempDir()
		writeFiles(t, dir, theFiles(t, Settings{GateURL: row.gate}, someToken))
		ask := git(t, "-c", "include.path="+dir+"/gitconfig", "credential", "fill")
		ask.Stdin = strings.NewReader("url=" + row.url + "\n\n")
		out, err := ask.Output()
		if sent := err == nil && strings.Contains(string(out), "username="+string(someToken)+"\n"); sent != row.sent {
			t.Errorf("gate %s, request to %s: git says %q, %v", row.gate, row.url, out, err)
		}
	}
}

func TestGitsConfigurationFromTheEnvironmentIsKept(t *testing.T) {
	testenv.Need(t, "git")
	const ours = "'include.path=/run/terok/gitconfig'"
	for _, row := range []struct {
		name, own string
		want      string // "": an error
	}{
		{"nothing", "", ours},
		{"another parameter, as git wrote it until 2.30", "'a.b=c d'", "'a.b=c d' " + ours},
		{"another parameter, as git writes it since", "'a.b'='c d'", "'a.b'='c d' " + ours},
		{"one without a value", "'a.b'=", "'a.b'= " + ours},
		{"two, and blanks", "'a.b=c'\t 'a.b'='d'\n", "'a.b=c'\t 'a.b'='d'\n " + ours},
		{"a quote and an exclamation mark", `'a.b'='it'\''s '\!'x'`, `'a.b'='it'\''s '\!'x' ` + ours},
		{"our own is not added twice", ours, ours},
		{"our own after another parameter is not added twice", "'a.b=c' " + ours, "'a.b=c' " + ours},
		{"our own before another parameter", ours + " 'a.b=c'", ours + " 'a.b=c' " + ours},
		{"what only ends like our own", `'a.b=it'\''include.path=/run/terok/gitconfig'`, `'a.b=it'\''include.path=/run/terok/gitconfig' ` + ours},
		{"no quotes", "a.b=c", ""},
		{"a blank first", " 'a.b=c'", ""},
		{"a quote that does not end", "'a.b=c", ""},
		{"a value that does not end", "'a.b'='c", ""},
		{"a value without quotes", "'a.b'=c", ""},
		{"two without a blank", "'a.b=c''d.e=f'", ""},
		{"a backslash for what needs none", `'a.b=c'\x'd'`, ""},
		{"a backslash at the end", `'a.b=c'\'`, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			p, err := Settings{GateURL: gate}.gitPointers([]string{"GIT_CONFIG_PARAMETERS=" + row.own})
			if p.parameters != row.want {
				t.Errorf("%q, %v, not %q", p.parameters, err, row.want)
			}
			if (err != nil) != (row.want == "") || err != nil && !strings.Contains(Detail(err), "GIT_CONFIG_PARAMETERS=") {
				t.Errorf("the error is %v", err)
			}

			// Git refuses what we refuse, and accepts what we make.
			for value, refused := range map[string]bool{row.own: row.want == "", row.want: false} {
				config := git(t, "config", "--list")
				config.Env = append(config.Env, "GIT_CONFIG_PARAMETERS="+value)
				if out, err := config.CombinedOutput(); (err != nil) != refused {
					t.Errorf("of %q git says %s, %v", value, out, err)
				}
			}
		})
	}
}

func TestAParameterThatGitRejectsIsRefused(t *testing.T) {
	t.Parallel()
	c := prepare(t)
	c.hook.GateURL = "http://gate.example"
	c.configure(t, func(config map[string]any) {
		config["process"].(map[string]any)["env"] = []string{"GIT_CONFIG_PARAMETERS=many"}
	})
	c.start(t, 0)
	c.refuses(t, `the container's environment has GIT_CONFIG_PARAMETERS="many"`)
}

// A container's commits are made in the name that the operator's template gives, unless the
// container has a name of its own.
func TestTheIdentityIsADefault(t *testing.T) {
	testenv.Need(t, "git")
	templated := "Agent \"{task}\" \\ of {project} <{container}+{task}@{project}.example>"
	for _, row := range []struct {
		name     string
		identity *string
		system   *string // what the image's own GIT_CONFIG_SYSTEM names
		says     string  // the content of that file
		global   string
		want     string
	}{
		{name: "by default", want: "1 <1@demo.invalid>"},
		{name: "from a template", identity: &templated, want: `Agent "1" \ of demo <c0ffee+1@demo.example>`},
		{name: "over the image's own system configuration", system: new("system"), says: "[user]\n\tname = Image\n", want: "1 <1@demo.invalid>"},
		{name: "under the user's own", global: "[user]\n\tname = User\n", want: "User <1@demo.invalid>"},
		{name: "where the image's own GIT_CONFIG_SYSTEM is empty", system: new(""), want: "1 <1@demo.invalid>"},
		{name: "where the image's own system configuration is gone", system: new("gone"), want: "1 <1@demo.invalid>"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			must(t, os.Mkdir(dir, 0o755))
			s := Settings{GateURL: gate, Identity: row.identity}
			must(t, s.Check())

			var env []string
			if row.system != nil {
				system := *row.system
				if system != "" {
					system = filepath.Join(t.TempDir(), "a \"quoted\" \\ "+system)
				}
				if row.says != "" {
					must(t, os.WriteFile(system, []byte("[own]\n\there = yes\n"+row.says), 0o600))
				}
				env = append(env, "GIT_CONFIG_SYSTEM="+system)
			}
			writeFiles(t, dir, theFiles(t, s, someToken, env...))

			p, err := s.gitPointers(env)
			must(t, err)

			commit := git(t, "var", "GIT_AUTHOR_IDENT")
			commit.Env = slices.DeleteFunc(commit.Env, func(v string) bool { return v == "GIT_CONFIG_NOSYSTEM=1" })
			for _, v := range p.variables() {
				commit.Env = append(commit.Env, v.name+"="+strings.ReplaceAll(v.value, MountPath, dir))
			}

			must(t, os.WriteFile(filepath.Join(commit.Dir, ".gitconfig"), []byte(row.global), 0o600))
			out, err := commit.CombinedOutput()
			if got, _, _ := strings.Cut(string(out), "> "); err != nil || got+">" != row.want {
				t.Errorf("git says %s, %v, not %s", out, err, row.want)
			}
			if row.says != "" {
				own := git(t, "config", "own.here")
				own.Env = commit.Env
				if out, err := own.Output(); err != nil || string(out) != "yes\n" {
					t.Errorf("the image's own configuration says %q, %v", out, err)
				}
			}
		})
	}
}

// If git cannot include the file that the container's own GIT_CONFIG_SYSTEM names, that file stays
// in force.
func TestASystemConfigurationThatCannotBeIncludedStays(t *testing.T) {
	for _, own := range []string{"gitconfig", "./gitconfig", "~/gitconfig", "%(prefix)/etc/gitconfig", "/etc/git\nconfig"} {
		files := theFiles(t, Settings{GateURL: gate}, someToken, "GIT_CONFIG_SYSTEM="+own)
		if files["gitidentity"] != "" || strings.Contains(files["gate.env"], "GIT_CONFIG_SYSTEM") {
			t.Errorf("%q is replaced", own)
		}
	}
}

func TestGateURLs(t *testing.T) {
	for _, good := range []string{
		"http://gate", "https://gate.example", "http://host.containers.internal:9418", "http://127.0.0.1:1", "http://[::1]:9418",
		"http://gate/", "http://gate/a/b_c-d.e~f",
	} {
		if err := checkGateURL(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "gate", "gate:9418", "//gate", "/gate", "http:gate", "http://", "http://:9418", "http:///a", "ftp://gate", "file:///a", "HTTP//gate",
		"http://user@gate", "http://user:password@gate", "http://gate?a=b", "http://gate#a", "http://gate/%2e", "http://gate/a b",
		"http://gate/$HOME", "http://gate/`id`", "http://gate/\"", "http://gate/'", "http://gate/\\", "http://gate/\n", "http://gate/\x00",
		"http://gäte", "http://gate;id", "http://gate:port", "http://[::1", "--upload-pack=id",
	} {
		if err := checkGateURL(bad); err == nil {
			t.Errorf("%q is admitted", bad)
		}
	}
}

// git returns a command that runs git with no configuration except what the test gives it.
func git(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		fmt.Sprintf("GIT_CEILING_DIRECTORIES=%s", filepath.Dir(cmd.Dir))}
	return cmd
}
