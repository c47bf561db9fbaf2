package doctor

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/engines"
	"terok-gate-hook/hook"
	"terok-gate-hook/internal/testenv"
)

// A remedy without a choice is a command: once it is pasted, all is well.
func TestARemedyCanBePasted(t *testing.T) {
	for _, row := range []struct {
		name  string
		make  func(t *testing.T, p *patient)
		check string
		root  bool
	}{
		{"a token file that others may read", func(t *testing.T, p *patient) { must(t, os.Chmod(p.tokens, 0o604)) }, "token-file", false},
		{"a directory in its place", func(t *testing.T, p *patient) {
			must(t, os.Remove(p.tokens))
			must(t, os.Mkdir(p.tokens, 0o700))
		}, "token-file", false},
		{"a directory that everybody may write to", func(t *testing.T, p *patient) { must(t, os.Chmod(p.directory, 0o707)) }, "token-file", false},
		{"a file in the directory's place", func(t *testing.T, p *patient) {
			must(t, os.RemoveAll(p.directory))
			must(t, os.WriteFile(p.directory, nil, 0o600))
		}, "token-file", false},
		{"a corrupt token file", func(t *testing.T, p *patient) { p.write(t, "{]") }, "token-file", false},
		{"a token file of another user", func(t *testing.T, p *patient) { must(t, os.Chown(p.tokens, 65534, -1)) }, "token-file", true},
		{"a directory of another user", func(t *testing.T, p *patient) { must(t, os.Chown(p.directory, 65534, -1)) }, "token-file", true},
		{"a directory above it that belongs to another user", func(t *testing.T, p *patient) { must(t, os.Chown(filepath.Dir(p.directory), 65534, -1)) }, "token-file", true},
		{"a token file that the gate cannot read", func(t *testing.T, p *patient) { open(t, p.directory) }, "gate-user", true},
		{"no token file for the gate yet", func(t *testing.T, p *patient) {
			open(t, p.directory)
			must(t, os.RemoveAll(p.directory))
		}, "gate-user", true},
		{"a directory in the lock's place", func(t *testing.T, p *patient) { must(t, os.Mkdir(p.tokens+".lock", 0o700)) }, "lock", false},
		{"a log that others may read", func(t *testing.T, p *patient) { must(t, os.WriteFile(p.log, nil, 0o644)) }, "log", false},
		{"a fifo in the log's place", func(t *testing.T, p *patient) { must(t, unix.Mkfifo(p.log, 0o600)) }, "log", false},
		{"a link in the log's place, to a file that everybody may read", func(t *testing.T, p *patient) {
			must(t, os.Symlink("/etc/passwd", p.log))
		}, "log", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			as := func(d *Doctor) {}
			if row.root {
				testenv.NeedRoot(t)
			}
			if row.check == "gate-user" {
				as = func(d *Doctor) { d.GateUser = "nobody" }
			}

			// A name that a shell would take apart.
			p := newPatient(t)
			odd := filepath.Join(filepath.Dir(p.directory), "it's $(a) directory")
			must(t, os.Rename(p.directory, odd))
			p = patient{odd, filepath.Join(odd, "tokens.json"), filepath.Join(odd, "log")}
			row.make(t, &p)

			pasted := 0
			for _, f := range p.examine(t, as) {
				if f.Check != row.check || f.State == OK {
					continue
				}
				pasted++
				command := choice.ReplaceAllString(f.Remedy, "")
				if out, err := exec.Command("sh", "-ec", command).CombinedOutput(); err != nil {
					t.Errorf("%s\n%s\n%v: %s", f.Text, f.Remedy, err, out)
				}
			}
			if pasted == 0 {
				t.Fatal("doctor finds nothing")
			}

			for _, f := range p.examine(t, as) {
				if f.Check == row.check && f.State != OK && !strings.Contains(f.Text, "not there yet") {
					t.Errorf("after its remedy doctor still finds %+v", f)
				}
			}
		})
	}
}

