package gate_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
)

const (
	uploadRequest  = "Content-Type: application/x-git-upload-pack-request"
	receiveRequest = "Content-Type: application/x-git-receive-pack-request"
)

// The table of docs/terok-gate.8.md, WHAT IS SERVED: what is asked, by whom, and the code of the answer.
func TestEveryRouteAndMethodHasItsAnswer(t *testing.T) {
	h := open(t, gate.Settings{MaxPush: 1000})
	h.demo(t, "demo", 1)
	right := h.issue(t, "demo")
	other := h.issue(t, "other") // whose repository is not there
	const none, wrong = "", "terok-g-00000000000000000000000000000000"
	for _, row := range []struct {
		method, path, token string
		body                string
		header              string
		want                int
	}{
		{"GET", "/demo.git/info/refs?service=git-upload-pack", right, "", "", 200},
		{"GET", "/demo.git/info/refs?service=git-upload-pack", right, "", "Git-Protocol: version=1", 200},
		{"GET", "/demo.git/info/refs?service=git-upload-pack", right, "", "Git-Protocol: version=2", 200},
		{"GET", "/demo.git/info/refs?service=git-receive-pack", right, "", "", 200},
		{"GET", "/demo.git/info/refs?service=git-receive-pack", right, "", "Git-Protocol: version=2", 200},
		{"POST", "/demo.git/git-upload-pack", right, "0000", uploadRequest, 200},
		{"POST", "/demo.git/git-receive-pack", right, "0000", receiveRequest, 200},

		// Paths: the suffix .git may be left out. Any other path is not found, with and without a
		// token.
		{"GET", "/", right, "", "", 404},
		{"GET", "/demo.git", right, "", "", 404},
		{"GET", "/demo.git/", right, "", "", 404},
		{"GET", "/demo.git/HEAD", right, "", "", 404},
		{"GET", "/demo.git/info/refs", right, "", "", 404},
		{"GET", "/demo.git/info/refs?service=git-upload-archive", right, "", "", 404},
		{"GET", "/demo.git/info/refs?service=git-upload-pack&x=1", right, "", "", 404},
		{"GET", "/demo.git/info/refs?x=1&service=git-upload-pack", right, "", "", 404},
		{"GET", "/demo.git/info/refs/?service=git-upload-pack", right, "", "", 404},
		{"GET", "/demo/info/refs?service=git-upload-pack", right, "", "", 200},
		{"GET", "/other/info/refs?service=git-upload-pack", right, "", "", 403},
		{"GET", "//info/refs?service=git-upload-pack", right, "", "", 404},
		{"GET", "/.git/info/refs?service=git-upload-pack", right, "", "", 404},
		{"GET", "/-demo.git/info/refs?service=git-upload-pack", right, "", "", 404},
		{"GET", "//demo.git/info/refs?service=git-upload-pack", right, "", "", 404},
		{"GET", "/demo.git/objects/info/packs", right, "", "", 404},
		{"GET", "/demo.git/objects/00/00000000000000000000000000000000000000", right, "", "", 404},
		{"POST", "/demo.git/git-upload-archive", right, "", uploadRequest, 404},
		{"POST", "/demo.git/git-upload-pack?x", right, "0000", uploadRequest, 404},
		{"GET", "/metrics", right, "", "", 404},
		{"GET", "/demo.git/HEAD", none, "", "", 404},

		{"HEAD", "/demo.git/info/refs?service=git-upload-pack", right, "", "", 405},
		{"POST", "/demo.git/info/refs?service=git-upload-pack", right, "", "", 405},
		{"GET", "/demo.git/git-upload-pack", right, "", "", 405},
		{"PUT", "/demo.git/git-receive-pack", right, "", receiveRequest, 405},
		{"OPTIONS", "/demo.git/git-receive-pack", none, "", "", 405},
		{"PROPFIND", "/demo.git/git-receive-pack", none, "", "", 405},

		{"GET", "/demo.git/info/refs?service=git-upload-pack", right, "", "Host: localhost:1", 200},
		{"GET", "/demo.git/info/refs?service=git-upload-pack", right, "", "Host: [::1]:9418", 200},
		{"GET", "/demo.git/info/refs?service=git-upload-pack", right, "", "Host: 10.0.2.2", 200},
		{"GET", "/demo.git/info/refs?service=git-upload-pack", right, "", "Host: evil.example", 421},
		{"GET", "/demo.git/info/refs?service=git-upload-pack", right, "", "Host: 127.0.0.1.evil.example:9418", 421},

		{"GET", "/demo.git/info/refs?service=git-upload-pack", none, "", "", 401},
		{"GET", "/demo.git/info/refs?service=git-upload-pack", none, "", "Authorization: Bearer " + right, 401},
		{"GET", "/demo.git/info/refs?service=git-upload-pack", none, "", "Authorization: Basic " + right, 401},
		{"GET", "/demo.git/info/refs?service=git-upload-pack", none, "", "Authorization: Basic dG9rZW4=", 401}, // no colon
		{"GET", "/demo.git/info/refs?service=git-upload-pack", none, "", "Authorization: Basic Og==", 401},     // no user name
		{"POST", "/demo.git/git-receive-pack", none, "0000", receiveRequest, 401},

		// If the token is not for the project, the answer is the same whether or not the
		// repository is there.
		{"GET", "/demo.git/info/refs?service=git-upload-pack", wrong, "", "", 403},
		{"GET", "/nowhere.git/info/refs?service=git-upload-pack", wrong, "", "", 403},
		{"GET", "/demo.git/info/refs?service=git-upload-pack", other, "", "", 403},
		{"GET", "/nowhere.git/info/refs?service=git-upload-pack", other, "", "", 403},
		{"POST", "/demo.git/git-receive-pack", other, "0000", receiveRequest, 403},
		{"GET", "/other.git/info/refs?service=git-upload-pack", other, "", "", 404},

		{"POST", "/demo.git/git-upload-pack", right, "0000", "", 415},
		{"POST", "/demo.git/git-upload-pack", right, "0000", receiveRequest, 415},
		{"POST", "/demo.git/git-receive-pack", right, "0000", "Content-Type: application/x-www-form-urlencoded", 415},

		{"POST", "/demo.git/git-receive-pack", right, "0000" + strings.Repeat("x", 1000), receiveRequest, 413},
		{"POST", "/demo.git/git-receive-pack", right, "zzzz", receiveRequest, 400},
	} {
		var headers []string
		if row.header != "" {
			headers = append(headers, row.header)
		}
		answer, text := h.request(t, row.method, row.path, row.token, row.body, headers...)
		who := map[string]string{right: "its token", other: "a token of another project", wrong: "a wrong token", none: "no token"}[row.token]
		if answer.StatusCode != row.want {
			t.Errorf("%s %s with %s, %s: %s: %s", row.method, row.path, who, row.header, answer.Status, text)
		}
		kind := answer.Header.Get("Content-Type")
		if refused := answer.StatusCode != 200; refused != strings.HasPrefix(kind, "text/plain") {
			t.Errorf("%s %s: %s is %s", row.method, row.path, answer.Status, kind)
		}
		challenge := answer.Header.Get("WWW-Authenticate")
		if (challenge == `Basic realm="terok gate"`) != (answer.StatusCode == 401) {
			t.Errorf("%s %s: %s with the challenge %q", row.method, row.path, answer.Status, challenge)
		}
		if strings.Contains(text, h.dir) {
			t.Errorf("%s %s: a path of this machine in %q", row.method, row.path, text)
		}
	}
}

