package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// Tests of those checks of doctor that need podman or the probe container. (Package doctor
// tests the others.)

// finding is what doctor --json says of a check.
type finding struct{ Check, State, Text, Remedy string }

// doctor returns what doctor finds.
func (h *home) doctor(t *testing.T, flags string) []finding {
	t.Helper()
	out, err := h.sh(h.terokGate(t, "doctor --json "+flags+" 2>/dev/null"))
	var all []finding
	if jsonErr := json.Unmarshal([]byte(out), &all); jsonErr != nil {
		t.Fatalf("%v: %v", jsonErr, err)
	}
	broken := false
	for _, f := range all {
		broken = broken || f.State == "broken"
	}
	if broken != (err != nil) {
		t.Errorf("doctor ends with %v, and finds %+v", err, all)
	}
	return all
}

// finds fails the test unless one finding is of this check and state, and its text contains text.
func finds(t *testing.T, all []finding, check, state, text string) {
	t.Helper()
	for _, f := range all {
		if f.Check == check && f.State == state && strings.Contains(f.Text, text) {
			if f.Remedy == "" && (state == "broken" || state == "warning") {
				t.Errorf("%+v names no remedy", f)
			}
			return
		}
	}
	t.Errorf("no finding %s, %s, %q among\n%+v", check, state, text, all)
}

// paste runs the command that doctor names for a finding. What a remedy says after its
// command is not for the shell.
func (h *home) paste(t *testing.T, all []finding, check, text string) {
	t.Helper()
	for _, f := range all {
		if f.Check == check && strings.Contains(f.Text, text) {
			command, _, _ := strings.Cut(f.Remedy, ", ")
			h.must(t, command)
			return
		}
	}
	t.Errorf("no finding %s, %q among\n%+v", check, text, all)
}

// amiss returns the findings that are not ok. It leaves out those about the log: the
// machine may have none, and root's trail has what the hooks of other tests refused.
func amiss(all []finding) []finding {
	return slices.DeleteFunc(slices.Clone(all), func(f finding) bool {
		return f.State == "ok" || f.Check == "log"
	})
}

// edit changes the definition of a stage with jq.
func (h *home) edit(t *testing.T, stage, filter string) {
	t.Helper()
	path := h.definition(stage)
	h.must(t, fmt.Sprintf("jq '%s' %q >%q.new && mv %q.new %q", filter, path, path, path, path))
}

func (h *home) definition(stage string) string {
	return filepath.Join(h.config, "oci/podman-hooks.d/99-terok-gate-"+stage+".json")
}

const never = `.when = {"annotations": {"^nobody$": "^has this$"}}`

func TestDoctorFindsNothingWrongWithAFreshInstallation(t *testing.T) {
	onCrunAndRunc(t, func(t *testing.T, e *engine) {
		testenv.Need(t, "git", "jq")
		h := newHome(t, e)
		g := newGate(t, h.tokenFile, "demo", "other")
		h.must(t, h.terokGate(t, "install --no-watch --allow-project demo --allow-project 'oth*' --gate-url "+g.URL))
		before := h.settings(t)
		all := h.doctor(t, "--network host --gate-user "+currentUser(t, e))
		if wrong := amiss(all); len(wrong) > 0 {
			t.Errorf("%+v", wrong)
		}
		finds(t, all, "hooks", "ok", "registered")
		finds(t, all, "probe", "ok", "gets its token and loses it")
		finds(t, all, "gate", "ok", g.URL+"/demo.git")
		finds(t, all, "gate-user", "ok", "will belong to user")
		if len(h.tokens(t)) > 0 || h.settings(t) != before || h.must(t, "podman ps --all --quiet") != "" {
			t.Error("doctor left something")
		}
	})
}

