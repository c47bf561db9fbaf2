package engines

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// gates is the user that the gate runs as in these tests.
var gates = &account{"gates", 1234, 1234}

// Files of other users are not given to the gate unasked. The command that is printed instead
// can be pasted, and makes the gate work with the token file.
func TestTheTokenFileMustBeTheGates(t *testing.T) {
	testenv.NeedRoot(t)
	for _, row := range []struct {
		name, make string // in a directory of root's, with mode 0755
		want       string // empty: the gate can work with that
	}{
		{"none yet", "", ""},
		{"the gate's", "mkdir -m 700 gate; touch gate/tokens.json gate/tokens.json.lock; chown -R 1234:1234 gate", ""},
		{"the gate's, made by root", "mkdir -m 700 gate; chown 1234:1234 gate; touch gate/tokens.json; chmod 600 gate/tokens.json; chown 1234:0 gate/tokens.json", ""},
		{"root's", "mkdir -m 700 gate; touch gate/tokens.json gate/tokens.json.lock", "chown -h gates: DIR/gate DIR/gate/tokens.json DIR/gate/tokens.json.lock"},
		{"root's directory", "mkdir gate", "chown -h gates: DIR/gate"},
		{"for a group", "mkdir gate; touch gate/tokens.json; chown -R 1234:555 gate; chmod 640 gate/tokens.json", "chown -h gates: DIR/gate/tokens.json"},
		{"by a link", "mkdir real; ln -s real gate; touch gate/tokens.json", "chown -h gates: DIR/real DIR/gate/tokens.json"},
		{"another user's directory", "mkdir gate; chown 4321 gate", "DIR/gate belongs to another user: name one in a directory of its own with --token-file"},
		{"another user's file in the gate's directory", "mkdir gate; chown 1234:1234 gate; touch gate/tokens.json; chown 4321 gate/tokens.json", "DIR/gate/tokens.json belongs to another user: name one in a directory of its own with --token-file"},
		{"beside something else", "mkdir gate; touch gate/tokens.json gate/id_rsa", "since id_rsa is in it too: name one in a directory of its own with --token-file"},
		{"in a directory that is closed", "chmod 700 .; mkdir gate; chown 1234:1234 gate", "chgrp -h gates DIR && chmod g+x DIR"},
		{"in a directory that is closed, and has more in it", "chmod 700 .; mkdir gate; touch id_rsa", "DIR is closed to it: name one in a directory of its own with --token-file"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := openDir(t)
			sh(t, dir, row.make)
			err := gates.checkTokenFile(filepath.Join(dir, "gate/tokens.json"))
			want := strings.ReplaceAll(row.want, "DIR", dir)
			if got := fmt.Sprint(err); row.want == "" && err != nil || !strings.HasSuffix(got, want) && row.want != "" {
				t.Errorf("%s, want %s", got, want)
			}
			if command := strings.NewReplacer("gates:", "1234:1234", "gates", "1234").Replace(want); strings.HasPrefix(command, "ch") {
				sh(t, dir, command)
				if err := gates.checkTokenFile(filepath.Join(dir, "gate/tokens.json")); err != nil {
					t.Errorf("after %s: %v", command, err)
				}
			}
		})
	}
}

func TestTheGatesDirectoriesAreMadeForItsUser(t *testing.T) {
	testenv.NeedRoot(t)
	for _, row := range []struct{ name, make, want string }{
		{"with the directory above", "", "755 0 a, 700 1234 a/b"},
		{"in a directory of the gate's", "mkdir a; chown 1234 a", "755 1234 a, 700 1234 a/b"},
		{"there already", "mkdir -p a/b; chown 1234 a/b; chmod 750 a/b", "755 0 a, 750 1234 a/b"},
		{"root's", "mkdir -p a/b", "a/b does not belong to the gate, which runs as user gates: chown -R -h --from=root gates DIR/a/b"},
		{"another user's", "mkdir -p a/b; chown 4321 a/b", "DIR/a/b belongs to another user"},
		{"by a link in a directory of another user's", "mkdir theirs a; chown 4321 theirs; mkdir b; ln -s ../theirs/b a/b; ln -s ../b theirs/b; chown 1234 b", "DIR/theirs belongs to another user"},
		{"in a directory that is closed", "mkdir -p -m 700 a a/b; chown 1234 a/b", "chgrp -h gates DIR/a && chmod g+x DIR/a"},
		{"in a directory of another user's", "mkdir a; chown 4321 a", "DIR/a belongs to another user"},
		{"in a directory of root's in one of another user's", "chown 4321 .", "DIR belongs to another user"},
		{"a file", "mkdir a; touch a/b", "a/b is not a directory"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := openDir(t)
			sh(t, dir, row.make)
			f := directory{filepath.Join(dir, "a/b"), gates}

			is, err := f.isThere()
			if err == nil && !is {
				err = f.make(context.Background())
			}

			want := strings.ReplaceAll(row.want, "DIR", dir)
			if err != nil {
				if !strings.HasSuffix(err.Error(), want) {
					t.Errorf("%v, want %s", err, want)
				}
				return
			}

			var got []string
			for _, path := range []string{"a", "a/b"} {
				info, err := os.Stat(filepath.Join(dir, path))
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, fmt.Sprintf("%o %d %s", info.Mode().Perm(), info.Sys().(*syscall.Stat_t).Uid, path))
			}

			if strings.Join(got, ", ") != want {
				t.Errorf("%q, want %s", got, want)
			}
		})
	}
}

