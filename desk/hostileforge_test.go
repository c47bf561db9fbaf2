package desk

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"terok-gate-hook/internal/testenv"
)

// hostileForge serves the world's forge by http. If the function lie has answered a request, the forge
// does not.
func hostileForge(w *world, lie func(out http.ResponseWriter, r *http.Request) (answered bool)) Settings {
	w.Setenv("HOME", w.TempDir())
	w.Setenv("XDG_CONFIG_HOME", "")
	w.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	w.Setenv("GIT_TERMINAL_PROMPT", "0")
	w.git("--git-dir", w.forge, "config", "http.receivepack", "true")
	honest := &cgi.Handler{
		Path: testenv.Tool(w, "git"), Args: []string{"http-backend"}, Dir: "/", InheritEnv: []string{"PATH"},
		Env: []string{
			"GIT_PROJECT_ROOT=" + filepath.Dir(w.forge), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if !lie(out, r) {
			honest.ServeHTTP(out, r)
		}
	}))
	w.Cleanup(server.Close)
	w.Cleanup(server.CloseClientConnections)
	s := w.settings()
	s.Source = server.URL + "/" + filepath.Base(w.forge)
	return s
}

// packet is a line of git's protocol (gitprotocol-common(5)).
func packet(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }

// advertising lists refs that the forge does not have, in git's protocol 0. Each line has an object and a
// name.
func advertising(head string, lines ...string) func(http.ResponseWriter, *http.Request) bool {
	return func(out http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/info/refs") {
			return false
		}
		service := r.URL.Query().Get("service")
		out.Header().Set("Content-Type", "application/x-"+service+"-advertisement")
		fmt.Fprint(out, packet("# service="+service+"\n")+"0000")
		capabilities := "\x00ofs-delta side-band-64k report-status delete-refs symref=HEAD:" + head + " agent=\x1b[2J"
		for _, line := range lines {
			fmt.Fprint(out, packet(line+capabilities+"\n"))
			capabilities = ""
		}
		fmt.Fprint(out, "0000")
		return true
	}
}

// attempt syncs and reviews, and checks that both succeed or both fail. An error must be one line.
func (w *world) attempt(s Settings) error {
	w.Helper()
	d, err := Open(w.Context(), s)
	if err != nil {
		w.Fatal(err)
	}
	_, err = d.Sync(w.Context())
	if _, reviewErr := d.Review(w.Context()); (err == nil) != (reviewErr == nil) {
		w.Errorf("sync: %v, but review: %v", err, reviewErr)
	}
	if err != nil && strings.Contains(err.Error(), "\n") {
		w.Errorf("more than a line: %v", err)
	}
	return err
}

func TestNamesThatAForgeMakesUpLeadNowhere(t *testing.T) {
	for name, ref := range map[string]string{
		"an escape sequence":     "refs/heads/\x1b[2Jevil",
		"a line break":           "refs/heads/x\n0123456789012345678901234567890123456789\trefs/heads/main",
		"upwards":                "refs/heads/../../../../config",
		"a hook":                 "refs/heads/../../hooks/post-receive",
		"a file of git's":        "refs/heads/x.lock",
		"an option":              "--upload-pack=evil",
		"the desk's own":         "refs/terok/last/heads/main",
		"what is kept":           "refs/terok/kept/20260101T000000Z-1/refs/heads/main",
		"a replacement":          "refs/replace/0123456789012345678901234567890123456789",
		"4,000 bytes":            "refs/heads/" + strings.Repeat("x", 4000),
		"too long a path":        "refs/heads/" + strings.Repeat(strings.Repeat("d", 199)+"/", 22) + "x",
		"a branch below another": "refs/heads/main/x",
		"no ref":                 "HEAD/x",
	} {
		t.Run(name, func(t *testing.T) {
			w := history(t)
			w.sync()
			before := w.git("--git-dir", w.gate, "for-each-ref")
			s := hostileForge(w, advertising("refs/terok/last/heads/main", w.id("a")+" HEAD", w.id("a")+" refs/heads/main", w.id("a")+" "+ref))
			_ = w.attempt(s) // the sync may fail, or leave the ref out
			if after := w.git("--git-dir", w.gate, "for-each-ref"); after != before {
				t.Errorf("the gate has\n%s", after)
			}
			d := filepath.Join(w.desks, "demo.git")
			for line := range strings.Lines(w.git("--git-dir", d, "for-each-ref", "--format=%(refname)")) {
				if !strings.HasPrefix(line, originPrefix) && !strings.HasPrefix(line, lastPrefix+"heads/main") {
					t.Errorf("the desk has %q", line)
				}
			}
			if head := w.git("--git-dir", w.gate, "symbolic-ref", "HEAD"); head != "refs/heads/main" {
				t.Errorf("the gate's HEAD is %s", head)
			}
		})
	}
}