func TestDoctorFindsAGateThatDoesNotServeTheHooksTokens(t *testing.T) {
	onRootless(t, func(t *testing.T, e *engine) {
		testenv.Need(t, "git")
		h := newHome(t, e)
		g := newGate(t, h.tokenFile, "demo", "other")
		h.must(t, h.terokGate(t, "install --no-watch --allow-project demo --allow-project 'oth*' --gate-url "+g.URL))
		// The address of the hooks' gate may end with a slash, and the project may be another one.
		finds(t, h.doctor(t, "--network host --project other --gate-url "+g.URL+"/"), "gate", "ok", "/other.git")
		finds(t, h.doctor(t, "--gate-user nobody"), "gate-user", "warning", "only root")
		// The probe needs a project that the hooks admit.
		finds(t, h.doctor(t, "--project secret"), "probe", "broken", "do not admit project secret")

		finds(t, h.doctor(t, "--network host --gate-url "+g.URL+"/nowhere"), "gate", "warning", "not found")
		finds(t, h.doctor(t, "--network host --project othello"), "gate", "broken", "not found")
		another := newGate(t, h.tokenFile, "demo")
		finds(t, h.doctor(t, "--network host --gate-url "+another.URL), "gate", "ok", another.URL+"/demo.git")
		deaf := newGate(t, h.tokenFile+".other", "demo")
		finds(t, h.doctor(t, "--network host --gate-url "+deaf.URL), "gate", "broken", "403")
		deaf.Close()
		finds(t, h.doctor(t, "--network host --gate-url "+deaf.URL), "gate", "broken", "Failed to connect")
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		finds(t, h.doctor(t, "--network host --gate-url http://"+silent.Addr().String()), "gate", "broken", "too slow")
		// The probe asks from within a container, not from the host.
		finds(t, h.doctor(t, "--network none"), "gate", "broken", "/demo.git")
	})
}

func TestDoctorExaminesTerokGateServe(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		testenv.Need(t, "git")
		h := newHome(t, e)
		dir := e.tempDir(t)
		s := &servedEngine{
			engine: h.engine, repos: filepath.Join(dir, "repos"), control: filepath.Join(dir, "gate", "control"), log: filepath.Join(dir, "log"),
		}
		h.must(t, fmt.Sprintf("mkdir -m 0700 %q", s.repos))

		hook, err := hookBinary()
		if err != nil {
			t.Fatal(err)
		}
		gate, err := gateBinary()
		if err != nil {
			t.Fatal(err)
		}

		together := e.tempDir(t)
		h.must(t, fmt.Sprintf("cp %q %q %q", hook, gate, together))
		h.must(t, fmt.Sprintf("%q --token-file %q install --no-watch --allow-project demo --gate-socket %q", together+"/terok-gate", h.tokenFile, s.control))

		all := h.doctor(t, "")
		finds(t, all, "terok-gate", "broken", "no gate listens: "+s.control+" does not exist")
		if wrong := amiss(all); slices.ContainsFunc(wrong, func(f finding) bool { return f.Check != "terok-gate" && f.Check != "repositories" }) {
			t.Errorf("besides the missing gate, doctor finds %+v", wrong)
		}

		s.startGate(t)
		t.Cleanup(s.endGate)
		all = h.doctor(t, "")
		finds(t, all, "terok-gate", "ok", "a gate answers at "+s.control)
		finds(t, all, "repositories", "warning", "there is no repository in "+s.repos)
		finds(t, all, "gate", "warning", "not found")
		for _, f := range all {
			if f.Check == "gate" {
				command, _, _ := strings.Cut(strings.TrimPrefix(f.Remedy, "the gate answers; make the repository: "), ", ")
				h.must(t, command)
			}
		}
		h.works(t, "")

		start := func() string {
			id := h.must(t, fmt.Sprintf("podman run --detach --network none --annotation terok.project=demo --annotation terok.task=1 --rootfs %q sleep 1000", e.rootfs(t)))
			return strings.TrimSpace(id)
		}

		id := start()
		t.Cleanup(func() { h.must(t, "podman rm --all --force --time 0") })
		finds(t, h.doctor(t, ""), "listeners", "ok", "living containers that the gate serves: 1")

		s.signalGate(syscall.SIGKILL)
		finds(t, h.doctor(t, ""), "terok-gate", "broken", s.control+" was left by a gate that was killed")

		s.startGate(t)
		all = h.doctor(t, "")
		finds(t, all, "listeners", "broken", "living containers without the gate: "+id[:12]+" (project demo, task 1)")
		h.paste(t, all, "listeners", "without the gate")
		finds(t, h.doctor(t, ""), "listeners", "ok", "living containers that the gate serves: 1")

		h.must(t, h.terokGate(t, "install --withhold-token --hashed"))
		h.works(t, "")
	})
}

