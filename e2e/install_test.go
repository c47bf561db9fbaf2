package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/internal/testenv"
)

// home is a machine, or a user's account on it, where podman finds its configuration at the
// default paths.
type home struct {
	*engine
	config     string // the directory that podman's configuration is in
	pid        int    // root: of a process in the mount namespace
	dir        string // a user: the home directory
	runtimeDir string // a user: XDG_RUNTIME_DIR
}

// newHome gives root a new /etc/containers, a new /etc/cdi and new directories of podman's, in a
// mount namespace. It gives another user a home directory.
func newHome(t *testing.T, e *engine) *home {
	t.Helper()
	testenv.Need(t, "unshare", "nsenter")
	h := &home{engine: e.withOwnTokens(t)}

	// The engine's own configuration, without its hooks.
	base, err := os.ReadFile(e.conf)
	if err != nil {
		t.Fatal(err)
	}

	var lines []string
	for line := range strings.Lines(string(base)) {
		if !strings.HasPrefix(line, "hooks_dir") {
			lines = append(lines, line)
		}
	}

	if e.rootless {
		h.dir = e.tempDir(t)
		h.config = filepath.Join(h.dir, ".config/containers")
		// Short, since podman's clean-up fails, unseen, if $XDG_RUNTIME_DIR/containers
		// is longer than 50 characters (podman 4.3.1).
		if h.runtimeDir, err = os.MkdirTemp(testenv.Dir, "r"); err != nil {
			t.Fatal(err)
		}

		os.Remove(h.runtimeDir)
		if err := h.mkdir(h.runtimeDir); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.must(t, "podman system migrate") }) // ends the pause process
	} else {
		h.config = "/etc/containers"
		holder := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-ec", `
			for dir in /etc/containers /etc/cdi /var/lib/containers /run/containers /var/log; do
				mkdir -p $dir
				mount -t tmpfs none $dir
			done
			echo ready
			exec sleep 600`)

		stdout, err := holder.StdoutPipe()
		if err == nil {
			err = holder.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { holder.Process.Kill(); holder.Wait() })
		if _, err := stdout.Read(make([]byte, 8)); err != nil {
			t.Fatalf("no mount namespace for root: %v", err)
		}
		h.pid = holder.Process.Pid
	}

	h.write(t, filepath.Join(h.config, "containers.conf"), strings.Join(lines, ""))
	h.write(t, filepath.Join(h.config, "policy.json"), `{"default": [{"type": "insecureAcceptAnything"}]}`)
	return h
}

// sh runs a shell script in the home and returns what it says on both outputs.
func (h *home) sh(script string) (string, error) {
	args := []string{"sh", "-ec", script}
	if h.pid != 0 {
		args = append([]string{"nsenter", "--mount", "--target", strconv.Itoa(h.pid), "--wd=/"}, args...)
	}

	cmd, cancel := h.command(args[0], args[1:]...)
	defer cancel()

	var env []string
	for _, v := range cmd.Env {
		if !strings.HasPrefix(v, "CONTAINERS_CONF=") {
			env = append(env, v)
		}
	}
	if h.dir != "" {
		env = append(env, "HOME="+h.dir, "XDG_RUNTIME_DIR="+h.runtimeDir)
	}
	cmd.Env = env

	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", script, err, out)
	}
	return string(out), err
}

func (h *home) must(t *testing.T, script string) string {
	t.Helper()
	out, err := h.sh(script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (h *home) write(t *testing.T, path, content string) {
	t.Helper()
	h.must(t, fmt.Sprintf("mkdir -p %q; cat > %q <<'END'\n%sEND", filepath.Dir(path), path, content+"\n"))
}

// settings returns every file of podman's configuration with its content.
func (h *home) settings(t *testing.T) string {
	t.Helper()
	return h.must(t, fmt.Sprintf("cd %q; find . -type f | sort | xargs tail -n +1", h.config))
}

// terokGate returns a command line for sh. It runs terok-gate with the home's token file and these
// arguments.
func (h *home) terokGate(t *testing.T, args string) string {
	t.Helper()
	path, err := gateBinary()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%q --token-file %q %s", path, h.tokenFile, args)
}

const installFlags = " install --no-watch --allow-project 'dem*' --allow-project 'we[a,b]' --gate-url http://127.0.0.1:9418"

func TestInstallRegistersTheHooksForGood(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		h := newHome(t, e)
		before := h.settings(t)

		dry := h.must(t, h.terokGate(t, installFlags+" --dry-run"))
		if !strings.Contains(dry, "99-terok-gate-prestart.json") || h.settings(t) != before {
			t.Errorf("a dry run changes something or does not name the definition of prestart: %q", dry)
		}

		// With any umask, every user's podman can read the directories in /etc.
		wrote := h.must(t, "umask 077; "+h.terokGate(t, installFlags))
		if modes := h.must(t, fmt.Sprintf("cd %q; stat --format %%a oci oci/podman-hooks.d containers.conf.d", h.config)); modes != "755\n755\n755\n" {
			t.Errorf("install makes directories of the modes %s", modes)
		}

		installed := h.settings(t)
		for _, stage := range []string{"precreate", "prestart", "poststop"} {
			if name := "/99-terok-gate-" + stage + ".json"; !strings.Contains(wrote, name) || !strings.Contains(installed, name) {
				t.Errorf("no definition for %s: %s", stage, wrote)
			}
		}

		path, err := gateBinary()
		if err != nil {
			t.Fatal(err)
		}

		for _, again := range []string{h.terokGate(t, installFlags), path + " install"} {
			h.must(t, again)
			if diff := cmp.Diff(installed, h.settings(t)); diff != "" {
				t.Errorf("%s, a second time, changes something (-first +second):\n%s", again, diff)
			}
		}

		// A container is started as any user would start it, without the flag --hooks-dir, and
		// then started again. At a second start, podman has forgotten that flag.
		const see = `. /run/terok/gate.env; echo "$TEROK_GATE_TOKEN $CODE_REPO $TEROK_GATE_ENV"`
		rootfs := e.rootfs(t)
		run := fmt.Sprintf("podman run --name it --annotation terok.project=demo --annotation terok.task=1 --rootfs %q sh -c '%s'", rootfs, see)
		t.Cleanup(func() { h.must(t, "podman rm --force --ignore --time 0 it") })

		first := h.must(t, run)
		second := h.must(t, "podman start --attach it")
		for _, out := range []string{first, second} {
			fields := strings.Fields(out)
			if len(fields) != 3 || !tokenForm.MatchString(fields[0]) ||
				fields[1] != "http://127.0.0.1:9418/demo.git" || fields[2] != "/run/terok/gate.env" {
				t.Errorf("the container sees %q", out)
			}
		}

		if first == second {
			t.Error("the second start has the first one's token")
		}
		testenv.Eventually(t, "both tokens are gone", func() bool { return len(h.tokens(t)) == 0 })
		if out, err := h.sh(strings.NewReplacer("=demo", "=secret", "--name it", "--rm").Replace(run)); err == nil {
			t.Errorf("a container of a project that no pattern admits starts: %s", out)
		}

		// Uninstall names the tokens that live on.
		h.must(t, h.terokGate(t, "create --project demo --task left"))
		out := h.must(t, h.terokGate(t, "uninstall"))
		if !strings.Contains(out, "left") {
			t.Errorf("uninstall names no living token: %s", out)
		}
		if diff := cmp.Diff(before, h.settings(t)); diff != "" {
			t.Errorf("uninstall leaves something (-before +after):\n%s", diff)
		}
	})
}

// A container does not start if --allow-project does not admit its project. The audit trail
// and the system log each say once which project, and why. Podman runs precreate first.
func TestInstalledHooksAdmitOnlyTheProjectsGivenToInstall(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		h := newHome(t, e)
		dir := e.tempDir(t)
		audit := filepath.Join(dir, "audit.log")
		h.must(t, h.terokGate(t, fmt.Sprintf("--log-file %q", audit)+installFlags))
		rootfs := e.rootfs(t)

		for _, refuses := range []string{"precreate", "prestart"} {
			if refuses == "prestart" {
				h.must(t, fmt.Sprintf("rm %q", h.definition("precreate")))
			}
			for _, row := range []struct {
				project string
				starts  bool
			}{
				{"demo", true}, {"wea", true}, {"ademo", false}, {"wec", false},
			} {
				cid := filepath.Join(dir, refuses+row.project)
				out, err := h.sh(fmt.Sprintf("podman run --cidfile %q --annotation terok.project=%s --annotation terok.task=1 --rootfs %q sh -c 'exit 7' || ended=$?; test \"$ended\" = 7",
					cid, row.project, rootfs))
				if starts := err == nil; starts != row.starts {
					t.Errorf("with %s, project %s starts: %v: %v, %s", refuses, row.project, starts, err, out)
				}

				id := readFile(t, cid)
				h.must(t, "podman rm --force --time 0 "+id) // --rm would remove the file too
				if row.starts {
					continue
				}

				logs := [][]string{linesWith(h.must(t, fmt.Sprintf("cat %q", audit)), id)}
				if systemLog.Listening() {
					logs = append(logs, systemLog.SoFar(t, with(id)))
				}
				for _, lines := range logs {
					if len(lines) != 1 {
						t.Errorf("%d lines about project %s, which %s refuses: %q", len(lines), row.project, refuses, lines)
						continue
					}
					for _, part := range []string{"refused", refuses, row.project, "--allow-project"} {
						if !strings.Contains(lines[0], part) {
							t.Errorf("the log does not say %q: %s", part, lines[0])
						}
					}
				}
			}
		}

		testenv.Eventually(t, "the tokens are gone", func() bool { return len(h.tokens(t)) == 0 })
	})
}

func linesWith(text, part string) (lines []string) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestInstallOverwritesNoForeignSettings(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		for _, row := range []struct{ name, path, content, add string }{
			{"a drop-in of the same name", "containers.conf.d/99-terok-gate.conf", "[engine]\n# mine\n", "\nhooks_dir = ["},
			{"a definition of the same name", "oci/podman-hooks.d/99-terok-gate-prestart.json",
				`{"version":"1.0.0","hook":{"path":"/bin/true"},"when":{"always":true},"stages":["prestart"]}`, `"--allow-project"`},
		} {
			t.Run(row.name, func(t *testing.T) {
				h := newHome(t, e)
				h.write(t, filepath.Join(h.config, row.path), row.content)
				before := h.settings(t)
				out, err := h.sh(h.terokGate(t, installFlags))
				if err == nil || !strings.Contains(out, row.path+" exists, and terok-gate did not write it") || !strings.Contains(out, row.add) {
					t.Errorf("install says %q", out)
				}
				h.must(t, h.terokGate(t, "uninstall"))
				if diff := cmp.Diff(before, h.settings(t)); diff != "" {
					t.Errorf("settings changed (-before +after):\n%s", diff)
				}
			})
		}
	})
}

// If other files list hook directories, these stay in force beside install's, whether podman
// reads the other files before or after install's file. Before 4.8, podman cannot add to a list, so
// only the last list counts. If that is another file's, install says what to do.
func TestInstallAndOthersListsOfHookDirectoriesAreBothInForce(t *testing.T) {
	const appends = ", {append=true}"
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		for _, row := range []struct{ name, path, append string }{
			{"a list in containers.conf", "containers.conf", ""},
			{"an earlier list", "containers.conf.d/50-theirs.conf", ""},
			{"an earlier list that appends", "containers.conf.d/50-theirs.conf", appends},
			{"an earlier list and no containers.conf", "containers.conf.d/50-theirs.conf", ""},
			{"a later list", "containers.conf.d/zz-theirs.conf", ""},
			{"a later list that appends", "containers.conf.d/zz-theirs.conf", appends},
			{"a later list and no containers.conf", "containers.conf.d/zz-theirs.conf", ""},
		} {
			t.Run(row.name, func(t *testing.T) {
				h := newHome(t, e)
				canAppend := podmanIs(t, 4, 8)
				if row.append != "" && !canAppend {
					return // this podman has no lists that append
				}

				theirs := filepath.Join(e.tempDir(t), "their hooks")
				if err := h.mkdir(theirs); err != nil {
					t.Fatal(err)
				}

				list := fmt.Sprintf("hooks_dir = [%q%s]", theirs, row.append)
				if row.path == "containers.conf" { // it ends in the section [engine]
					h.must(t, fmt.Sprintf("echo '%s' >>%q", list, filepath.Join(h.config, row.path)))
				} else {
					h.write(t, filepath.Join(h.config, row.path), "[engine]\n"+list)
				}
				if strings.HasSuffix(row.name, "no containers.conf") {
					h.must(t, fmt.Sprintf("cd %q; mv containers.conf containers.conf.d/00-machine.conf", h.config))
				}

				ours := filepath.Join(h.config, "oci/podman-hooks.d")
				out, err := h.sh(h.terokGate(t, installFlags))
				if strings.Contains(row.path, "/zz") && !canAppend {
					if err == nil || !strings.Contains(out, "podman still does not read "+ours) || !strings.Contains(out, "add the directory to it") {
						t.Errorf("install says %q", out)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}

				installed := h.settings(t)
				h.must(t, h.terokGate(t, "install"))
				if diff := cmp.Diff(installed, h.settings(t)); diff != "" {
					t.Errorf("a second install changes something (-first +second):\n%s", diff)
				}

				log, _ := h.sh(fmt.Sprintf("podman --log-level debug run --rm --rootfs %q /nothing", e.tempDir(t)))
				for _, dir := range []string{theirs, ours} {
					if n := strings.Count(log, "reading hooks from "+dir+"\""); n != 1 {
						t.Errorf("podman reads %s %d times, not once:\n%s", dir, n, log)
					}
				}
			})
		}
	})
}

// From podman 4.8 on, the clean-up after a container sees XDG_CONFIG_HOME, and so finds the
// hooks there. For an older podman, install writes nothing there.
func TestInstallFollowsXDGConfigHomeAsPodmanDoes(t *testing.T) {
	onRootless(t, func(t *testing.T, e *engine) {
		h := newHome(t, e)
		usual := h.settings(t)
		moved := filepath.Join(h.dir, "moved")
		h.must(t, fmt.Sprintf("mkdir %q; cp -r %q %[1]q", moved, h.config))
		there := fmt.Sprintf("export XDG_CONFIG_HOME=%q; ", moved)

		out, err := h.sh(there + h.terokGate(t, installFlags))
		if written := h.must(t, fmt.Sprintf("find %q -name '*terok*'", moved)); !podmanIs(t, 4, 8) {
			if err == nil || written != "" || !strings.Contains(out, "XDG_CONFIG_HOME") {
				t.Errorf("install says %q and writes %s", out, written)
			}
			return
		}
		if err != nil || h.settings(t) != usual {
			t.Fatalf("install says %q, %v, or writes to where it was not told", out, err)
		}

		h.must(t, there+fmt.Sprintf("podman run --detach --name it --annotation terok.project=demo --annotation terok.task=1 --rootfs %q sleep 1000", e.rootfs(t)))
		t.Cleanup(func() { h.must(t, there+"podman rm --force --time 0 it") })
		if tokens := h.tokens(t); len(tokens) != 1 {
			t.Fatalf("the container has %d tokens", len(tokens))
		}

		h.must(t, there+"pid=$(podman inspect --format '{{.State.Pid}}' it); test $pid -gt 1; podman unshare kill -9 $pid")
		testenv.Eventually(t, "the poststop hook has revoked the token", func() bool { return len(h.tokens(t)) == 0 })
	})
}

func TestInstallDemandsAllowProjectWhereImagesCanAnnotate(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		h := newHome(t, e)
		before := h.settings(t)
		out, err := h.sh(h.terokGate(t, "install --no-watch --no-gate"))
		if imagesAnnotate := !podmanIs(t, 4, 6); imagesAnnotate != (err != nil) {
			t.Errorf("install says %q, %v", out, err)
		} else if imagesAnnotate && (!strings.Contains(out, "--allow-project") || h.settings(t) != before) {
			t.Errorf("install says %q or changes something", out)
		}
	})
}
