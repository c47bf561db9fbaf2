package gate_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
)

// put writes one entry into the token file, as other programs than ours write it.
func (h *harness) put(t *testing.T, key, value string) {
	t.Helper()
	entries := map[string]json.RawMessage{}
	old, err := readFile(h.tokens.Path)
	if err == nil {
		must(t, json.Unmarshal([]byte(old), &entries))
	}
	entries[key] = json.RawMessage(value)
	text, err := json.Marshal(entries)
	must(t, err)
	must(t, replaceFile(h.tokens.Path, text))
}

const limitedToken = "terok-g-11111111111111111111111111111111"

func TestRealGitSaysWhatALimitedTokenAllows(t *testing.T) {
	const read, write = `"access": "read"`, `"access": "write"`
	agents := write + `, "push": [["refs/heads/agent/**"]]`
	both := write + `, "push": [["refs/heads/**"], ["refs/heads/agent/*", "refs/tags/*"]]`
	for name, row := range map[string]struct {
		limited string
		push    []string
		moves   bool
		says    string
	}{
		"read only":                        {read, []string{"main"}, false, "403"},
		"any branch":                       {write, []string{"main"}, true, ""},
		"a branch that matches":            {agents, []string{"main:agent/1"}, true, ""},
		"a branch far below":               {agents, []string{"main:agent/1/2"}, true, ""},
		"a branch that does not match":     {agents, []string{"main"}, false, "the token may push to refs/heads/agent/**"},
		"one of two branches matches":      {agents, []string{"main:agent/1", "main"}, false, "another ref of the push is refused"},
		"by force":                         {agents, []string{"+main~2:main"}, false, "the token may push to refs/heads/agent/**"},
		"by deletion":                      {agents, []string{":main"}, false, "the token may push to refs/heads/agent/**"},
		"a tag":                            {agents, []string{"main:refs/tags/v1"}, false, "the token may push to refs/heads/agent/**"},
		"what both lists allow":            {both, []string{"main:agent/1"}, true, ""},
		"what the flag alone allows":       {both, []string{"main:agent/1/2"}, false, "the token may push to refs that match both refs/heads/** and (refs/heads/agent/* or refs/tags/*)"},
		"what the annotation alone allows": {both, []string{"main:refs/tags/v1"}, false, "the token may push to refs that match both refs/heads/** and (refs/heads/agent/* or refs/tags/*)"},
		"nothing":                          {write + `, "push": [[]]`, []string{"main"}, false, "the token may push to nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, gate.Settings{})
			demo := h.demo(t, "demo", 3)
			before := git(t, demo, "for-each-ref")
			h.put(t, limitedToken, `{"limited": {"project": "demo", `+row.limited+`}, "task": "1"}`)
			url := h.url(limitedToken, "demo")

			work := filepath.Join(h.dir, "work")
			git(t, h.dir, "clone", "--quiet", url, work) // no limit concerns a clone
			git(t, work, "commit", "--quiet", "--allow-empty", "-m", "one")

			args := append([]string{"push", "origin"}, row.push...)
			if row.moves {
				git(t, work, args...)
			} else if out := gitFails(t, work, args...); !strings.Contains(out, row.says) {
				t.Errorf("the client says %s", out)
			}

			if moved := git(t, demo, "for-each-ref") != before; moved != row.moves {
				t.Errorf("the push moves refs: %v", moved)
			}
			if !row.moves {
				h.trailed(t, trail.Refused, 1)
			}
		})
	}
}

func TestARefusedPushOfMuchIsReadToItsEnd(t *testing.T) {
	h := open(t, gate.Settings{})
	h.bare(t, "demo")
	h.put(t, limitedToken, `{"limited": {"project": "demo", "access": "write", "push": [["refs/heads/agent/**"]]}}`)
	work := filepath.Join(h.dir, "work.git")
	git(t, h.dir, "init", "--quiet", "--bare", work)
	must(t, makeLarge(work, 20))
	out := gitFails(t, work, "push", h.url(limitedToken, "demo"), "main")
	if !strings.Contains(out, "refs/heads/agent/**") {
		t.Errorf("the client says %s", out)
	}
	if event := h.trailed(t, trail.Refused, 1)[0]; event.Ref != "refs/heads/main" {
		t.Errorf("the trail has %+v", event)
	}
}