// Doctor finds nothing wrong with what install sets up, and remedies that use the service
// manager work.
func TestDoctorKnowsTheGatesService(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	root, alice := newGateAccounts(t, m)
	for _, a := range []account{root, alice} {
		t.Run(a.user, func(t *testing.T) {
			defer m.logIn(t, a.user)()
			a.installGate(t, "", "")

			doctor := func() (wrong []string) {
				t.Helper()
				for line := range strings.Lines(a.must(t, "terok-gate doctor 2>/dev/null || true")) {
					if !strings.HasPrefix(line, "✓ ") {
						wrong = append(wrong, line)
					}
				}
				return wrong
			}

			well := func() {
				t.Helper()
				if wrong := doctor(); len(wrong) > 0 {
					t.Errorf("doctor says %s", wrong)
				}
			}

			well()
			repos := "/var/lib/terok-gate/repos"
			if a.user != "root" {
				repos = "/home/" + a.user + "/.local/share/terok-gate/repos"
			}
			for _, row := range []struct{ name, script, says string }{
				{"a gate that was stopped", a.systemctl + " stop " + gateUnit, "✗ terok-gate: no gate listens: "},
				{"a gate whose socket is gone", "rm $(dirname $(" + a.systemctl + " show --property ExecStart " + gateUnit + " | sed 's/.*--control //; s/ .*//'))/control", "✗ terok-gate: no gate listens: "},
				{"a gate that reads other tokens", `f=$(` + a.systemctl + ` show --property FragmentPath --value ` + gateUnit + `)
					sed -i 's/tokens.json/other.json/' "$f"; ` + a.systemctl + ` daemon-reload; ` + a.systemctl + ` restart ` + gateUnit, "✗ terok-gate: the gate reads "},
				{"a broken repository", "rm " + repos + "/demo.git/HEAD", "✗ repositories: repository " + repos + "/demo.git is broken: "},
				{"a repository of root's", "chown -R root " + repos + "/demo.git", "✗ repositories: repository " + repos + "/demo.git belongs to user root, and the gate runs as user terok-gate"},
			} {
				if a.user != "root" && strings.HasPrefix(row.script, "chown") {
					continue
				}

				a.must(t, row.script)
				wrong := doctor()
				if len(wrong) == 0 || !strings.HasPrefix(wrong[0], row.says) {
					t.Fatalf("%s: doctor says %s", row.name, wrong)
				}
				if len(wrong) > 1 && row.name != "a broken repository" { // there, the probe fails, too
					t.Errorf("%s: beside the cause, doctor says %s", row.name, wrong[1:])
				}

				_, remedy, _ := strings.Cut(strings.TrimSpace(wrong[0]), " → ")
				for _, words := range []string{"; if ", ", and "} {
					remedy, _, _ = strings.Cut(remedy, words)
				}

				a.must(t, remedy)
				well()
			}
		})
	}
}

// works checks that doctor finds nothing wrong, and reads a repository from a container.
func (h *home) works(t *testing.T, flags string) {
	t.Helper()
	all := h.doctor(t, flags)
	if wrong := amiss(all); len(wrong) > 0 {
		t.Errorf("%+v", wrong)
	}
	finds(t, all, "probe", "ok", "gets its token and loses it")
	finds(t, all, "gate", "ok", "http://127.0.0.1:9418/demo.git can be read from a container")
}

func TestDoctorFindsHooksThatPodmanDoesNotRead(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		testenv.Need(t, "jq")
		h := newHome(t, e)
		finds(t, h.doctor(t, ""), "hooks", "broken", "no hook is registered: podman reads ")

		// Podman knows the directory of the hooks only from its command line.
		h.must(t, h.terokGate(t, installFlags))
		h.must(t, fmt.Sprintf("rm %q", filepath.Join(h.config, "containers.conf.d/99-terok-gate.conf")))
		hooks := filepath.Dir(h.definition("prestart"))
		h.must(t, fmt.Sprintf("podman --hooks-dir %q create --name elsewhere --annotation terok.project=demo --annotation terok.task=1 --rootfs %q true", hooks, e.rootfs(t)))
		t.Cleanup(func() { h.must(t, "podman rm --force --ignore --time 0 elsewhere") })
		all := h.doctor(t, "")
		finds(t, all, "hooks", "broken", "is not in force")
		finds(t, all, "containers", "broken", "container elsewhere was made with --hooks-dir "+hooks)
	})
}