// Guards against: a forge that makes the operator's git fetch from another host, or push there, with the
// operator's credentials for that host.
func TestAForgeLeadsNowhereElse(t *testing.T) {
	secret := newWorld(t)
	secret.commit("secret")
	secret.set(secret.forge, "refs/heads/secret", "secret")
	var asked atomic.Bool
	elsewhere := hostileForge(secret, func(http.ResponseWriter, *http.Request) bool { asked.Store(true); return false })
	daemon, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { daemon.Close() })
	go testenv.Accept(daemon, func(net.Conn) { asked.Store(true) })
	ran := filepath.Join(t.TempDir(), "ran")
	const redirected = "the forge redirects this address, and redirects are not followed"
	// After ext::, the path that the redirect appends is a second argument of touch.
	for _, to := range []string{elsewhere.Source, "file://" + secret.forge, "ext::touch " + ran + " ", "git://" + daemon.Addr().String() + "/x"} {
		w := history(t)
		w.set(w.gate, "refs/heads/agent", "x")
		var service atomic.Value
		service.Store("git-upload-pack")
		s := hostileForge(w, func(out http.ResponseWriter, r *http.Request) bool {
			if r.URL.Query().Get("service") != service.Load() {
				return false
			}
			http.Redirect(out, r, to+strings.TrimPrefix(r.URL.RequestURI(), "/"+filepath.Base(w.forge)), http.StatusFound)
			return true
		})
		err := w.attempt(s)
		if err == nil || !strings.Contains(err.Error(), redirected) {
			t.Errorf("%s: %v", to, err)
		}

		service.Store("git-receive-pack")
		d, err := Open(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		o, err := d.Offer(t.Context(), "refs/heads/agent", "refs/heads/agent")
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Release(t.Context(), false, t.Output()); err == nil || !strings.Contains(err.Error(), redirected) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: the release's error is %v, and should say in one line that the forge redirects", to, err)
		}
		if _, err := os.Stat(ran); err == nil || asked.Load() || w.at(w.gate, "refs/heads/secret") != "" {
			t.Errorf("%s: git went there", to)
		}

		// The operator's settings can allow a forge to redirect.
		if to == elsewhere.Source {
			service.Store("git-upload-pack")
			trusts := fmt.Sprintf("[http %q]\n\tfollowRedirects = true\n", s.Source)
			write(t, filepath.Join(os.Getenv("HOME"), ".gitconfig"), trusts)
			if _, err := d.Sync(t.Context()); err != nil || !asked.Load() {
				t.Errorf("%s: %v, although the operator trusts it", to, err)
			}
			asked.Store(false)
		}
	}
}

func TestTheErrorIsOneLineIfAForgeAsksForAPassword(t *testing.T) {
	w := history(t)
	w.sync()
	s := hostileForge(w, func(out http.ResponseWriter, r *http.Request) bool {
		out.Header().Set("WWW-Authenticate", "Basic realm=\"\x1b[2Jforge\"")
		http.Error(out, "\x1b[2Jwho\nare you?", http.StatusUnauthorized)
		return true
	})
	if err := w.attempt(s); err == nil || !strings.Contains(err.Error(), "could not read Username") {
		t.Errorf("error: %v", err)
	}
}

// pack returns a pack of objects, which are pairs of a type and a content.
func pack(objects ...[2]string) []byte {
	types := map[string]byte{"commit": 1, "tree": 2, "blob": 3}
	var out bytes.Buffer
	out.WriteString("PACK")
	_ = binary.Write(&out, binary.BigEndian, [2]uint32{2, uint32(len(objects))})
	for _, o := range objects {
		size := len(o[1])
		b := types[o[0]]<<4 | byte(size&15)
		for size >>= 4; size > 0; size >>= 7 {
			out.WriteByte(b | 0x80)
			b = byte(size & 0x7f)
		}
		out.WriteByte(b)
		z := zlib.NewWriter(&out)
		_, _ = z.Write([]byte(o[1]))
		_ = z.Close()
	}
	sum := sha1.Sum(out.Bytes())
	out.Write(sum[:])
	return out.Bytes()
}

func objectID(kind, content string) string {
	return fmt.Sprintf("%x", sha1.Sum([]byte(fmt.Sprintf("%s %d\x00%s", kind, len(content), content))))
}

// sending answers a fetch with said, a message of the forge, and then with content, a pack.
func sending(out http.ResponseWriter, said string, content []byte) {
	out.Header().Set("Content-Type", "application/x-git-upload-pack-result")
	fmt.Fprint(out, packet("NAK\n")+packet("\x02"+said))
	for len(content) > 0 {
		n := min(len(content), 60000)
		fmt.Fprint(out, packet("\x01"+string(content[:n])))
		content = content[n:]
	}
	fmt.Fprint(out, "0000")
}