// Commands that git and the gate might read differently are refused before git's receive-pack
// starts.
func TestCommandsThatAreNotGitsAreRefused(t *testing.T) {
	const zero, one = "0000000000000000000000000000000000000000", "1111111111111111111111111111111111111111"
	good := pkt(zero + " " + one + " refs/heads/agent/1\x00report-status")
	h, runs := openOver(t, `case "$*" in *receive-pack*) echo >>$0.received ;; esac`)
	started := func() bool {
		_, err := os.Stat(filepath.Join(filepath.Dir(runs), "git.received"))
		return err == nil
	}
	h.demo(t, "demo", 1)
	h.put(t, limitedToken, `{"limited": {"project": "demo", "access": "write", "push": [["refs/heads/agent/**"]]}}`)
	for name, body := range map[string]string{
		"a signed push":                    pkt("push-cert\x00push-options") + pkt(zero+" "+one+" refs/heads/main\n") + pkt("push-cert-end\n") + "0000",
		"a delimiter, not a flush":         good + "0001" + pkt(zero+" "+one+" refs/heads/main") + "0000",
		"a response-end, not a flush":      good + "0002" + "0000",
		"a length of three":                good + "0003" + "0000",
		"nothing in a packet":              good + "0004" + "0000",
		"a length that is no number":       good + "00zz" + "0000",
		"a signed length":                  good + "+03f" + "0000",
		"a packet that is too long":        good + "fff1" + strings.Repeat("x", 0xffff) + "0000",
		"a line break in a ref":            pkt(zero+" "+one+" refs/heads/agent/1\nrefs/heads/main\x00report-status") + "0000",
		"a space in a ref":                 pkt(zero+" "+one+" refs/heads/agent/1 refs/heads/main\x00report-status") + "0000",
		"no ref":                           pkt(zero+" "+one+" \x00report-status") + "0000",
		"short object ids":                 pkt("0000 1111 refs/heads/agent/1") + "0000",
		"object ids in capitals":           pkt(strings.Repeat("A", 40)+" "+one+" refs/heads/agent/1") + "0000",
		"object ids of different lengths":  pkt(zero+" "+one+strings.Repeat("1", 24)+" refs/heads/agent/1") + "0000",
		"shallow and no object":            pkt("shallow main") + good + "0000",
		"shallow and more behind":          pkt("shallow "+one+"\x00x") + good + "0000",
		"an error":                         pkt("ERR no") + "0000",
		"a ref longer than a path":         pkt(zero+" "+one+" refs/heads/agent/"+strings.Repeat("a", 5000)) + "0000",
		"another ref after a good command": good + pkt(one+" "+zero+" refs/heads/main") + "0000",
	} {
		answer, text := h.request(t, "POST", "/demo.git/git-receive-pack", limitedToken, body, receiveRequest)
		refused := answer.StatusCode == 400 || strings.Contains(text, "ng refs/heads/main the token may push to")
		if !refused || started() {
			t.Fatalf("%s: %s: %q; git has started: %v", name, answer.Status, text, started())
		}
	}
	if answer, text := h.request(t, "POST", "/demo.git/git-receive-pack", limitedToken, good+"0000", receiveRequest); answer.StatusCode != 200 || !strings.Contains(text, "unpack") || !started() {
		t.Errorf("as git sends it: %s: %q; git has started: %v", answer.Status, text, started())
	}
}

func TestAHashedEntryOpensByItsTokenAlone(t *testing.T) {
	h := open(t, gate.Settings{})
	h.demo(t, "demo", 1)
	const key = "sha256:7b0b4d9ae8ad35f4ac4e8ff5f2dd31e6ca4ec9c9cd4be9ffa0a0a5be2ea4f9e1"
	h.put(t, key, `{"project": "demo", "task": "1"}`)
	for _, user := range []string{key, strings.TrimPrefix(key, "sha256:"), "sha256"} {
		if answer, _ := h.request(t, "GET", "/demo.git/info/refs?service=git-upload-pack", user, ""); answer.StatusCode != 403 {
			t.Errorf("%q as the user: %s", user, answer.Status)
		}
	}
	h.put(t, "sha256:"+sha256Of(limitedToken), `{"project": "demo", "task": "1"}`)
	git(t, h.dir, "clone", "--quiet", h.url(limitedToken, "demo"), "work")
}