// If both refusals were the same, people who name a wrong project would think that their token was revoked.
func TestARefusalSaysWhetherTheTokenIsForAnotherProjectOrNotValid(t *testing.T) {
	h := open(t, gate.Settings{})
	h.demo(t, "demo", 1)
	for token, says := range map[string]string{
		h.issue(t, "other"):                        "the token is for another project",
		"terok-g-00000000000000000000000000000000": "not valid",
	} {
		for _, project := range []string{"demo", "nowhere"} {
			answer, text := h.request(t, "GET", "/"+project+".git/info/refs?service=git-upload-pack", token, "")
			if answer.StatusCode != 403 || !strings.Contains(text, says) {
				t.Errorf("%s: %s: %q does not say %q", project, answer.Status, text, says)
			}
		}
	}
}

func TestServicesThatARepositoryDisablesAreRefused(t *testing.T) {
	h := open(t, gate.Settings{})
	path := h.demo(t, "demo", 1)
	token := h.issue(t, "demo")
	status := func(service string) int {
		answer, _ := h.request(t, "GET", "/demo.git/info/refs?service="+service, token, "")
		return answer.StatusCode
	}

	for _, row := range []struct {
		key, value  string
		fetch, push int
	}{
		{"http.receivepack", "false", 200, 403},
		{"http.receivepack", "true", 200, 200},
		{"http.uploadpack", "no", 403, 200},
		{"http.uploadpack", "1", 200, 200},
	} {
		git(t, path, "config", row.key, row.value)
		if fetch, push := status("git-upload-pack"), status("git-receive-pack"); fetch != row.fetch || push != row.push {
			t.Errorf("%s=%s: a fetch is answered %d, a push %d", row.key, row.value, fetch, push)
		}
	}

	included := filepath.Join(h.dir, "included")
	must(t, os.WriteFile(included, []byte("[http]\n\treceivepack = false\n"), 0o644))
	git(t, path, "config", "--unset", "http.receivepack")
	git(t, path, "config", "include.path", included)
	if push := status("git-receive-pack"); push != 403 {
		t.Errorf("with http.receivepack=false in an included file, a push is answered %d", push)
	}
}

func TestASignedPushIsNotOffered(t *testing.T) {
	h := open(t, gate.Settings{})
	path := h.demo(t, "demo", 1)
	git(t, path, "config", "receive.certNonceSeed", "seed")
	token := h.issue(t, "demo")
	if _, text := h.request(t, "GET", "/demo.git/info/refs?service=git-receive-pack", token, ""); strings.Contains(text, "push-cert") || !strings.Contains(text, "report-status") || !strings.HasSuffix(text, "0000") {
		t.Errorf("the gate offers %q", text)
	}
	work := filepath.Join(h.dir, "work")
	git(t, h.dir, "clone", "--quiet", h.url(token, "demo"), work)
	git(t, work, "push", "--signed=if-asked", "origin", "HEAD:refs/heads/signed")
}

// git offers promisor remotes only from 2.49 on, but git config of every version prints the setting.
func TestPromisorRemotesAreNotOffered(t *testing.T) {
	h, runs := openOver(t, testenv.Tool(t, "git")+" config promisor.advertise >>$0.advertises")
	git(t, h.demo(t, "demo", 1), "config", "promisor.advertise", "true")
	h.request(t, "GET", "/demo.git/info/refs?service=git-upload-pack", h.issue(t, "demo"), "", "Git-Protocol: version=2")
	advertises, err := os.ReadFile(filepath.Join(filepath.Dir(runs), "git.advertises"))
	must(t, err)
	if string(advertises) != "false\n" {
		t.Errorf("for git, promisor.advertise is %q", advertises)
	}
}