func TestWhatAForgeSendsIsWholeOrNotTaken(t *testing.T) {
	const tree = "100644 x\x00abcdefghijklmnopqrst"
	commit := "tree " + objectID("tree", tree) + "\nauthor A <a@x> 1 +0000\ncommitter A <a@x> 1 +0000\n\nevil\n"
	for name, objects := range map[string][][2]string{
		"nothing":          {},
		"no tree":          {{"commit", commit}},
		"no file":          {{"commit", commit}, {"tree", tree}},
		"another object":   {{"blob", "x"}},
		"a tree cut short": {{"commit", strings.Replace(commit, objectID("tree", tree), objectID("tree", tree[:9]), 1)}, {"tree", tree[:9]}},
	} {
		t.Run(name, func(t *testing.T) {
			w := history(t)
			w.sync()
			before := w.git("--git-dir", w.gate, "for-each-ref")
			id := objectID("commit", commit)
			if len(objects) > 1 {
				id = objectID("commit", objects[0][1])
			}
			lie := advertising("refs/heads/main", id+" HEAD", id+" refs/heads/main")
			s := hostileForge(w, func(out http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPost {
					sending(out, "\x1b[2J\u202esaid\n", pack(objects...))
					return true
				}
				return lie(out, r)
			})
			if w.attempt(s) == nil {
				t.Error("taken")
			}
			if after := w.git("--git-dir", w.gate, "for-each-ref"); after != before {
				t.Errorf("the gate has\n%s", after)
			}
		})
	}
}

// Guards against: a forge that fills the operator's disk, a fetch at a time.
func TestAPackThatIsCutShortLeavesNothing(t *testing.T) {
	w := history(t)
	w.sync()
	id := strings.Repeat("1", 40)
	lie := advertising("refs/heads/main", id+" HEAD", id+" refs/heads/main")
	s := hostileForge(w, func(out http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return lie(out, r)
		}
		content := pack([2]string{"blob", strings.Repeat("x", 100_000)})
		binary.BigEndian.PutUint32(content[8:], 1000) // more objects than the pack has
		sending(out, "", content)
		return true
	})
	left := filepath.Join(w.desks, "demo.git", "objects/pack/tmp_of_one_that_was_killed")
	write(t, left, "")
	if err := w.attempt(s); err == nil {
		t.Error("taken")
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(left), "tmp_*")); len(left) > 0 || err != nil {
		t.Errorf("left: %v", left)
	}
}

func TestAForgeThatDoesNotAnswerIsGivenUp(t *testing.T) {
	for name, says := range map[string]string{"nothing": "", "something for ever": "0"} {
		w := history(t)
		w.sync()
		s := hostileForge(w, func(out http.ResponseWriter, r *http.Request) bool {
			for r.Context().Err() == nil {
				_, _ = io.WriteString(out, says)
				_ = http.NewResponseController(out).Flush()
				if says == "" {
					<-r.Context().Done()
				}
			}
			return true
		})
		s.Patience = time.Millisecond
		if err := w.attempt(s); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("says %s: %v", name, err)
		}
	}
}

// A forge that lists its refs, and then hangs in the middle of a fetch or a push.
func TestAForgeThatHangsInATransferIsGivenUp(t *testing.T) {
	hangs := func(service string) func(http.ResponseWriter, *http.Request) bool {
		return func(_ http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/"+service) || service == "git-upload-pack" && !bodyFetches(r) {
				return false
			}
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return true
		}
	}

	for name, transfer := range map[string]func(t *testing.T, w *world, s Settings) error{
		"git-upload-pack": func(_ *testing.T, w *world, s Settings) error {
			s.Timeout = time.Second
			return w.attempt(s)
		},
		"git-receive-pack": func(t *testing.T, w *world, s Settings) error {
			w.commit("agent", "a")
			w.set(w.gate, heads+"agent", "agent")
			d, err := Open(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			offer, err := d.Offer(t.Context(), heads+"agent", heads+"agent")
			if err != nil {
				t.Fatal(err)
			}
			d.Timeout = time.Second
			return offer.Release(t.Context(), false, io.Discard)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := history(t)
			if err := transfer(t, w, hostileForge(w, hangs(name))); !errors.Is(err, ErrTooSlow) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// bodyFetches reports whether a request of git's protocol 2 asks for objects.
func bodyFetches(r *http.Request) bool {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	return bytes.Contains(body, []byte("command=fetch"))
}

// Guards against: an ssh that still waits for a hanging server after git was ended.
func TestAForgeThatIsGivenUpLeavesNoProcess(t *testing.T) {
	w := history(t)
	dir := t.TempDir()
	hangs := filepath.Join(dir, "ssh")
	write(t, hangs, "#!/bin/sh\nsleep 600 & echo $! $$ >"+dir+"/pid.new; mv "+dir+"/pid.new "+dir+"/pids; wait\n")
	if err := os.Chmod(hangs, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_SSH_COMMAND", hangs)
	t.Setenv("GIT_SSH_VARIANT", "ssh")
	s := w.settings()
	s.Source = "ssh://forge" + w.forge

	ctx, cancel := context.WithCancel(t.Context())
	var pids []byte
	go func() {
		defer cancel()
		testenv.Wait(func() bool {
			pids, _ = os.ReadFile(filepath.Join(dir, "pids"))
			return len(pids) > 0
		})
	}()
	d, err := Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Sync(ctx); err == nil || ctx.Err() == nil {
		t.Fatalf("synced: %v", err)
	}
	for _, text := range strings.Fields(string(pids)) {
		pid, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, "process "+text+" has ended", func() bool {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err != nil || strings.Contains(string(stat), ") Z ")
		})
	}
}
