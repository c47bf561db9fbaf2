package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// Precreate adds variables that point git to files in /run/terok. In any environment that a
// container may have, git works or is no worse off. GIT_CONFIG_PARAMETERS is documented nowhere, so
// these tests run with every git that we have (scripts/engines).

// pointed is the beginning of the containers' scripts. It defines functions for the rest.
const pointed = `
work() { # clones, commits and pushes a branch of this name; prints the author
	git clone --quiet "$CODE_REPO" $1; cd $1; git switch --quiet --create $1
	git commit --quiet --allow-empty --message "by $1"; git push --quiet origin $1; git status >status
	git log -1 --format='by %an <%ae>'
}
filtered() { # runs its arguments without the variables whose names look like secrets
	for name in $(env | sed -n 's/=.*//p' | grep -E 'KEY|TOKEN|SECRET|VALUE'); do unset $name; done
	"$@"
}
another() { # runs its arguments as another user who keeps the environment
	setpriv --reuid 4321 --regid 4321 --clear-groups env HOME=/tmp "$@"
}
fails() { # runs its arguments, which must fail; prints what they say
	if "$@" 2>&1; then echo "it works: $*"; exit 1; fi
}
`

// pointerRows are what containers do, and what they print then.
var pointerRows = []struct{ name, script, says string }{
	{"the whole environment", `work whole`, "by pointer <pointer@demo.invalid>"},
	{"names with KEY, TOKEN, SECRET and VALUE removed", `filtered work filtered`, "by pointer <pointer@demo.invalid>"},
	{"GIT_CONFIG_NOSYSTEM, which leaves the identity out", `export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=own GIT_COMMITTER_NAME=own EMAIL=own@example.org; work nosystem`,
		"by own <own@example.org>"},
	{"git -c", `git -c user.name=own -c alias.do='!f() { git clone --quiet "$CODE_REPO" c; cd c; git commit --quiet --allow-empty -m c; git log -1 --format=%an; git push --quiet origin HEAD:c; }; f' do`, "own"},
	{"the user's and the repository's own identity", `git config --global user.name user; git config --global user.email user@example.org; work user
		git config user.name repository; git commit --quiet --allow-empty -m own; git log -1 --format='by %an <%ae>'; rm ~/.gitconfig`,
		"by user <user@example.org>\nby repository <user@example.org>"},
	{"a repository's stale header, helper, proxy and redirects", `work stale; git config http.$TEROK_GATE_URL.extraHeader "Authorization: Basic c3RhbGU6"
		git config http.extraHeader "Authorization: Basic c3RhbGU6"; git config credential.helper '!echo username=stale; echo password='
		git config credential.$TEROK_GATE_URL.helper '!echo username=stale; echo password='; git config http.$TEROK_GATE_URL.proxy http://127.0.0.1:1
		git push --quiet origin HEAD:stale2; git config --get-urlmatch http.followRedirects $CODE_REPO`, "by pointer <pointer@demo.invalid>\nfalse"},
	{"a user's proxy for the gate's URL", `git config --global http.$TEROK_GATE_URL.proxy http://127.0.0.1:1; export http_proxy=http://127.0.0.1:1; work proxy; rm ~/.gitconfig`,
		"by pointer <pointer@demo.invalid>"},
	{"a user's store that keeps a token", `printf '%s\n' "${CODE_REPO%%demo.git}" | sed 's,//,//terok-g-00000000000000000000000000000000:x@,' >~/.git-credentials
		git config --global credential.helper store; work store; rm ~/.gitconfig`, "by pointer <pointer@demo.invalid>"},
	{"submodules", `work super; git -c protocol.allow=always submodule --quiet add "$CODE_REPO" sub; git commit --quiet -m sub; git push --quiet origin super; cd ..
		git clone --quiet --recurse-submodules --branch super "$CODE_REPO" again; cat again/sub/README; cd again; git submodule --quiet update --remote; git submodule foreach --quiet 'git fetch --quiet; git push --quiet origin HEAD:refs/heads/of-sub; echo pushed'`,
		"by pointer <pointer@demo.invalid>\ndemo\npushed"},
	{"a partial clone, which fetches later", `git clone --quiet --no-checkout --filter=blob:none "$CODE_REPO" partial; cd partial; git checkout --quiet; cat README`, "demo"},
	{"another user", `another git init --quiet own; cd own; another git status >/dev/null; another git config user.name; fails another git ls-remote "$CODE_REPO"`,
		"pointer\nterok-gate: this user may not read /run/terok/credential: "},
	{"another user, with the token in the address", `. /run/terok/gate.env; another git ls-remote "$(echo "$CODE_REPO" | sed "s,//,//$TEROK_GATE_TOKEN:x@,")" refs/heads/main 2>/dev/null | cut -f 2`, "refs/heads/main"},
	{"env -i", `bare="env -i PATH=$PATH HOME=$HOME GIT_TERMINAL_PROMPT=0 git"; $bare init --quiet own; cd own; $bare status >/dev/null; fails $bare ls-remote "$CODE_REPO"`,
		"fatal: could not read Username for "},
	{"a tool that sets the variable itself", `export GIT_CONFIG_PARAMETERS="'user.name=tool'" GIT_TERMINAL_PROMPT=0; git init --quiet own; cd own; git commit --quiet --allow-empty -m own; git log -1 --format=%an; fails git ls-remote "$CODE_REPO"`,
		"tool\nfatal: could not read Username for "},
	{"git config --system, which would write to our file", `fails git config --system own.there yes; env -u GIT_CONFIG_SYSTEM git config --system own.there yes; git config own.there`,
		"error: could not lock config file /run/terok/gitidentity: Read-only file system\nyes"},
	{"git -c credential.helper=, which takes our helper away", `export GIT_TERMINAL_PROMPT=0; fails git -c credential.helper= ls-remote "$CODE_REPO"`,
		"fatal: could not read Username for "},
	{"gate.env sourced as well, twice", `set -a; . /run/terok/gate.env; . /run/terok/gate.env; work sourced`, "by pointer <pointer@demo.invalid>"},
	{"gate.env sourced, and names with KEY, TOKEN, SECRET and VALUE removed", `set -a; . /run/terok/gate.env; filtered work both`, "by pointer <pointer@demo.invalid>"},
	{"what the container may do", `set -a; . /run/terok/gate.env; echo $TEROK_ACCESS ${TEROK_PUSH-all}`, "write all"},
}

