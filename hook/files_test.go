package hook

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

const (
	someToken = store.Token("terok-g-0123456789abcdef0123456789abcdef")
	someBasic = "Authorization: Basic dGVyb2stZy0wMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZjo="
)

var someGrant = store.Grant{Project: "demo", Task: "1"}

func TestWhatIsInTheEnvFile(t *testing.T) {
	const base = "TEROK_GATE_TOKEN=terok-g-0123456789abcdef0123456789abcdef\nTEROK_PROJECT=demo\nTEROK_TASK=1\n"
	for _, row := range []struct {
		name, gateURL, mountPath string
		count                    int
		env                      string
		names                    string
	}{
		{"no gate URL", "", "/run/terok", 0, base, "gate.env"},
		{"a gate URL", "http://gate:9418", "/run/terok", 0, base +
			"TEROK_GATE_URL=http://gate:9418\nCODE_REPO=http://gate:9418/demo.git\n" +
			"GIT_CONFIG_COUNT=1\nGIT_CONFIG_KEY_0=include.path\nGIT_CONFIG_VALUE_0=/run/terok/gitconfig\n", "gate.env gitconfig"},
		{"git configured by the environment already", "http://gate:9418", "/srv/gate", 2, base +
			"TEROK_GATE_URL=http://gate:9418\nCODE_REPO=http://gate:9418/demo.git\n" +
			"GIT_CONFIG_COUNT=3\nGIT_CONFIG_KEY_2=include.path\nGIT_CONFIG_VALUE_2=/srv/gate/gitconfig\n", "gate.env gitconfig"},
		{"a gate URL with a path and a slash at its end", "https://gate/git/", "", 0, base +
			"TEROK_GATE_URL=https://gate/git\nCODE_REPO=https://gate/git/demo.git\n", "gate.env"},
	} {
		t.Run(row.name, func(t *testing.T) {
			files := files(row.gateURL, row.mountPath, someToken, someGrant, row.count)
			if got := string(files[0].content); got != row.env {
				t.Errorf("gate.env is\n%s\nnot\n%s", got, row.env)
			}
			var names []string
			for _, f := range files {
				names = append(names, string(f.name))
			}
			if got := strings.Join(names, " "); got != row.names {
				t.Errorf("the files are %s, not %s", got, row.names)
			}
		})
	}
}

// Every reader takes the values as they stand: a shell, podman's --env-file and
// systemd's EnvironmentFile= differ only in what needs quoting.
func TestAShellReadsTheEnvFileAsItStands(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Fatal(err)
	}
	widest := store.Grant{Project: "A" + strings.Repeat("z9._-", 25), Task: "0.-_"}
	must(t, widest.Check())
	const url = "https://user-1_2~3.example:9418/a/b~c"
	must(t, checkGateURL(url))
	content := files(url, "/run/te.ro_k-1", someToken, widest, 0)[0].content
	path := filepath.Join(t.TempDir(), "gate.env")
	must(t, os.WriteFile(path, content, 0o600))

	shell := exec.Command("sh", "-euc", `set -a; . "$1"; exec env`, "sh", path)
	shell.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := shell.Output()
	must(t, err)
	got := strings.Split(string(out), "\n")
	lines := strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
	for _, line := range lines {
		if !slices.Contains(got, line) {
			t.Errorf("the shell does not have %q", line)
		}
		if _, value, ok := strings.Cut(line, "="); !ok || value == "" || strings.ContainsAny(value, " \t\"'\\$`#;&|<>()*?!{}=") {
			t.Errorf("%q would need quoting", line)
		}
	}
	if len(lines) != 8 {
		t.Errorf("the env file has %d lines", len(lines))
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
		path := filepath.Join(t.TempDir(), "gitconfig")
		must(t, os.WriteFile(path, files(row.gate, "/run/terok", someToken, someGrant, 0)[1].content, 0o600))
		out, err := git(t, "config", "--file", path, "--get-urlmatch", "http.extraHeader", row.url).Output()
		if sent := err == nil && strings.TrimSpace(string(out)) == someBasic; sent != row.sent {
			t.Errorf("gate %s, request to %s: git says %q, %v", row.gate, row.url, out, err)
		}
	}
}

// The file is included by the environment of the container's process, and once
// more by a shell that sources gate.env: extraHeader adds up.
func TestAFileThatIsIncludedTwiceSendsOneHeader(t *testing.T) {
	testenv.Need(t, "git")
	var mu sync.Mutex
	var seen [][]string
	gate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.Header.Values("Authorization"))
		http.NotFound(w, r)
	}))
	defer gate.Close()
	path := filepath.Join(t.TempDir(), "gitconfig")
	must(t, os.WriteFile(path, files(gate.URL, filepath.Dir(path), someToken, someGrant, 0)[1].content, 0o600))

	remote := git(t, "ls-remote", gate.URL+"/demo.git")
	remote.Env = append(remote.Env, "GIT_CONFIG_COUNT=2",
		"GIT_CONFIG_KEY_0=include.path", "GIT_CONFIG_VALUE_0="+path,
		"GIT_CONFIG_KEY_1=include.path", "GIT_CONFIG_VALUE_1="+path)
	if out, err := remote.CombinedOutput(); err == nil {
		t.Fatalf("a server without repositories has one: %s", out)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) == 0 {
		t.Fatal("git asked for nothing")
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(string(someToken)+":"))
	for _, values := range seen {
		if !slices.Equal(values, []string{want}) {
			t.Errorf("git sent %d Authorization headers, or another", len(values))
		}
	}
}