// If install did not write a definition, install does not know which projects the definition admits, and
// install's own definition takes precedence. A remedy for another setting must not lose the list of projects.
func TestFixingTheirDefinitionAdmitsNoMoreThanBefore(t *testing.T) {
	ours, theirs := t.TempDir(), t.TempDir()
	path := filepath.Join(theirs, "99-terok-gate-prestart.json")
	d := engines.Registered{Path: path, Settings: hook.Settings{AllowProjects: []string{"d*"}}}
	must(t, os.WriteFile(path, nil, 0o644))
	d.Stages = []string{"prestart"}

	var found []Finding
	e := examination{
		Doctor:      Doctor{Place: engines.Place{Hooks: ours, Units: filepath.Join(ours, "units")}, Binary: "/bin/none/terok-gate-hook", GateURL: "http://gate"},
		definitions: []engines.Registered{d}, report: func(f Finding) { found = append(found, f) },
	}

	e.probed = &probed{repository: "http://gate/demo.git", lines: []string{"no CODE_REPO"}}
	e.gate()
	e.definitions[0].Settings.EnvMode = "0777"
	e.arguments(e.definitions[0])

	if len(found) != 2 {
		t.Fatalf("found %+v", found)
	}
	for i, want := range []string{
		"/bin/none/terok-gate install --allow-project 'd*' --gate-url http://gate",
		"/bin/none/terok-gate install --allow-project PATTERN, where PATTERN names the projects that containers may ask for: 'demo-*', say",
	} {
		if found[i].Remedy != want {
			t.Errorf("%+v\nshould say %s", found[i], want)
		}
	}
}