// If add has made repositories before there was a gate's user, install names the command that
// gives them to that user.
func TestRepositoriesMadeBeforeInstallCanBeTheGates(t *testing.T) {
	testenv.NeedRoot(t)
	defer syscall.Umask(syscall.Umask(0o077))
	dir := openDir(t)
	repos := filepath.Join(dir, "gate/repos")
	if err := (Place{Repos: "/elsewhere"}).MakeRepos(t.Context(), repos); err != nil {
		t.Fatal(err)
	}
	sh(t, dir, "touch gate/repos/demo.git")
	f := directory{repos, gates}
	_, err := f.isThere()
	want := "chown -R -h --from=root gates " + repos
	if got := fmt.Sprint(err); !strings.HasSuffix(got, want) {
		t.Fatalf("%s, want %s", got, want)
	}
	sh(t, dir, strings.Replace(want, "gates", "1234", 1))
	if is, err := f.isThere(); !is || err != nil {
		t.Errorf("after %s: %v", want, err)
	}
}

// The unit of root's gate logs to a file of its own, since the hooks' log is root's.
func TestRootsGateLogsToAFileOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	r := Registration{
		Binary: filepath.Join(dir, binary), Gate: true, Repos: "/var/lib/terok-gate/repos",
		Settings: hook.Settings{
			Tokens: store.File{Path: "/var/lib/terok/gate/tokens.json"}, LogFile: "/var/log/hook.log", GateSocket: "/run/terok-gate/control",
		},
	}
	for _, program := range []string{r.Binary, r.GateBinary()} {
		if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}

	for _, row := range []struct {
		place Place
		want  []string
	}{
		{Place{Units: "/units"}, []string{
			`" "--token-file" "/var/lib/terok/gate/tokens.json" "--log-file" "/var/log/terok-gate/gate/trail.log" "serve" "--repos" "/var/lib/terok-gate/repos" "--control" "/run/terok-gate/control"` + "\n",
			"\nLogsDirectory=terok-gate/gate\n", "\nReadWritePaths=\"/var/lib\"\n", "\nProtectHome=yes\n",
		}},
		{Place{Units: "/units", User: true}, []string{
			`" "--log-file" "/var/log/hook.log" "serve" "--repos" "/var/lib/terok-gate/repos" "--control" "/run/terok-gate/control"` + "\n",
			`" "--token-file" "/var/lib/terok/gate/tokens.json" "--log-file" "/var/log/hook.log" "attach" "--gate-socket" "/run/terok-gate/control"` + "\n",
		}},
	} {
		unit, err := r.unit(GateUnitName, row.place)
		if err != nil {
			t.Fatal(err)
		}

		for _, part := range row.want {
			if !strings.Contains(string(unit), part) {
				t.Errorf("the unit has no %q:\n%s", part, unit)
			}
		}
		verifyUnit(t, row.place, GateUnitName, string(unit))
	}
}

