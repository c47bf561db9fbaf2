package desk

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// sshForge serves the world's forge by ssh, on loopback, with new keys.
func sshForge(t *testing.T, w *world) (source, knownHosts string) {
	sshd := testenv.Tool(t, "sshd")
	testenv.Need(t, "ssh", "ssh-keygen")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, key := range []string{"host", "mine"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()

	config := fmt.Sprintf(`ListenAddress 127.0.0.1:%s
HostKey %[2]s/host
AuthorizedKeysFile %[2]s/mine.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
`, port, dir)
	write(t, filepath.Join(dir, "config"), config)
	serve := exec.Command(sshd, "-D", "-e", "-f", filepath.Join(dir, "config"))
	if os.Geteuid() == 0 {
		// Root's sshd needs a directory in /run, but the host's /run must stay as it is.
		testenv.NeedRoot(t)
		testenv.Need(t, "unshare")
		serve = exec.Command("unshare", "--mount", "sh", "-c", `mount -t tmpfs none /run && mkdir -m 0755 /run/sshd && exec "$@"`, "sh",
			sshd, "-D", "-e", "-f", filepath.Join(dir, "config"))
	}
	var said strings.Builder
	serve.Stderr = &said
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = serve.Process.Kill()
		_ = serve.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	testenv.Eventually(t, "sshd listens", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})

	knownHosts = filepath.Join(dir, "known")
	trust(t, knownHosts, port, filepath.Join(dir, "host.pub"))
	t.Setenv("GIT_SSH_COMMAND", fmt.Sprintf("ssh -F none -i %s/mine -o IdentitiesOnly=yes -o UserKnownHostsFile=%s -o StrictHostKeyChecking=yes", dir, knownHosts))
	return fmt.Sprintf("ssh://%s@127.0.0.1:%s%s", me.Username, port, w.forge), knownHosts
}

// trust makes ssh accept a key for the server on a port of loopback.
func trust(t *testing.T, knownHosts, port, key string) {
	t.Helper()
	text, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, knownHosts, "[127.0.0.1]:"+port+" "+string(text))
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// httpsForge serves the world's forge by https, with a password.
func httpsForge(t *testing.T, w *world) (source, certificate string) {
	w.git("--git-dir", w.forge, "config", "http.receivepack", "true")
	address, pem := testenv.HTTPSForge{Directory: filepath.Dir(w.forge), Admit: func(out http.ResponseWriter, r *http.Request) bool {
		name, password, _ := r.BasicAuth()
		if name == "me" && password == "pw" {
			return true
		}
		out.Header().Set("WWW-Authenticate", `Basic realm="forge"`)
		http.Error(out, "who are you?", http.StatusUnauthorized)
		return false
	}}.Start(t)

	certificate = filepath.Join(t.TempDir(), "certificate")
	write(t, certificate, string(pem))
	t.Setenv("GIT_TERMINAL_PROMPT", "0")
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	return address + "/" + filepath.Base(w.forge), certificate
}

// bothWays syncs one commit and releases another.
func (w *world) bothWays(source string) {
	w.Helper()
	s := w.settings()
	s.Source = source
	w.set(w.forge, "refs/heads/main", "b")
	d, err := Open(w.Context(), s)
	if err != nil {
		w.Fatal(err)
	}
	if _, err := d.Sync(w.Context()); err != nil {
		w.Fatal(err)
	}
	checkRefs(w, "refs/heads/main", "b", "b", "")

	w.set(w.gate, "refs/heads/agent", "y")
	o, err := d.Offer(w.Context(), "refs/heads/agent", "refs/heads/main")
	if err != nil {
		w.Fatal(err)
	}
	if err := o.Release(w.Context(), false, w.Output()); err != nil {
		w.Fatal(err)
	}
	if got := w.at(w.forge, "refs/heads/main"); got != "y" {
		w.Errorf("upstream's main is %s", got)
	}
}

