package doctor

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"terok-gate-hook/engines"
	"terok-gate-hook/hook"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// The tests here are about files of other users, and about doctor's remedies for such files.

// shared runs a script in a new directory of root's, which every user may enter, and returns the directory.
func shared(t *testing.T, script string) string {
	t.Helper()
	testenv.NeedRoot(t)
	dir, err := os.MkdirTemp("/dev/shm", "terok-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	run(t, dir, script)
	return dir
}

func run(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%v: %s", script, err, out)
	}
}

// A link may lead to a directory of another user's, who can put another token file there. Doctor must see
// this behind a link, too.
func TestDoctorFollowsATokenFilesPathAsTheKernelDoes(t *testing.T) {
	for name, row := range map[string]struct {
		make  string
		state State
		text  string
	}{
		"no link":                           {"mkdir -p theirs/gate; chown 1234 theirs; mkdir link; ln -s ../theirs/gate link/none", OK, "not there yet"},
		"a link into another's directory":   {"mkdir -p theirs/gate; chown 1234 theirs; ln -s theirs/gate link", Broken, "directory DIR/theirs belongs to user 1234"},
		"a link to another's directory":     {"mkdir -p real/gate; chown 1234 real/gate; ln -s real/gate link", Warning, "directory DIR/real/gate belongs to user 1234"},
		"a link in another's directory":     {"mkdir theirs gate; chown 1234 theirs; ln -s ../gate theirs/link; ln -s theirs/link link", Broken, "directory DIR/theirs belongs to user 1234"},
		"a link of another's":               {"mkdir gate; ln -s gate link; chown -h 1234 link", Broken, "link DIR/link belongs to user 1234"},
		"a link into everybody's directory": {"mkdir -p all/gate; chmod 777 all; ln -s all/gate link", Broken, "every user can write to directory DIR/all"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shared(t, row.make)
			found := newPatient(t).examine(t, func(d *Doctor) { d.TokenFile = filepath.Join(dir, "link/tokens.json") })
			finds(t, found, "token-file", row.state, strings.ReplaceAll(row.text, "DIR", dir))
		})
	}
}