// The directory's owner can replace the token file by anything, before or after doctor looks at it.
func TestARemedyDoesNotGiveAwayPlantedFiles(t *testing.T) {
	testenv.NeedRoot(t)
	const nobody = 65534

	ownerOf := func(path string) uint32 {
		info, err := os.Stat(path)
		must(t, err)
		return info.Sys().(*syscall.Stat_t).Uid
	}
	asNobody := func(d *Doctor) { d.GateUser = "nobody" }

	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, nil, 0o600))
	plant := func(t *testing.T, p patient) {
		must(t, os.Remove(p.tokens))
		must(t, os.Symlink(secret, p.tokens))
	}

	for name, before := range map[string]bool{"before doctor looks": true, "after doctor has looked": false} {
		t.Run(name, func(t *testing.T) {
			p := newPatient(t)
			open(t, p.directory)
			must(t, os.Chown(p.directory, nobody, -1))
			if before {
				plant(t, p)
			}

			findings := p.examine(t, asNobody)
			if !before {
				plant(t, p)
			}

			pasted := 0
			for _, f := range findings {
				if strings.HasPrefix(f.Remedy, "chown ") {
					pasted++
					if out, err := exec.Command("sh", "-ec", f.Remedy).CombinedOutput(); err != nil {
						t.Errorf("%s: %v: %s", f.Remedy, err, out)
					}
				}
			}

			if !before && pasted == 0 {
				t.Errorf("doctor gives nothing to the gate: %+v", findings)
			}
			if ownerOf(secret) != 0 {
				t.Errorf("the secret belongs to the user nobody now: %+v", findings)
			}
		})
	}

	for name, there := range map[string]bool{"a directory of other files": true, "a directory of other files, without the token file": false} {
		t.Run(name, func(t *testing.T) {
			p := newPatient(t)
			open(t, p.directory)
			must(t, os.WriteFile(filepath.Join(p.directory, ".bashrc"), nil, 0o600))
			if !there {
				must(t, os.Remove(p.tokens))
			}

			found := slices.DeleteFunc(p.examine(t, asNobody), func(f Finding) bool { return f.Check != "gate-user" })
			if len(found) == 0 {
				t.Fatal("doctor finds nothing")
			}
			for _, f := range found {
				if f.State == OK || strings.HasPrefix(f.Remedy, "chown ") || strings.HasPrefix(f.Remedy, "install ") {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}

// choice matches what a remedy says besides its command.
var choice = regexp.MustCompile(`^if the gate .*; if not: |(; |, or | \(doctor).*`)

// A remedy must not register hooks that admit more projects than the present ones.
func TestTheWayToInstallAdmitsNoMoreThanBefore(t *testing.T) {
	const choose = "--allow-project PATTERN, where PATTERN names the projects that containers may ask for: 'demo-*', say"
	ours, theirs := t.TempDir(), t.TempDir()

	define := func(dir string, args ...string) {
		t.Helper()
		content, err := json.Marshal(map[string]any{"hook": map[string]any{"path": "/it/terok-gate-hook", "args": args}, "stages": []string{"prestart"}})
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "99-terok-gate-prestart.json"), content, 0o644))
	}

	for _, row := range []struct {
		name           string
		make           func()
		imagesAnnotate bool // this podman takes annotations from images
		want           string
	}{
		{"nothing is there", func() {}, false, "/bin/none/terok-gate install"},
		{"nothing is there, and images annotate", func() {}, true, "/bin/none/terok-gate install " + choose},
		{"install remembers", func() { define(ours, "terok-gate-hook", "prestart", "--allow-project", "d*") }, true, "/bin/none/terok-gate install"},
		{"install remembers no projects, but this podman needs them", func() { define(ours, "terok-gate-hook", "prestart") }, true, "/bin/none/terok-gate install " + choose},
		{"root's hooks", func() {
			define(theirs, "terok-gate-hook", "--token-file", "/root/tokens.json", "--lock-timeout", "20s", "prestart", "--allow-project", "d*", "--allow-project", "it's")
		}, true, `/bin/none/terok-gate --lock-timeout 20s install --allow-project 'd*' --allow-project 'it'\''s'`},
		{"root's hooks, which anybody may write", func() {
			define(theirs, "terok-gate-hook", "prestart", "--allow-project", "*")
			must(t, os.Chmod(filepath.Join(theirs, "99-terok-gate-prestart.json"), 0o666))
		}, false, "/bin/none/terok-gate install " + choose},
		{"an argument that is unknown", func() { define(ours, "terok-gate-hook", "prestart", "--new", "--allow-project", "d*") }, false,
			"/bin/none/terok-gate uninstall && /bin/none/terok-gate --token-file /tokens.json install " + choose},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, dir := range []string{ours, theirs} {
				os.Remove(filepath.Join(dir, "99-terok-gate-prestart.json"))
			}
			row.make()

			e := examination{
				Doctor:      Doctor{Place: engines.Place{Hooks: ours, Units: filepath.Join(ours, "units")}, Binary: "/bin/none/terok-gate-hook", TokenFile: "/tokens.json"},
				definitions: engines.DefinitionsIn([]string{theirs, ours}), imagesAnnotate: row.imagesAnnotate,
			}
			if got := e.install(); got != row.want {
				t.Errorf("doctor says  %s\nand should say %s", got, row.want)
			}

			forgotten := e
			forgotten.definitions = nil
			if got := forgotten.installLike(e.definitions); got != row.want {
				t.Errorf("for a directory that podman forgets, doctor says  %s\nand should say %s", got, row.want)
			}

			admitted := regexp.MustCompile(`--allow-project \S+`)
			for _, flags := range [][]string{{"--gate-url", "http://gate"}, {"--log-file", "/log"}} {
				if got := e.install(flags...); !slices.Equal(admitted.FindAllString(got, -1), admitted.FindAllString(row.want, -1)) {
					t.Errorf("with %v doctor says  %s\nand should admit as in %s", flags, got, row.want)
				}
			}
		})
	}
}

func TestTheDoctorExaminesTheSameFilesAgain(t *testing.T) {
	e := examination{given: Doctor{TokenFile: "/t/tokens.json", LogFile: "/l/trail.log", Project: "demo", Image: "i"}, Doctor: Doctor{Binary: "/nothing/terok-gate-hook"}}
	want := "/nothing/terok-gate --token-file /t/tokens.json --log-file /l/trail.log doctor --image i --project other"
	if got := e.again("--project", "other"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