func TestGitWorksOrIsNoWorseOffInAnyEnvironment(t *testing.T) {
	testPointers(t, func(t *testing.T, e *engine, g *testGate) {
		run := e.pointer(t, g)
		var script strings.Builder
		script.WriteString(pointed)
		for n, row := range pointerRows {
			fmt.Fprintf(&script, "row_%d() { %s\n}\n( mkdir -m 0777 /tmp/%[1]d; cd /tmp/%[1]d; set -e; row_%[1]d ) </dev/null 2>&1; echo \"== $?\"\n", n, row.script)
		}
		parts := strings.Split(run(script.String()), "== ")
		if len(parts) != len(pointerRows)+1 {
			t.Fatalf("there are %d rows, but the script printed %d statuses: %q", len(pointerRows), len(parts)-1, parts)
		}
		said := parts[0]
		for n, row := range pointerRows {
			status, next, _ := strings.Cut(parts[n+1], "\n")
			if !strings.HasPrefix(said, row.says) || status != "0" {
				t.Errorf("%s: it ends with %s and says\n%s\nnot\n%s", row.name, status, said, row.says)
			}
			said = next
		}
	})
}

// If the image has a configuration of its own, git still uses it.
func TestGitStillUsesTheConfigurationOfTheImage(t *testing.T) {
	testPointers(t, func(t *testing.T, e *engine, g *testGate) {
		own := filepath.Join(e.tempDir(t), "gitconfig")
		if err := os.WriteFile(own, []byte("[own]\n\tthere = it is\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, row := range []struct {
			name   string
			args   []string
			author string
		}{
			{"GIT_CONFIG_PARAMETERS", []string{"--env", `GIT_CONFIG_PARAMETERS='own.there'='it is' 'user.name=O'\''wn'`}, "O'wn"},
			{"GIT_CONFIG_COUNT", []string{"--env", "GIT_CONFIG_COUNT=2", "--env", "GIT_CONFIG_KEY_0=own.there", "--env", "GIT_CONFIG_VALUE_0=it is",
				"--env", "GIT_CONFIG_KEY_1=user.name", "--env", "GIT_CONFIG_VALUE_1=Own"}, "Own"},
			{"GIT_CONFIG_SYSTEM", []string{"--volume", own + ":/opt/git config:ro", "--env", "GIT_CONFIG_SYSTEM=/opt/git config"}, "pointer"},
			{"/etc/gitconfig", []string{"--volume", own + ":/etc/gitconfig:ro"}, "pointer"},
		} {
			t.Run(row.name, func(t *testing.T) {
				branch := strings.ToLower(filepath.Base(row.name))
				script := pointed + "set -e; cd /tmp; git config own.there; work " + branch + "; cd ..; set -a; . /run/terok/gate.env; git config own.there; work " + branch + "-sourced"
				by := "by " + row.author + " <pointer@demo.invalid>"
				if got, want := e.pointer(t, g, row.args...)(script), strings.Repeat("it is\n"+by+"\n", 2); got != want {
					t.Errorf("the container says\n%s\nnot\n%s", got, want)
				}
			})
		}
	})
}

// Podman 4.3 to 6.1 give podman exec no variable that precreate added, but podman's pull
// request 29367 does. Git works either way, and so it does in a health check, which podman
// runs like exec.
func TestGitWorksInPodmanExecWithAndWithoutPrecreatesVariables(t *testing.T) {
	testPointers(t, func(t *testing.T, e *engine, g *testGate) {
		args := append(annotations("demo", "pointer"), withPlainGit(t)...)
		c := e.create(t, append(args, "--health-cmd", `set -ea; . /run/terok/gate.env; git ls-remote --exit-code $CODE_REPO refs/heads/main`)...)
		c.start(t)

		environment, err := c.tryPodman("exec", c.id, "sh", "-c", "tr '\\0' '\\n' </proc/1/environ")
		if err != nil {
			t.Fatal(err)
		}

		var with, without []string
		for line := range strings.Lines(environment) {
			line = strings.TrimSuffix(line, "\n")
			if name, _, _ := strings.Cut(line, "="); strings.HasPrefix(name, "TEROK_") || strings.HasPrefix(name, "GIT_CONFIG_") || name == "CODE_REPO" {
				with, without = append(with, line), append(without, "-u", name)
			}
		}
		if len(with) < 5 {
			t.Fatalf("precreate added %q", with)
		}

		got, err := c.tryPodman("exec", c.id, "sh", "-c", "echo ${TEROK_GATE_ENV-none}")
		t.Logf("podman exec sees TEROK_GATE_ENV=%s (%v)", strings.TrimSpace(got), err)

		for name, row := range map[string]struct {
			env    []string
			script string
			says   string
		}{
			"with":                          {with, "work with", "by pointer <pointer@demo.invalid>"},
			"with, and gate.env sourced":    {with, "set -a; . /run/terok/gate.env; work with-sourced", "by pointer <pointer@demo.invalid>"},
			"without, and gate.env sourced": {without, "set -a; . /run/terok/gate.env; work without-sourced", "by pointer <pointer@demo.invalid>"},
			"without, and Enter is pressed where git asks for a user name": {without, "git status 2>&1 | head -n 1; export GIT_ASKPASS=true; fails git ls-remote " + g.URL + "/demo.git", "fatal: not a git repository"},
			"with, as another user": {with, "fails another git ls-remote " + g.URL + "/demo.git", "terok-gate: this user may not read /run/terok/credential"},
		} {
			out, err := c.tryPodman(append(append([]string{"exec", "--workdir", "/tmp", c.id, "env"}, row.env...), "sh", "-ec", pointed+row.script)...)
			if err != nil || !strings.HasPrefix(out, row.says) {
				t.Errorf("%s: it says %s, %v", name, out, err)
			}
			if asked := strings.Contains(row.script, "ASKPASS"); asked != strings.Contains(out, "remote: no token was shown: ") {
				t.Errorf("%s: the hint \"no token was shown\" is missing, or is there and should not be: %s", name, out)
			}
		}

		if out, err := c.tryPodman("healthcheck", "run", c.id); err != nil {
			t.Errorf("the health check: %s, %v", out, err)
		}
	})
}

// testPointers runs a test with a gate and with an engine whose hooks know the gate.
func testPointers(t *testing.T, test func(t *testing.T, e *engine, g *testGate)) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		testenv.Need(t, "git", "setpriv")
		g := newGate(t, e.tokenFile, "demo")
		flags := []string{"--gate-url", g.URL}
		test(t, e.withHooks(t, hookFlags{prestart: flags}, func(dir string) error { return e.addPrecreate(dir, flags...) }), g)
	})
}