func TestGitsConfigurationFromTheEnvironmentGoesOn(t *testing.T) {
	const ours = "/run/terok/gitconfig"
	for _, row := range []struct {
		name string
		env  []string
		want int // -1: an error
	}{
		{"nothing", nil, 0},
		{"no git", []string{"PATH=/bin", "HOME"}, 0},
		{"an empty count, as git has it", []string{"GIT_CONFIG_COUNT="}, 0},
		{"zero", []string{"GIT_CONFIG_COUNT=0"}, 0},
		{"two of somebody's", []string{"GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=a.b", "GIT_CONFIG_VALUE_0=c"}, 2},
		{"of two counts the last", []string{"GIT_CONFIG_COUNT=2", "GIT_CONFIG_COUNT=5"}, 5},
		{"our own is not added twice", []string{"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=include.path", "GIT_CONFIG_VALUE_0=" + ours}, 0},
		{"our own after somebody's", []string{"GIT_CONFIG_COUNT=3", "GIT_CONFIG_KEY_2=include.path", "GIT_CONFIG_VALUE_2=" + ours}, 2},
		{"our own is not the last", []string{"GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=include.path", "GIT_CONFIG_VALUE_0=" + ours}, 2},
		{"somebody else's include", []string{"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=include.path", "GIT_CONFIG_VALUE_0=/etc/gitconfig"}, 1},
		{"our own beyond the count", []string{"GIT_CONFIG_KEY_0=include.path", "GIT_CONFIG_VALUE_0=" + ours}, 0},
		{"negative", []string{"GIT_CONFIG_COUNT=-1"}, -1},
		{"no number", []string{"GIT_CONFIG_COUNT=two"}, -1},
		{"beyond all reason", []string{"GIT_CONFIG_COUNT=99999999999999999999"}, -1},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := gitConfigCount(row.env, "/run/terok")
			if row.want < 0 {
				if err == nil || !strings.Contains(Detail(err), "GIT_CONFIG_COUNT=") {
					t.Errorf("%d, %v", got, err)
				}
				return
			}
			if err != nil || got != row.want {
				t.Errorf("%d, %v, not %d", got, err, row.want)
			}
		})
	}
}

func TestMountPaths(t *testing.T) {
	for _, good := range []string{"/run/terok", "/a", "/srv/gate-1/x_y.z", "/..."} {
		if err := checkMountPath(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "/", ".", "..", "run/terok", "./run", "/run/", "//run", "/run//terok", "/run/../etc", "/run/./terok", "/..", "/run/a b", "/run/$HOME", "/run/a'b", "/run/a\"b", "/run/a\nb", "/run/a\x00b", "/run/ä", "/run/a:b", "/run/a=b", "/run/a\\b"} {
		if err := checkMountPath(bad); err == nil {
			t.Errorf("%q is admitted", bad)
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

// The container's own environment decides where ours goes on.
func TestTheContainersGitConfigurationIsCountedOn(t *testing.T) {
	t.Parallel()
	c := prepare(t)
	c.hook.GateURL = "http://gate.example"
	c.configure(t, func(config map[string]any) {
		process := config["process"].(map[string]any)
		process["env"] = append(process["env"].([]any), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=user.name", "GIT_CONFIG_VALUE_0=Somebody")
	})
	c.start(t, 0)
	_, err := c.prestart(t, "crun", nil)
	must(t, err)
	env, err := os.ReadFile(c.inside("/run/terok/gate.env"))
	must(t, err)
	if want := "GIT_CONFIG_COUNT=2\nGIT_CONFIG_KEY_1=include.path\nGIT_CONFIG_VALUE_1=/run/terok/gitconfig\n"; !strings.HasSuffix(string(env), want) {
		t.Errorf("gate.env does not end with\n%s", want)
	}
}

func TestAGitConfigurationThatGitRejectsIsRefused(t *testing.T) {
	t.Parallel()
	c := prepare(t)
	c.hook.GateURL = "http://gate.example"
	c.configure(t, func(config map[string]any) {
		config["process"].(map[string]any)["env"] = []string{"GIT_CONFIG_COUNT=many"}
	})
	c.start(t, 0)
	c.refuses(t, `the container's environment has GIT_CONFIG_COUNT="many"`)
}

// git knows no configuration but what the test gives it.
func git(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		fmt.Sprintf("GIT_CEILING_DIRECTORIES=%s", filepath.Dir(cmd.Dir))}
	return cmd
}
