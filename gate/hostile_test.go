package gate_test

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

// countGit has the gate find a git that notes each start, and returns a function that counts them.
// Starts of git gc do not count, since the gate can run it at any time.
func countGit(t testing.TB, dir string) (starts func() int) {
	t.Helper()
	real := testenv.Tool(t, "git")
	note := filepath.Join(dir, "started")
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\ncase $* in *'gc --auto'*) ;; *) echo >>%s ;; esac\nexec %s \"$@\"\n", note, real)
	if err := os.WriteFile(filepath.Join(bin, "git"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return func() int {
		text, _ := os.ReadFile(note)
		return len(text)
	}
}

func TestHostileRequestsStartNothing(t *testing.T) {
	starts := countGit(t, memory(t))
	h := open(t, gate.Settings{})
	t.Setenv("PATH", strings.SplitN(os.Getenv("PATH"), ":", 2)[1]) // only the gate finds that git
	h.demo(t, "demo", 1)
	must(t, os.Mkdir(filepath.Join(h.repos, "x"), 0o755))
	git(t, h.dir, "clone", "--quiet", "--bare", filepath.Join(h.repos, "demo.git"), filepath.Join(h.repos, "x", "deep.git"))
	token := h.issue(t, "demo")

	get := func(target string, headers ...string) string { return head("GET "+target, token, headers...) }
	post := func(service, body string, headers ...string) string {
		headers = append(headers, "Content-Type: application/x-"+service+"-request", fmt.Sprintf("Content-Length: %d", len(body)))
		return head("POST /demo.git/"+service, token, headers...) + body
	}
	const refs = "/info/refs?service=git-upload-pack"
	long := strings.Repeat("a", 100_000)
	requests := map[string]string{
		"up and out":                       get("/../demo.git" + refs),
		"up from inside":                   get("/x/../demo.git" + refs),
		"up from the repository":           get("/demo.git/../demo.git" + refs),
		"to a file outside":                get("/demo.git/../../../../etc/passwd"),
		"up, encoded":                      get("/%2e%2e/demo.git" + refs),
		"up, with an encoded slash":        get("/..%2fdemo.git" + refs),
		"up, encoded twice":                get("/%252e%252e/demo.git" + refs),
		"up, in overlong UTF-8":            get("/%c0%ae%c0%ae/demo.git" + refs),
		"a letter encoded":                 get("/%64emo.git" + refs),
		"the slash encoded":                get("/demo.git%2finfo%2frefs?service=git-upload-pack"),
		"the question mark encoded":        get("/demo.git/info/refs%3fservice=git-upload-pack"),
		"the service encoded":              get("/demo.git/info/refs?service=git%2dupload-pack"),
		"two slashes first":                get("//demo.git" + refs),
		"two slashes inside":               get("/demo.git//info/refs?service=git-upload-pack"),
		"a slash at the end":               get("/demo.git/info/refs/?service=git-upload-pack"),
		"a dot":                            get("/./demo.git" + refs),
		"a backslash":                      get("/demo.git\\info\\refs?service=git-upload-pack"),
		"a NUL":                            get("/demo.git%00/info/refs?service=git-upload-pack"),
		"a NUL as it is":                   get("/demo.git\x00/info/refs?service=git-upload-pack"),
		"a line break":                     get("/demo.git%0d%0aX: y/info/refs?service=git-upload-pack"),
		"a fragment":                       get("/demo.git/info/refs#?service=git-upload-pack"),
		"a semicolon":                      get("/demo.git;x/info/refs?service=git-upload-pack"),
		"a repository deeper":              get("/x/deep.git" + refs),
		"a repository deeper, encoded":     get("/x%2fdeep.git" + refs),
		"its suffix twice":                 get("/demo.git.git" + refs),
		"the directory itself":             get("/.git" + refs),
		"the gate's own directory":         get("/.hooks.git" + refs),
		"an option for a name":             get("/--upload-pack=id.git" + refs),
		"an absolute URL":                  get("http://127.0.0.1/demo.git" + refs),
		"an absolute URL of another":       get("http://evil.example/demo.git" + refs),
		"a user in the URL":                get("http://" + token + "@127.0.0.1/demo.git" + refs),
		"a proxy's CONNECT":                head("CONNECT 127.0.0.1:22", token),
		"a star":                           head("OPTIONS *", token),
		"no path":                          head("GET ?service=git-upload-pack", token),
		"a long path":                      get("/" + long + ".git" + refs),
		"a long query":                     get("/demo.git" + refs + "&" + long),
		"a long header":                    get("/demo.git"+refs, "X-Long: "+long),
		"many headers":                     get("/demo.git"+refs, strings.Split(strings.Repeat("X: y,", 5000)+"X: y", ",")...),
		"a long method":                    head(strings.Repeat("G", 1000)+" /demo.git"+refs, token),
		"a header's name with a space":     get("/demo.git"+refs, "Git-Protocol : version=2"),
		"a NUL in a header":                get("/demo.git"+refs, "Git-Protocol: version=2\x00"),
		"two hosts":                        get("/demo.git"+refs, "Host: evil.example"),
		"two lengths":                      post("git-upload-pack", "0000", "Content-Length: 5"),
		"a length and chunks":              post("git-upload-pack", "0\r\n\r\n", "Transfer-Encoding: chunked"),
		"chunks spelled otherwise":         post("git-upload-pack", "0\r\n\r\n", "Transfer-Encoding: xchunked"),
		"chunks twice":                     post("git-upload-pack", "0\r\n\r\n", "Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
		"a length below nothing":           head("POST /demo.git/git-upload-pack", token, uploadRequest, "Content-Length: -1"),
		"a length with a sign":             head("POST /demo.git/git-upload-pack", token, uploadRequest, "Content-Length: +4") + "0000",
		"a chunk that is no chunk":         head("POST /demo.git/git-receive-pack", token, receiveRequest, "Transfer-Encoding: chunked") + "zz\r\n",
		"gzip that is none":                post("git-upload-pack", "not gzip", "Content-Encoding: gzip"),
		"another encoding":                 post("git-upload-pack", "0000", "Content-Encoding: deflate"),
		"two encodings":                    post("git-upload-pack", "0000", "Content-Encoding: gzip, gzip"),
		"flush packets alone":              post("git-receive-pack", "0000000000000000"),
		"another type":                     head("POST /demo.git/git-upload-pack", token, "Content-Type: text/plain", "Content-Length: 4") + "0000",
		"the method in a header":           head("PUT /demo.git/git-receive-pack", token, "X-HTTP-Method-Override: POST", "Content-Length: 0"),
		"HTTP/0.9":                         "GET /demo.git" + refs + "\r\n",
		"HTTP/2 unasked":                   "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"HTTP/1.1 without a host":          "GET /demo.git" + refs + " HTTP/1.1\r\n\r\n",
		"line feeds alone, no credentials": "GET /demo.git" + refs + " HTTP/1.1\nHost: 127.0.0.1\n\n",
		"a request in a request's body":    head("GET /demo.git"+refs, "wrong", "Content-Length: 10") + "GET / HTTP",
	}

	for name, request := range requests {
		conn := h.dial(t, "")
		_, _ = io.WriteString(conn, request) // it may be answered before its end
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: no answer: %v", name, err)
			continue
		}
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 10_000))
		conn.Close()

		if answer.StatusCode < 400 || answer.StatusCode > 501 || answer.StatusCode == 500 {
			t.Errorf("%s: %s: %q", name, answer.Status, text)
		}
		if strings.Contains(string(text), h.dir) || strings.Contains(string(text), "/usr") {
			t.Errorf("%s: a path of this machine in %q", name, text)
		}
		if n := starts(); n > 0 {
			t.Fatalf("%s: git was started", name)
		}
	}

	if len(requests) < 50 {
		t.Errorf("only %d requests", len(requests))
	}
	if answer, _ := h.request(t, "GET", "/demo.git"+refs, token, ""); answer.StatusCode != 200 || starts() != 1 {
		t.Errorf("an honest one: %s, git was started %d times", answer.Status, starts())
	}
}