// pointer returns a function that runs a script as the first process of a container with
// our annotations, and returns what the script prints.
func (e *engine) pointer(t *testing.T, g *testGate, args ...string) func(script string) string {
	return func(script string) string {
		t.Helper()
		seen := len(g.requests())
		run := append(append([]string{"run", "--rm"}, annotations("demo", "pointer")...), withPlainGit(t)...)
		out, err := e.tryPodman(append(append(run, args...), image, "sh", "-c", script)...)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if len(g.requests()) == seen {
			t.Error("the gate was not asked")
		}
		return out
	}
}

// withPlainGit is withGit without anything in the environment that is about git.
func withPlainGit(t *testing.T) []string {
	t.Helper()
	return plain(withGit(t))
}

// plain removes the variables that are about git from arguments of podman run.
func plain(args []string) []string {
	for _, name := range []string{"EMAIL=task@example.org", "GIT_TERMINAL_PROMPT=0"} {
		if at := slices.Index(args, name); at > 0 {
			args = slices.Delete(args, at-1, at+1)
		}
	}
	return args
}

// asks checks how often git asked the gate without the token: before 2.46 once in each of
// the commands, and since then never.
func (g *testGate) asks(t *testing.T, requests []request, commands int) {
	t.Helper()
	var major, minor int
	if _, err := fmt.Sscanf(git(t, "version"), "git version %d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if major > 2 || minor >= 46 {
		commands = 0
	}
	without := 0
	for _, r := range requests {
		if r.status == http.StatusUnauthorized {
			without++
		}
	}
	if without != commands {
		t.Errorf("git %d.%d asked the gate %d times without the token, not %d: %+v", major, minor, without, commands, requests)
	}
}