// The timer runs the command as it was typed, and uninstall removes the timer.
func TestTheTimersUnitsRunTheCommand(t *testing.T) {
	program := filepath.Join(t.TempDir(), "terok gate")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}

	for _, user := range []bool{false, true} {
		place := Place{Units: t.TempDir(), User: user}
		plan, err := place.SyncPlan([]string{program, "sync", "100%", "$HOME"}, 90*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if err := plan.CarryOut(t.Context(), func(string, string) {}); err != nil {
			t.Fatal(err)
		}

		for name, want := range map[string]string{
			SyncUnitName:  "\nExecStart=\"" + program + "\" \"sync\" \"100%%\" \"$$HOME\"\n",
			SyncTimerName: "\nOnUnitInactiveSec=90000ms\n",
		} {
			unit, err := os.ReadFile(place.unit(name))
			if err != nil || !strings.Contains(string(unit), want) {
				t.Errorf("%s has no %q: %s, %v", name, want, unit, err)
			}
			if name == SyncUnitName {
				verifyUnit(t, place, name, string(unit))
			}
		}

		removal, err := place.Removal()
		if want := []string{place.unit(SyncTimerName), place.unit(SyncUnitName)}; err != nil || !slices.Equal(removal.Remove, want) {
			t.Errorf("uninstall removes %q, want %q, %v", removal.Remove, want, err)
		}

		again, err := place.SyncPlan(nil, 0)
		if err != nil || !slices.Equal(again.Remove, removal.Remove) {
			t.Errorf("--every 0 removes %q, %v", again.Remove, err)
		}

		if err := os.WriteFile(place.unit(SyncTimerName), []byte("[Timer]\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := place.SyncPlan([]string{program}, time.Minute); err == nil {
			t.Error("another's timer would be replaced")
		}
	}
}

// In a list of paths, systemd takes "\u00a0" for u00a0: it reads no such escape there.
func TestWordsAreQuotedAsSystemdReadsThemEverywhere(t *testing.T) {
	for word, want := range map[string]string{
		"":                         `""`,
		"a b":                      `"a b"`,
		`a"b\t'c`:                  `"a\"b\\t'c"`,
		"100%i":                    `"100%%i"`,
		"\u00e9\u00a0\u3000\u200b": "\"\u00e9\u00a0\u3000\u200b\"",
		"a\nb\x7f\xff":             `"a\x0ab\x7f\xff"`,
	} {
		if got := unitQuote(word); got != want {
			t.Errorf("%q becomes %s, want %s", word, got, want)
		}
	}

	r := Registration{Gate: true, Settings: hook.Settings{Tokens: store.File{Path: "/var/lib/t.json"}, GateSocket: "/run/g/control"}}
	for _, repos := range []string{"/srv/a\tb/repos", "/srv/\xff/repos", "/\x7f/repos"} {
		r.Repos = repos
		if _, err := r.unit(ForwardUnitName, Place{Units: "/units"}); err == nil {
			t.Errorf("a list of paths in a unit has %q", repos)
		}
	}
}

// The forwarder reaches its services' addresses, and the repositories not at all.
func TestTheForwarderIsConfinedToItsServices(t *testing.T) {
	dir := t.TempDir()
	r := Registration{
		Binary: filepath.Join(dir, binary), Gate: true, Repos: "/srv/a b/repos",
		Settings: hook.Settings{
			Tokens: store.File{Path: "/var/lib/terok/gate/tokens.json"}, GateSocket: "/run/terok-gate/control",
			Services: []string{"llm=4000:127.0.0.1:80", "v6=[fd00::1]:81", "again=127.0.0.1:82", "db=5432:unix:/run/user/7/db"},
		},
	}
	for _, program := range []string{r.Binary, r.GateBinary()} {
		if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const flags = `"forward" "--service" "llm=4000:127.0.0.1:80" "--service" "v6=[fd00::1]:81" "--service" "again=127.0.0.1:82"` +
		` "--service" "db=5432:unix:/run/user/7/db" "--control" "/run/terok-gate-forward/control"` + "\n"
	for _, row := range []struct {
		place Place
		want  []string
	}{
		{Place{Units: "/units"}, []string{
			flags, "\nIPAddressDeny=any\nIPAddressAllow=127.0.0.1 fd00::1\n", "\nInaccessiblePaths=\"-/srv/a b/repos\"\n",
			"\nReadWritePaths=\"/var/lib\"\n", "\nProtectHome=no\n", "\nPrivateTmp=yes\n", `"attach" "--gate-socket" "/run/terok-gate/control"`,
		}},
		{Place{Units: "/units", User: true}, []string{flags}},
	} {
		unit, err := r.unit(ForwardUnitName, row.place)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range row.want {
			if !strings.Contains(string(unit), part) {
				t.Errorf("the unit has no %q:\n%s", part, unit)
			}
		}
		verifyUnit(t, row.place, ForwardUnitName, string(unit))
	}

	if units := strings.Join(r.units(), " "); units != GateUnitName+" "+ForwardUnitName {
		t.Errorf("with services, systemd runs %s", units)
	}
	r.Settings.Services = nil
	if units := strings.Join(r.units(), " "); units != GateUnitName {
		t.Errorf("without services, systemd runs %s", units)
	}
}

// openDir returns a directory of root's that every user may pass.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "terok-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func sh(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}