// A header or token in git's environment or arguments can be read by users who may look at git's
// processes, and git may act on the header.
func TestNothingOfARequestIsInGitsEnvironmentOrArguments(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.bare(t, "demo")
	tip := borrow(t, demo)
	git(t, demo, "update-ref", "refs/heads/main", tip)
	token := h.issue(t, "demo")

	hostile := []string{
		"Git-Protocol: version=2:marker=1:version=1", "User-Agent: marker/1", "Referer: marker", "Cookie: marker", "X-Forwarded-For: marker",
		"GIT_DIR: /marker", "GIT_CONFIG_COUNT: 99", "HTTP_PROXY: marker", "Proxy: marker", "X-Marker: marker", "Accept-Language: marker",
		"Content-Encoding: identity", "GIT_SSH_COMMAND: marker", "Gateway-Interface: marker", "Remote-User: marker",
	}

	fetch := pkt("command=fetch") + "0001" + pkt("want "+tip) + pkt("done") + "0000"
	push := pkt(strings.Repeat("0", 40)+" "+tip+" refs/heads/new\x00report-status side-band-64k agent=marker") + "0000" + "PACK\x00\x00\x00\x02\x00\x00\x10\x00"

	h.dial(t, head("POST /demo.git/git-upload-pack", token, append(hostile, uploadRequest, fmt.Sprintf("Content-Length: %d", len(fetch)))...)+fetch)
	h.dial(t, head("POST /demo.git/git-receive-pack", token, append(hostile, receiveRequest, "Content-Length: 100000000")...)+push)

	secrets := []string{token, "marker", "Basic", base64.StdEncoding.EncodeToString([]byte(token + ":")), strings.TrimPrefix(token, "terok-g-")}
	allowed := []string{"PATH", "PWD", "GIT_PROTOCOL", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_GLOBAL", "GIT_ATTR_NOSYSTEM", "GIT_NO_LAZY_FETCH",
		"GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "GIT_CONFIG_COUNT"}
	// Git gives these to the programs that it starts.
	gits := []string{"GIT_CONFIG_PARAMETERS", "GIT_DIR", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH", "GIT_EXEC_PATH", "GIT_SHALLOW_FILE"}
	seen := map[string]bool{}
	testenv.Eventually(t, "git and the programs that it starts run", func() bool {
		for _, process := range glob("/proc/[0-9]*") {
			if cwd, err := os.Readlink(process + "/cwd"); err != nil || !strings.HasPrefix(cwd, h.repos) {
				continue
			}
			arguments, _ := readFile(process + "/cmdline")
			environment, _ := readFile(process + "/environ")
			if environment == "" || arguments == strings.Join(os.Args, "\x00")+"\x00" {
				continue // it is being started: the fork of this process has yet to execute git
			}

			for _, command := range []string{"upload-pack", "pack-objects", "receive-pack", "index-pack"} {
				seen[command] = seen[command] || strings.Contains(arguments, command+"\x00")
			}
			for _, secret := range secrets {
				if strings.Contains(arguments, secret) || strings.Contains(environment, secret) {
					t.Fatalf("%q is in %q or %q", secret, arguments, environment)
				}
			}

			for _, variable := range strings.Split(strings.TrimSuffix(environment, "\x00"), "\x00") {
				name, value, _ := strings.Cut(variable, "=")
				if strings.HasPrefix(name, "GIT_CONFIG_KEY_") || strings.HasPrefix(name, "GIT_CONFIG_VALUE_") {
					continue
				}
				if !slices.Contains(allowed, name) && !slices.Contains(gits, name) {
					t.Fatalf("%s is in the environment of %q", variable, arguments)
				}
				if name == "GIT_PROTOCOL" && value != "version=2" {
					t.Fatalf("%s", variable)
				}
			}
		}
		return len(seen) == 4 && seen["upload-pack"] && seen["pack-objects"] && seen["receive-pack"] && seen["index-pack"]
	})
}

func FuzzRequest(f *testing.F) {
	dir := f.TempDir()
	starts := countGit(f, dir)
	repos := filepath.Join(dir, "repos")
	demo := filepath.Join(repos, "demo.git")
	if err := os.MkdirAll(demo, 0o755); err != nil {
		f.Fatal(err)
	}
	if out, err := command(dir, "init", "--quiet", "--bare", demo).CombinedOutput(); err != nil {
		f.Fatalf("%v: %s", err, out)
	}

	tokens := store.File{Path: filepath.Join(dir, "tokens", "tokens.json")}
	token, err := store.NewToken()
	if err != nil {
		f.Fatal(err)
	}
	if _, err := tokens.Issue(store.Entry{Token: token, Grant: store.Grant{Project: "demo", Task: "1"}}); err != nil {
		f.Fatal(err)
	}

	g, err := gate.New(gate.Settings{Repos: repos, Tokens: tokens.Reader(func(error) {}), Trail: func(...trail.Event) error { return nil }})
	if err != nil {
		f.Fatal(err)
	}

	before := starts()
	for _, path := range []string{
		"/demo.git/info/refs?service=git-upload-pack", "/demo.git/git-receive-pack", "/../demo.git/git-upload-pack", "/%64emo.git/HEAD", "//demo.git",
	} {
		f.Add("GET", path, "Git-Protocol", "version=2", "127.0.0.1", true)
		f.Add("POST", path, "Content-Type", "application/x-git-upload-pack-request", "localhost:9418", false)
	}
	honest := map[string]bool{}
	for _, address := range []string{"/demo.git", "/demo"} {
		honest["GET "+address+"/info/refs?service=git-upload-pack"] = true
		honest["GET "+address+"/info/refs?service=git-receive-pack"] = true
		honest["POST "+address+"/git-upload-pack"] = true
		honest["POST "+address+"/git-receive-pack"] = true
	}

	f.Fuzz(func(t *testing.T, method, target, name, value, host string, authorized bool) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: " + host + "\r\n" + name + ": " + value + "\r\n\r\n")))
		if err != nil {
			return // Go's server answers it
		}
		if authorized {
			r.SetBasicAuth(string(token), "")
		}

		answer := httptest.NewRecorder()
		g.ServeHTTP(answer, r)
		if !honest[r.Method+" "+r.RequestURI] || !authorized {
			if answer.Code < 400 || answer.Code >= 500 {
				t.Errorf("%s %q: %d: %s", method, target, answer.Code, answer.Body)
			}
			if starts() != before {
				t.Errorf("%s %q starts git", method, target)
			}
		}

		before = starts()
		if strings.Contains(answer.Body.String(), dir) {
			t.Errorf("a path of this machine in %q", answer.Body)
		}
	})
}