// Systemd's EnvironmentFile= unquotes the values in gate.env as a shell does. One of them,
// GIT_CONFIG_PARAMETERS, contains what the container had set.
func TestSystemdReadsTheEnvFileAsAShellDoes(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	root, _ := newAccounts(t, m)
	root.install(t, "", "--no-gate --gate-url http://127.0.0.1:9418")
	out := root.must(t, `podman run --rm --network none --annotation terok.project=demo --annotation terok.task=1 \
			--env 'GIT_CONFIG_PARAMETERS='\''a.b=$HOME "x" \ `+"`id`"+`'\' `+image+` cat /run/terok/gate.env >/tmp/gate.env
		of_git() { env | grep -E '^(TEROK_GATE_T|CODE_|GIT_)' | sort; }
		(set -a; . /tmp/gate.env; of_git) >/tmp/shell
		systemd-run --quiet --wait --pipe --property EnvironmentFile=/tmp/gate.env env | (eval "env() { cat; }"; of_git) >/tmp/systemd
		diff /tmp/shell /tmp/systemd; cat /tmp/systemd`)
	const want = `GIT_CONFIG_PARAMETERS='a.b=$HOME "x" \ ` + "`id`" + `' 'include.path=/run/terok/gitconfig'`
	if !strings.Contains(out, want+"\n") || !strings.Contains(out, "TEROK_GATE_TOKEN=terok-g-") {
		t.Errorf("systemd reads\n%s\nwithout\n%s", out, want)
	}
}