func TestDoctorFindsDefinitionsThatAreNotInOrder(t *testing.T) {
	onRootless(t, func(t *testing.T, e *engine) {
		testenv.Need(t, "jq")
		h := newHome(t, e)
		path, err := hookBinary()
		if err != nil {
			t.Fatal(err)
		}

		other := filepath.Join(e.tempDir(t), "terok-gate-hook")
		hooks, inOrder := filepath.Dir(h.definition("prestart")), e.tempDir(t)
		h.must(t, h.terokGate(t, installFlags))
		h.must(t, fmt.Sprintf("cp %q/* %q", hooks, inOrder))

		for _, row := range []struct {
			name         string
			make         func()
			check, state string
			text         string
			choice       bool // the reader has to choose the fix
		}{
			{"a binary that is gone", func() { h.edit(t, "prestart", `.hook.path = "/no/such/terok-gate-hook"`) },
				"definition", "broken", "runs /no/such/terok-gate-hook, which does not exist", false},
			{"a binary that is no program", func() { h.edit(t, "poststop", `.hook.path = "/etc/passwd"`) },
				"definition", "broken", "runs /etc/passwd, which is not a program", false},
			{"another binary", func() {
				h.must(t, fmt.Sprintf("cp %q %q; echo >>%q", path, other, other))
				h.edit(t, "prestart", fmt.Sprintf(".hook.path = %q", other))
			}, "definition", "warning", "runs " + other + ", which is another version than " + path, false},
			{"a binary that every user can change", func() {
				h.must(t, fmt.Sprintf("cp %q %q; chmod o+w %q", path, other, other))
				h.edit(t, "prestart", fmt.Sprintf(".hook.path = %q", other))
			}, "definition", "broken", "every user can change " + other, false},
			{"another token file", func() { h.edit(t, "poststop", `.hook.args[2] = "/other/tokens.json"`) },
				"definition", "broken", "keeps its tokens in /other/tokens.json, not in " + h.tokenFile, false},
			{"a setting that the hook refuses", func() { h.edit(t, "prestart", `.hook.args += ["--access", "admin"]`) },
				"definition", "broken", `with arguments that this program does not accept: access "admin": must be read, append or write`, false},
			{"no poststop", func() { h.must(t, "rm "+h.definition("poststop")) }, "hooks", "broken", "no definition for poststop", false},
			{"no precreate", func() { h.must(t, "rm "+h.definition("precreate")) }, "hooks", "warning", "no definition for precreate", false},
			{"prestart twice", func() {
				h.must(t, fmt.Sprintf("cd %q; cp 99-terok-gate-prestart.json 10-mine.json", filepath.Dir(h.definition("prestart"))))
			}, "hooks", "broken", "prestart runs twice", true},
			{"images that choose the project", func() { h.edit(t, "prestart", `.hook.args |= map(select(. != "--allow-project"))`) },
				"hooks", "broken", "the author of an image can choose the project", true},
		} {
			if row.name == "images that choose the project" && podmanIs(t, 4, 6) {
				continue // not with this podman
			}

			row.make()
			t.Log(row.name)
			all := h.doctor(t, "")
			finds(t, all, row.check, row.state, row.text)
			if !row.choice {
				h.paste(t, all, row.check, row.text)
				if set := h.must(t, h.terokGate(t, "install --show")); !strings.Contains(set, "--allow-project 'dem*' --allow-project 'we[a,b]' --gate-url http://127.0.0.1:9418") {
					t.Errorf("after doctor's remedy, the settings are %s", set)
				}
				for _, f := range h.doctor(t, "") {
					if f.Check == row.check && f.State != "ok" {
						t.Errorf("after its remedy doctor finds %+v", f)
					}
				}
			}

			h.must(t, fmt.Sprintf("rm -f %q; rm %q/*; cp %q/* %q", other, hooks, inOrder, hooks))
		}

		if e.asUser != nil { // it takes root to give a directory away
			h.must(t, fmt.Sprintf("cp %q %q", path, other))
			h.edit(t, "prestart", fmt.Sprintf(".hook.path = %q", other))
			if err := os.Chown(filepath.Dir(other), 1, 1); err != nil {
				t.Fatal(err)
			}
			finds(t, h.doctor(t, ""), "definition", "broken", "user daemon can change "+other)
			h.edit(t, "prestart", fmt.Sprintf(".hook.path = %q", path))
		}

		h.edit(t, "prestart", `.hook.args |= map(select(. != "--token-file" and (endswith("tokens.json") | not)))`)
		finds(t, h.doctor(t, ""), "definition", "broken", "names no token file")
	})
}