// Root may take over a directory without files of other users. A home directory keeps its owner.
func TestARemedyTakesNothingFromItsOwner(t *testing.T) {
	for name, row := range map[string]struct{ make, want string }{
		"an empty directory": {"mkdir -p theirs/gate; chown 1234 theirs", "chown -h root DIR/theirs"},
		"a home":             {"mkdir -p theirs/gate; touch theirs/.bashrc; chown 1234 theirs theirs/.bashrc", ""},
		"a directory with more than the gate's files": {"mkdir -p theirs/gate; touch theirs/gate/.bashrc; chown -R 1234 theirs/gate", ""},
		"a file": {"mkdir -p theirs/gate; echo '{}' >theirs/gate/tokens.json; chown 1234 theirs/gate/tokens.json", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shared(t, row.make)
			found := newPatient(t).examine(t, func(d *Doctor) { d.TokenFile = filepath.Join(dir, "theirs/gate/tokens.json") })
			wrong := slices.DeleteFunc(found, func(f Finding) bool { return f.Check != "token-file" || f.State == OK })
			if len(wrong) == 0 {
				t.Fatal("doctor finds nothing")
			}
			for _, f := range wrong {
				want := strings.ReplaceAll(row.want, "DIR", dir)
				if want == "" && strings.Contains(f.Remedy, "chown") || want != "" && f.Remedy != want {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}

// The gate's user gets files of root's that the gate needs, but no other user's file.
func TestARemedyGivesTheGateNothingOfAnotherUser(t *testing.T) {
	dir := shared(t, "mkdir gate; echo '{}' >gate/tokens.json; chmod 600 gate/tokens.json; chown 1234 gate/tokens.json")
	found := newPatient(t).examine(t, func(d *Doctor) { d.TokenFile, d.GateUser = filepath.Join(dir, "gate/tokens.json"), "nobody" })
	found = slices.DeleteFunc(found, func(f Finding) bool { return f.Check != "gate-user" })
	if len(found) == 0 {
		t.Fatal("doctor finds nothing")
	}
	for _, f := range found {
		if f.State == OK || strings.Contains(f.Remedy, "chown") {
			t.Errorf("%+v", f)
		}
	}
}

// A directory is opened to the gate's user alone, and only if that opens nothing else in it.
func TestTheGateIsLetInAlone(t *testing.T) {
	const daemon = 1
	for name, row := range map[string]struct {
		make string
		want string
	}{
		"as add leaves it":  {"mkdir -p above/repos; chown daemon above/repos; chmod 700 above above/repos", "chgrp -h daemon DIR/above && chmod g+x DIR/above"},
		"with another file": {"mkdir -p above/repos; touch above/id; chown daemon above/repos; chmod 700 above above/repos", "see who may reach it: namei -l DIR/above/repos"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shared(t, row.make)
			var found []Finding
			e := examination{Doctor: Doctor{Place: engines.Place{Repos: filepath.Join(dir, "above/repos")}}, ctx: context.Background(), report: func(f Finding) { found = append(found, f) }}

			if e.reposAreTheGates(e.Place.Repos, daemon) || len(found) != 1 {
				t.Fatalf("found %+v", found)
			}

			want := strings.ReplaceAll(row.want, "DIR", dir)
			if found[0].Remedy != want || !strings.Contains(found[0].Text, "is closed to the gate, which runs as user daemon") {
				t.Errorf("%+v, want %s", found, want)
			}

			if strings.HasPrefix(want, "ch") {
				run(t, dir, want)
				if !e.reposAreTheGates(e.Place.Repos, daemon) {
					t.Errorf("after %s: %+v", want, found)
				}
			}
		})
	}
}

// A repository that was closed by chmod 000 must not be thrown away.
func TestAClosedRepositoryIsOpenedAgain(t *testing.T) {
	testenv.Need(t, "git", "runuser")
	const daemon = 1
	for _, part := range []string{".", "objects", "HEAD"} {
		dir := shared(t, "git init --quiet --bare web.git; chown -R daemon web.git; chmod 000 web.git/"+part)
		repo := filepath.Join(dir, "web.git")
		var found []Finding
		e := examination{ctx: context.Background(), report: func(f Finding) { found = append(found, f) }}
		if e.repository(repo, "web", daemon) || len(found) != 1 {
			t.Fatalf("%s: found %+v", part, found)
		}
		if want := "runuser -u daemon -- chmod -R u+rwX " + repo; found[0].Remedy != want {
			t.Errorf("%s: %+v, want %s", part, found, want)
		}
		run(t, dir, found[0].Remedy)
		if !e.repository(repo, "web", daemon) {
			t.Errorf("%s: after its remedy %+v", part, found)
		}
	}
}

// asUserVar is an environment variable that the test below sets for a copy of itself, which runs as a
// user. The value is the directory of root's files.
const asUserVar = "TEROK_TEST_ROOTS_HOOKS"

// If only root's hooks are installed, a user is told to install hooks and a gate of that user's own. The
// user is given neither root's gate socket nor the directory of root's tokens.
func TestAUserUnderRootsHooksIsGivenNothingOfRoots(t *testing.T) {
	if roots := os.Getenv(asUserVar); roots != "" {
		findAsUser(t, roots)
		return
	}
	dir := shared(t, `mkdir -m 700 run gate; mkdir hooks home; chown daemon home; echo '{}' >gate/tokens.json
		cat >hooks/99-terok-gate-prestart.json <<EOF
{"hook": {"path": "/usr/bin/terok-gate-hook", "args": ["terok-gate-hook", "prestart", "--gate-socket", "$PWD/run/control", "--allow-project", "d*"]}, "stages": ["prestart"]}
EOF`)
	run(t, dir, "cp /proc/"+"$PPID"+"/exe test")
	cmd := exec.Command(filepath.Join(dir, "test"), "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Dir = "/"
	cmd.Env = []string{asUserVar + "=" + dir, "HOME=" + filepath.Join(dir, "home"), "PATH=/usr/bin:/bin", testenv.PromptExit}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1, Gid: 1}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("as the user: %v\n%s", err, out)
	}
}

func findAsUser(t *testing.T, roots string) {
	var found []Finding
	socket := filepath.Join(roots, "run/control")
	e := examination{
		Doctor: Doctor{
			Place:     engines.Place{User: true, Hooks: filepath.Join(roots, "home/hooks"), Control: filepath.Join(roots, "home/control"), Units: "/none"},
			Binary:    "/usr/bin/terok-gate-hook",
			TokenFile: filepath.Join(roots, "gate/tokens.json"),
		},
		definitions: engines.DefinitionsIn([]string{filepath.Join(roots, "hooks")}),
		settings:    hook.Settings{GateSocket: socket}, tokens: store.File{Path: filepath.Join(roots, "gate/tokens.json")},
		ctx: context.Background(), stopped: map[string]bool{}, report: func(f Finding) { found = append(found, f) },
	}

	if len(e.definitions) != 1 {
		t.Fatalf("definitions %+v", e.definitions)
	}
	if why := e.notForUs(&e.definitions[0]); !strings.Contains(why, "asks the gate at "+socket+", which is another user's") {
		t.Errorf("of root's hooks doctor says %q", why)
	}
	if got, want := e.install(), "/usr/bin/terok-gate install --allow-project 'd*'"; got != want {
		t.Errorf("doctor says %s, want %s", got, want)
	}

	e.controlDirectory(filepath.Dir(socket))
	e.tokenFile()
	e.noGate(syscall.EACCES)

	if len(found) < 3 {
		t.Errorf("found %+v", found)
	}
	for _, f := range found {
		if strings.Contains(f.Remedy, "chown") || strings.Contains(f.Remedy, "as root") || strings.Contains(f.Remedy, "--gate-socket "+socket) {
			said, _ := json.Marshal(f)
			t.Errorf("%s", said)
		}
	}
}