// stuck begins two clones whose output is not read, and returns their token and a way to end
// one of them.
func stuck(t *testing.T, h *harness) (token string, end func()) {
	t.Helper()
	demo := h.bare(t, "demo")
	tip := borrow(t, demo)
	git(t, demo, "update-ref", "refs/heads/main", tip)
	token = h.issue(t, "demo")

	body := pkt("want "+tip+" side-band-64k\n") + "0000" + pkt("done\n")
	clone := head("POST /demo.git/git-upload-pack", token, uploadRequest, fmt.Sprintf("Content-Length: %d", len(body))) + body
	first := h.dial(t, clone)
	h.dial(t, clone)

	testenv.Eventually(t, "both are under way", func() bool {
		underWay := 0
		for _, process := range processesIn(h.repos) {
			if strings.Contains(process, " upload-pack ") {
				underWay++
			}
		}
		return underWay == 2
	})
	return token, func() { first.Close() }
}

const refs = "/info/refs?service=git-upload-pack"

func TestATokensRequestsAreLimited(t *testing.T) {
	h := open(t, gate.Settings{PerToken: 2, Together: 3, Patience: 100 * time.Millisecond})
	h.demo(t, "other", 1)
	other := h.issue(t, "other")
	token, _ := stuck(t, h)
	answer, _ := h.request(t, "GET", "/demo.git"+refs, token, "")
	if answer.StatusCode != 429 || answer.Header.Get("Retry-After") != "5" {
		t.Errorf("its third request is answered %s, retry after %q", answer.Status, answer.Header.Get("Retry-After"))
	}
	if answer, _ := h.request(t, "GET", "/other.git"+refs, other, ""); answer.StatusCode != 200 {
		t.Errorf("another token's request is answered %s", answer.Status)
	}
}

func TestAllRequestsAreLimited(t *testing.T) {
	h := open(t, gate.Settings{PerToken: 3, Together: 2, Patience: 100 * time.Millisecond})
	h.demo(t, "other", 1)
	other := h.issue(t, "other")
	stuck(t, h)
	if answer, _ := h.request(t, "GET", "/other.git"+refs, other, ""); answer.StatusCode != 429 {
		t.Errorf("another token's request is answered %s", answer.Status)
	}
}

func TestARequestWaitsForItsTurn(t *testing.T) {
	h := open(t, gate.Settings{PerToken: 2})
	token, end := stuck(t, h)
	answered := make(chan *http.Response)
	go func() {
		answer, _ := h.request(t, "GET", "/demo.git"+refs, token, "")
		answered <- answer
	}()
	h.underWay(t, 3)
	end()
	if answer := <-answered; answer.StatusCode != 200 {
		t.Errorf("the request is answered %s", answer.Status)
	}
}

func TestAClientThatStallsIsLetGo(t *testing.T) {
	h := open(t, gate.Settings{Stall: 300 * time.Millisecond})
	demo := h.bare(t, "demo")
	tip := borrow(t, demo)
	git(t, demo, "update-ref", "refs/heads/main", tip)
	token := h.issue(t, "demo")
	body := pkt("want "+tip+" side-band-64k\n") + "0000" + pkt("done\n")
	for _, stalls := range []string{
		head("POST /demo.git/git-upload-pack", token, uploadRequest, fmt.Sprintf("Content-Length: %d", len(body))) + body, // reads nothing
		head("POST /demo.git/git-upload-pack", token, uploadRequest, "Content-Length: 1000") + body,                       // sends no more
		head("POST /demo.git/git-receive-pack", token, receiveRequest, "Content-Length: 1000") + "00",                     // nor does this
	} {
		h.dial(t, stalls)
	}
	for _, event := range h.trailed(t, trail.Cut, 3) {
		if event.Error != "the client went away" {
			t.Errorf("the trail has %+v", event)
		}
	}
}