// A user's podman also reads the system's hooks, whose token file is root's. One finding
// says so, and its remedy admits no more projects than root did.
func TestDoctorNamesTheCauseOnceForAUserUnderRootsHooks(t *testing.T) {
	onRootless(t, func(t *testing.T, e *engine) {
		testenv.Need(t, "jq")
		h := newHome(t, e)
		roots := filepath.Join(e.tempDir(t), "hooks.d")

		h.must(t, h.terokGate(t, installFlags))
		for _, stage := range []string{"precreate", "prestart", "poststop"} {
			h.edit(t, stage, `.hook.args[2] = "/var/lib/terok/sandbox/gate/tokens.json"`)
		}

		h.must(t, fmt.Sprintf("cp -r %q %q", filepath.Dir(h.definition("prestart")), roots))
		h.must(t, h.terokGate(t, "uninstall"))
		h.write(t, filepath.Join(h.config, "containers.conf.d/10-roots.conf"), fmt.Sprintf("[engine]\nhooks_dir = [%q]\n", roots))

		// Users call doctor without naming a token file.
		path, err := gateBinary()
		if err != nil {
			t.Fatal(err)
		}
		h.must(t, fmt.Sprintf("ln -s %q terok-gate", path))
		const call = `PATH=$PWD:$PATH terok-gate doctor --json 2>/dev/null || true`
		var all []finding
		if err := json.Unmarshal([]byte(h.must(t, call)), &all); err != nil {
			t.Fatal(err)
		}

		wrong := amiss(all)
		if len(wrong) != 1 {
			t.Fatalf("doctor finds %+v", wrong)
		}
		finds(t, all, "hooks", "broken", "podman reads hooks that are not yours: "+roots+"/99-terok-gate-prestart.json keeps its tokens in /var/lib/terok/")
		if want := "terok-gate install --allow-project 'dem*' --allow-project 'we[a,b]' --gate-url http://127.0.0.1:9418"; wrong[0].Remedy != want {
			t.Errorf("what fixes it is %s, not %s", wrong[0].Remedy, want)
		}

		h.must(t, "PATH=$PWD:$PATH; "+wrong[0].Remedy)
		if err := json.Unmarshal([]byte(h.must(t, call)), &all); err != nil {
			t.Fatal(err)
		}
		finds(t, all, "hooks", "ok", "registered")
		finds(t, all, "probe", "ok", "gets its token and loses it")
	})
}

// Install's definitions are not in force if another hooks_dir comes later.
func TestDoctorNamesTheFileThatOverridesOurs(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		h := newHome(t, e)
		theirs := filepath.Join(h.config, "containers.conf.d/99-zz-theirs.conf")
		dir := e.tempDir(t)
		h.must(t, h.terokGate(t, installFlags))

		list := `hooks_dir = ["` + dir + `"`
		if strings.Contains(h.settings(t), "{append=true}") { // so ours stays, unless theirs says otherwise
			list += ", {append=false}"
		}
		h.write(t, theirs, "[engine]\n"+list+"]\n")

		all := h.doctor(t, "")
		finds(t, all, "hooks", "broken", "is not in force: podman reads "+dir+", since hooks_dir is also set in ")
		finds(t, all, "hooks", "broken", theirs) // the text may also name files that this machine's root has installed

		for _, f := range all {
			if _, added, ok := strings.Cut(f.Remedy, "there, add "); ok {
				ours, _, _ := strings.Cut(added, " to hooks_dir")
				h.write(t, theirs, "[engine]\n"+strings.Replace(list, "[", "["+ours+", ", 1)+"]\n")
			}
		}

		finds(t, h.doctor(t, ""), "hooks", "ok", "registered: podman reads "+filepath.Dir(h.definition("prestart"))+" and "+dir)
	})
}

