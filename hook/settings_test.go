package hook

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/store"
)

// all has every setting set.
var all = Settings{
	Tokens:        store.File{Path: "/srv/gate/tokens.json", LockTimeout: 90 * time.Second},
	LogFile:       "/var/log/gate",
	AllowProjects: []string{"demo", "web-*,"}, AllowReads: []string{"lib*"}, EnvMode: "0440",
	GateURL: "https://[::1]:9418/a", EnvDir: "/srv/env",
	Access: "read", Push: []string{"refs/heads/{task}/**", "refs/tags/*"}, Hashed: true,
	GateSocket: "/run/gate/control", GateListen: "127.0.0.1:80", WithholdToken: true,
	Services: []string{"llm=127.0.0.1:4000"}, AllowServices: []string{"demo=llm"},
	Identity: new("{task} <{task}@{project}.example>"), Projects: "/srv/desk/projects.json",
	Project: "demo", TaskID: true, Annotated: true,
}

func TestSettingsAreTheArgumentsOfACommand(t *testing.T) {
	const common = "--token-file /srv/gate/tokens.json --log-file /var/log/gate --lock-timeout 1m30s "
	const identity = " --identity {task} <{task}@{project}.example>"
	const token = " --env-mode 0440" + identity + " --access read --push refs/heads/{task}/** --push refs/tags/* --hashed --projects /srv/desk/projects.json"
	const ours = " --allow-project demo --allow-project web-*, --allow-read lib* --gate-url https://[::1]:9418/a" +
		" --gate-socket /run/gate/control --gate-listen 127.0.0.1:80 --withhold-token --service llm=127.0.0.1:4000 --allow-service demo=llm"
	for _, row := range []struct {
		command  string
		settings Settings
		args     string
	}{
		{"prestart", Settings{}, "prestart"},
		{"precreate", Settings{Identity: new("")}, "precreate --identity "},
		{"prestart", all, common + "prestart" + ours + token + " --env-dir /srv/env"},
		{"createRuntime", all, common + "createRuntime" + ours + token + " --env-dir /srv/env --project demo --task-id --annotated"},
		{"precreate", all, common + "precreate" + ours + identity},
		{"poststop", all, common + "poststop --gate-socket /run/gate/control --env-dir /srv/env"},
		{"reap", all, common + "reap"},
		{"attach", all, common + "attach --gate-socket /run/gate/control"},
		{"forward", all, common + "forward --service llm=127.0.0.1:4000"},
	} {
		if got := strings.Join(row.settings.Args(row.command), " "); got != row.args {
			t.Errorf("%s: the arguments are\n%s\nnot\n%s", row.command, got, row.args)
		}
	}
}

func TestSettingsAreReadBackFromTheArgumentsOfAStage(t *testing.T) {
	for _, stage := range Stages {
		for _, given := range []Settings{{}, all} {
			got, of, err := ParseArgs(given.Args(stage))
			if err != nil || of != stage {
				t.Errorf("%s: %q, %v", stage, of, err)
			}

			want := Settings{}
			for _, f := range Flags {
				if f.Common() || f.Of(stage) {
					f.Copy(&want, &given)
				}
			}

			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", stage, diff)
			}
		}
	}

	for _, row := range []struct {
		args []string
		want Settings
		err  string
	}{
		{[]string{"-token-file=/a", "--token-file", "/b", "prestart", "-env-mode=0444"}, Settings{Tokens: store.File{Path: "/b"}, EnvMode: "0444"}, ""},
		{nil, Settings{}, "no stage"},
		{[]string{"prestart", "--identity="}, Settings{Identity: new("")}, ""},
		{[]string{"reap"}, Settings{}, `unknown stage "reap"`},
		{[]string{"--token-flie", "/a", "prestart"}, Settings{}, "-token-flie"},
		{[]string{"prestart", "--token-file", "/a"}, Settings{}, "-token-file"},
		{[]string{"poststop", "--gate-url", "http://gate"}, Settings{}, "-gate-url"},
		{[]string{"prestart", "more"}, Settings{}, `no argument "more"`},
		{[]string{"prestart", "--hashed", "--access=read"}, Settings{Hashed: true, Access: "read"}, ""},
		{[]string{"prestart", "--hashed=false"}, Settings{}, ""},
		{[]string{"prestart", "--hashed=maybe"}, Settings{}, "maybe"},
		{[]string{"prestart", "--hashed", "true"}, Settings{}, `no argument "true"`},
		{[]string{"precreate", "--push", "refs/heads/a"}, Settings{}, "-push"},
		{[]string{"--lock-timeout", "soon", "prestart"}, Settings{}, "soon"},
	} {
		got, _, err := ParseArgs(row.args)
		if (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
			t.Errorf("%q: the error is not %q but %v", row.args, row.err, err)
		} else if diff := cmp.Diff(row.want, got); diff != "" && err == nil {
			t.Errorf("%q (-want +got):\n%s", row.args, diff)
		}
	}
}