// cannotBeReached checks that a sync fails with an error of one line, and changes nothing.
func (w *world) cannotBeReached(source, why string) {
	w.Helper()
	s := w.settings()
	s.Source = source
	refs := func() string {
		all := w.git("--git-dir", w.gate, "for-each-ref")
		if inDesk, err := w.try("--git-dir", filepath.Join(w.desks, "demo.git"), "for-each-ref"); err == nil {
			all += inDesk
		}
		return all
	}
	before := refs()
	d, err := Open(w.Context(), s)
	if err == nil {
		_, err = d.Sync(w.Context())
	}
	if err == nil || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "\n") {
		w.Errorf("the error is %v, and should say %q in one line", err, why)
	}
	if after := refs(); before != after {
		w.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestAForgeIsReachedBySSH(t *testing.T) {
	w := history(t)
	source, knownHosts := sshForge(t, w)
	w.bothWays(source)

	// A host key that has changed.
	before, err := os.ReadFile(knownHosts)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	port := strings.Split(string(before), "]:")[1]
	port, _, _ = strings.Cut(port, " ")
	trust(t, knownHosts, port, other+".pub")
	w.cannotBeReached(source, "REMOTE HOST IDENTIFICATION HAS CHANGED")
}

func TestAForgeIsReachedByHTTPS(t *testing.T) {
	w := history(t)
	source, certificate := httpsForge(t, w)
	w.cannotBeReached(source, "certificate")
	t.Setenv("GIT_SSL_CAINFO", certificate)
	w.cannotBeReached(source, "could not read Username")

	// The operator's own settings know the password.
	helper := "[credential]\n\thelper = \"!f() { echo username=me; echo password=pw; }; f\"\n"
	write(t, filepath.Join(os.Getenv("HOME"), ".gitconfig"), helper)
	w.bothWays(source)
}

func TestTheOperatorsSettingsDoNotChangeWhatIsDone(t *testing.T) {
	w := history(t)
	home := t.TempDir()
	ran := filepath.Join(home, "ran")
	write(t, filepath.Join(home, ".gitconfig"), fmt.Sprintf(`[push]
	followTags = true
	gpgSign = true
	recurseSubmodules = only
[fetch]
	prune = false
	recurseSubmodules = true
	fsckObjects = true
[safe]
	bareRepository = explicit
[protocol "file"]
	allow = never
[diff]
	external = false
	noprefix = true
	ignoreSubmodules = all
[log]
	showSignature = true
[core]
	hooksPath = %[1]s/hooks
[color]
	ui = always
`, home))
	if err := os.Mkdir(filepath.Join(home, "hooks"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, hook := range []string{"pre-push", "reference-transaction"} {
		if err := os.WriteFile(filepath.Join(home, "hooks", hook), []byte("#!/bin/sh\necho "+hook+" >>"+ran+"\nexit 1\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("GIT_DIR", w.work)
	t.Setenv("GIT_NAMESPACE", "x")
	defer os.Unsetenv("GIT_DIR")
	s := w.settings()
	s.Source, s.Local = w.forge, true // git that serves a directory gets none of the operator's settings
	w.setWithout(w.forge, "refs/heads/main", "b")
	w.setWithout(w.gate, "refs/heads/agent", "y")
	w.setWithout(w.gate, "refs/tags/v9", "y")

	d, err := Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	o, err := d.Offer(t.Context(), "refs/heads/agent", "refs/heads/agent")
	if err != nil {
		t.Fatal(err)
	}
	if shown := w.shown(o); !strings.Contains(shown, "+what y has") || !strings.Contains(shown, "b/y") {
		t.Errorf("shown:\n%s", shown)
	}
	if err := o.Release(t.Context(), false, t.Output()); err != nil {
		t.Fatal(err)
	}
	os.Unsetenv("GIT_DIR")
	os.Unsetenv("GIT_NAMESPACE")
	checkRefs(w, "refs/heads/main", "b", "b", "")
	if w.at(w.forge, "refs/heads/agent") != "y" || w.at(w.forge, "refs/tags/v9") != "" {
		t.Error("upstream has other refs than were released")
	}
	if what, err := os.ReadFile(ran); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ran: %s", what)
	}
}

// setWithout does what [world.set] does, without the variables that would lead git to another
// repository.
func (w *world) setWithout(repo, ref, name string) {
	w.Helper()
	for _, variable := range []string{"GIT_DIR", "GIT_NAMESPACE"} {
		value := os.Getenv(variable)
		os.Unsetenv(variable)
		defer os.Setenv(variable, value)
	}
	w.set(repo, ref, name)
}