// If podman cannot start any container, doctor does not blame the hooks.
func TestDoctorDoesNotBlameTheHooksForPodmansFaults(t *testing.T) {
	onRootless(t, func(t *testing.T, e *engine) {
		h := newHome(t, e)
		h.must(t, h.terokGate(t, installFlags))
		for _, row := range []struct{ flags, text, remedy string }{
			{"--image localhost/no-such-image", "localhost/no-such-image", "podman pull localhost/no-such-image"},
			{"--network no-such-network", "no-such-network", "podman network ls"},
		} {
			all := h.doctor(t, row.flags)
			finds(t, all, "probe", "broken", "not tried: podman does not start the probe's container, even without the hooks: ")
			finds(t, all, "probe", "broken", row.text)
			for _, f := range all {
				if f.Check == "probe" && !strings.Contains(f.Remedy, row.remedy) {
					t.Errorf("what fixes it is %s", f.Remedy)
				}
			}
		}
	})
}

func TestDoctorFindsHooksThatDoNotDoTheirWork(t *testing.T) {
	onRootless(t, func(t *testing.T, e *engine) {
		testenv.Need(t, "jq")
		h := newHome(t, e)
		for _, row := range []struct {
			name, stage string
			filter      string
			check, text string
		}{
			{"a prestart that does not run", "prestart", never, "probe", "starts without /run/terok/gate.env"},
			{"a prestart that fails", "prestart", `.hook.args[2] = "/proc/no/tokens.json"`, "probe", "does not start"},
			{"a precreate that does not run", "precreate", never, "probe", "the precreate hook does not run"},
			{"a poststop that does not run", "poststop", never, "probe", "its token is not"},
			{"a gate that precreate does not know", "precreate", `.hook.args |= map(select(. != "--gate-url" and (startswith("http") | not)))`, "gate", "do not tell containers"},
		} {
			h.must(t, h.terokGate(t, installFlags))
			h.edit(t, row.stage, row.filter)
			t.Log(row.name)
			finds(t, h.doctor(t, ""), row.check, "broken", row.text)
		}

		// A doctor that was killed has left a container.
		h.must(t, fmt.Sprintf("podman create --name terok-gate-doctor-old --rootfs %q true", e.rootfs(t)))
		finds(t, h.doctor(t, ""), "leftovers", "warning", "terok-gate-doctor-old")
		finds(t, h.doctor(t, "--repair"), "leftovers", "fixed", "terok-gate-doctor-old")
		if left := h.must(t, "podman ps --all --quiet"); left != "" {
			t.Errorf("still there: %s", left)
		}
	})
}

func TestDoctorFindsARootlessUserWithoutSubordinateIDs(t *testing.T) {
	onRootless(t, func(t *testing.T, e *engine) { // root has no need of them
		testenv.NeedRoot(t)
		h := newHome(t, e)
		h.must(t, "podman system migrate") // no user namespace is left to join

		path, err := gateBinary()
		if err != nil {
			t.Fatal(err)
		}

		for _, row := range []struct{ name, hide, text string }{
			{"no ids", "mount --bind /dev/null /etc/subuid; mount --bind /dev/null /etc/subgid", "no subordinate ids"},
			{"no user namespaces", "mount --bind /dev/null $(command -v newuidmap)", "podman gets no user namespace"},
		} {
			cmd, cancel := e.command("unshare", "--mount", "--propagation", "private", "sh", "-ec", row.hide+`; exec setpriv --reuid "$1" --regid "$1" --clear-groups "$0" doctor --json`,
				path, fmt.Sprint(testUID))
			defer cancel()
			cmd.SysProcAttr = nil // unshare and mount need root
			cmd.Env = append(cmd.Env, "HOME="+h.dir, "XDG_RUNTIME_DIR="+h.runtimeDir)

			out, err := cmd.Output()
			var all []finding
			if jsonErr := json.Unmarshal(out, &all); jsonErr != nil {
				t.Fatalf("%v: %v", jsonErr, err)
			}

			t.Log(row.name)
			finds(t, all, "user-namespaces", "broken", row.text)
			h.must(t, "podman system migrate")
		}
	})
}

func currentUser(t *testing.T, e *engine) string {
	t.Helper()
	if e.asUser != nil {
		return testUser
	}
	if os.Geteuid() == 0 {
		return "root"
	}
	out, err := exec.Command("id", "-un").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