// A copied list replaces the whole list, and a change of the copy does not change the original.
func TestOneSettingIsCopied(t *testing.T) {
	for _, f := range Flags {
		var to Settings
		f.Copy(&to, &all)
		if got, want := f.Value(&to).String(), f.Value(&all).String(); got != want || got == "" {
			t.Errorf("%s is %q, not %q", f.Name, got, want)
		}
		f.Copy(&to, &Settings{})
		if diff := cmp.Diff(Settings{}, to); diff != "" {
			t.Errorf("after %s is copied and then unset, not all settings are empty (-want +got):\n%s", f.Name, diff)
		}
	}
	var to Settings
	i := slices.IndexFunc(Flags, func(f Flag) bool { return f.Name == "allow-project" })
	Flags[i].Copy(&to, &all)
	to.AllowProjects[0] = "other"
	if all.AllowProjects[0] != "demo" {
		t.Error("the copy is the original")
	}
}

func TestTheTimeoutIsLongerThanTheDeadlineAndTheDeadlineThanTheWaits(t *testing.T) {
	for given, waits := range map[time.Duration]time.Duration{0: store.DefaultLockTimeout, time.Second: time.Second, 90 * time.Second: 90 * time.Second} {
		s := Settings{Tokens: store.File{LockTimeout: given}}
		if s.Deadline() <= waits || s.Timeout() <= s.Deadline() {
			t.Errorf("the wait for the lock takes up to %v, the stage's deadline is %v, the definition's timeout %v", waits, s.Deadline(), s.Timeout())
		}
	}
	slow := Settings{GateSocket: "/run/gate/control", GateTimeout: time.Hour}
	if both := slow.GateTimeout + store.DefaultLockTimeout; slow.Deadline() <= both {
		t.Errorf("the waits for gate and lock take up to %v, the stage's deadline is %v", both, slow.Deadline())
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for _, row := range []struct {
		name     string
		settings Settings
		err      string
	}{
		{"nothing set", Settings{}, ""},
		{"a gate socket", Settings{GateSocket: "/run/gate/control"}, ""},
		{"all that goes with a gate socket", Settings{GateSocket: "/run/gate/control", GateListen: "127.0.0.1:80", WithholdToken: true}, ""},
		{"an invalid pattern", Settings{AllowProjects: []string{"demo", "["}}, `allow-project "[": `},
		{"patterns for reading", Settings{AllowProjects: []string{"demo"}, AllowReads: []string{"lib", "docs-*"}}, ""},
		{"an invalid pattern for reading", Settings{AllowProjects: []string{"demo"}, AllowReads: []string{"["}}, `allow-read "[": `},
		{"patterns for reading where everything is admitted", Settings{AllowReads: []string{"lib"}}, `allow-read "lib": has no effect`},
		{"a mode for everybody to write", Settings{EnvMode: "0666"}, `env-mode "0666": `},
		{"a mode that is not a number", Settings{EnvMode: "rw"}, `env-mode "rw": `},
		{"an unknown access", Settings{Access: "admin"}, `access "admin": must be read, append or write`},
		{"the default access", Settings{Access: "write"}, ""},
		{"pushes to a branch by its short name", Settings{Push: []string{"refs/tags/*", "main"}}, `push "main": not a full ref name`},
		{"pushes to nothing", Settings{Push: []string{""}}, `push "": not a full ref name`},
		{"pushes with an unknown placeholder", Settings{Push: []string{"refs/heads/{user}"}}, `push "refs/heads/{user}": use letters`},
		{"pushes that a long task makes too long", Settings{Push: []string{"refs/heads/{task}/{task}/{task}/{task}"}}, `push "refs/heads/{task}/{task}/{task}/{task}": longer than`},
		{"pushes with too many patterns", Settings{Push: slices.Repeat([]string{"refs/heads/a"}, 17)}, `push "refs/heads/a": at most 16`},
		{"a gate URL that is not a URL", Settings{GateURL: "gate"}, `gate-url "gate": `},
		{"a gate with credentials", Settings{GateURL: "http://me:secret@gate"}, `gate-url "...@gate": `},
		{"no identity", Settings{Identity: new("")}, ""},
		{"an identity without an address", Settings{Identity: new("{task}")}, `identity "{task}": is not of the form NAME <EMAIL>`},
		{"an identity with an empty address", Settings{Identity: new("a <>")}, `identity "a <>": `},
		{"an identity without a name", Settings{Identity: new(" <a@b>")}, `identity " <a@b>": `},
		{"two identities", Settings{Identity: new("a <a@b> <c@d>")}, `identity "a <a@b> <c@d>": `},
		{"an identity of two lines", Settings{Identity: new("a\n[core] <a@b>")}, `identity "a\n[core] <a@b>": `},
		{"an identity with a name of which git leaves nothing", Settings{Identity: new("... <a@b>")}, `identity "... <a@b>": `},
		{"a relative file of addresses", Settings{Projects: "projects.json"}, `projects "projects.json": is not an absolute path`},
		{"a relative env dir", Settings{EnvDir: "env"}, `env-dir "env": `},
		{"a relative gate socket", Settings{GateSocket: "control"}, `gate-socket "control": `},
		{"a gate socket with too long a path", Settings{GateSocket: "/" + strings.Repeat("x", 107)}, `gate-socket "/xxx`},
		{"a gate socket and a URL", Settings{GateSocket: "/run/gate/control", GateURL: "http://gate"}, `gate-socket "/run/gate/control": `},
		{"a gate in the network without a socket", Settings{GateListen: "127.0.0.1:80"}, `gate-listen "127.0.0.1:80": `},
		{"a gate for others than the container", Settings{GateSocket: "/run/gate/control", GateListen: "0.0.0.0:80"}, `gate-listen "0.0.0.0:80": `},
		{"a gate without a port", Settings{GateSocket: "/run/gate/control", GateListen: "127.0.0.1"}, `gate-listen "127.0.0.1": `},
		{"a gate at any port", Settings{GateSocket: "/run/gate/control", GateListen: "127.0.0.1:0"}, `gate-listen "127.0.0.1:0": `},
		{"a token withheld without a gate socket", Settings{WithholdToken: true, GateURL: "http://gate"}, `withhold-token "true": `},
		{"a token withheld and an env file on the host", Settings{GateSocket: "/run/gate/control", WithholdToken: true, EnvDir: "/srv"}, `env-dir "/srv": `},
	} {
		err := row.settings.Check()
		var setting *SettingError
		if row.err == "" && err != nil || row.err != "" && (!errors.As(err, &setting) || !strings.HasPrefix(err.Error(), row.err)) {
			t.Errorf("%s: the error is not %q but %v", row.name, row.err, err)
		}
	}
}
