package gate_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
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

// pkt is one packet of git's.
func pkt(content string) string { return fmt.Sprintf("%04x%s", len(content)+4, content) }

// dial connects to the gate and sends the text as it is, which Go's client might not do.
func (h *harness) dial(t *testing.T, text string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", h.address)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(testenv.AWhile)))
	_, err = io.WriteString(conn, text)
	must(t, err)
	return conn
}

// head is a request's head, with the token and more headers.
func head(line, token string, headers ...string) string {
	r, _ := http.NewRequest("GET", "/", nil)
	r.SetBasicAuth(token, "")
	return line + " HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: " + r.Header.Get("Authorization") + "\r\n" +
		strings.Join(append(headers, "", ""), "\r\n")
}

func TestTheServiceLineGoesByGitsOwnOutput(t *testing.T) {
	h := open(t, gate.Settings{})
	h.demo(t, "demo", 1)
	token := h.issue(t, "demo")
	const line = "# service="
	for _, row := range []struct {
		service, protocol string
		begins            string
	}{
		{"git-upload-pack", "", pkt(line+"git-upload-pack\n") + "0000"},
		{"git-upload-pack", "version=1", pkt(line+"git-upload-pack\n") + "0000" + pkt("version 1\n")},
		{"git-upload-pack", "version=2", pkt("version 2\n")},
		{"git-upload-pack", "version=2 :x", pkt(line+"git-upload-pack\n") + "0000"},
		{"git-upload-pack", "version=3", pkt(line+"git-upload-pack\n") + "0000"},
		{"git-upload-pack", "hello:version=1:version=2:x=y", pkt("version 2\n")},
		{"git-receive-pack", "", pkt(line+"git-receive-pack\n") + "0000"},
		// receive-pack has no version 2, and answers with version 0.
		{"git-receive-pack", "version=2", pkt(line+"git-receive-pack\n") + "0000"},
	} {
		for range 2 { // the second advertisement may be a kept one
			answer, text := h.request(t, "GET", "/demo.git/info/refs?service="+row.service, token, "", "Git-Protocol: "+row.protocol)
			if !strings.HasPrefix(text, row.begins) || answer.Header.Get("Content-Type") != "application/x-"+row.service+"-advertisement" {
				t.Errorf("%s with %q: %s: %.60q", row.service, row.protocol, answer.Header.Get("Content-Type"), text)
			}
		}
	}
}

func TestAKeptAdvertisementIsThatOfTheRepository(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	token := h.issue(t, "demo")
	advertised := func() string {
		_, text := h.request(t, "GET", "/demo.git/info/refs?service=git-upload-pack", token, "", "Git-Protocol: version=2")
		return text
	}

	if !strings.Contains(advertised(), "object-format=sha1") {
		t.Fatalf("the advertisement is %s", advertised())
	}

	// Capabilities that the repository's configuration could change are pinned.
	git(t, demo, "config", "uploadpack.allowFilter", "false")
	git(t, demo, "config", "lsrefs.unborn", "ignore")
	if first := advertised(); !strings.Contains(first, "filter") || !strings.Contains(first, "unborn") {
		t.Errorf("the advertisement is %s", first)
	}

	must(t, os.RemoveAll(demo))
	h.bare(t, "demo", "--object-format=sha256")
	if !strings.Contains(advertised(), "object-format=sha256") {
		t.Errorf("the advertisement is %s", advertised())
	}
}

// In a negotiation of protocol 0, git answers before it has read the whole body. By default, Go's
// server reads only a limited part of the rest before it writes the answer, and the client sends
// more than that.
func TestFiveThousandHavesAreNegotiated(t *testing.T) {
	everyProtocol(t, func(t *testing.T, version string) {
		for encoding, buffer := range map[string]string{
			"Content-Encoding: gzip":     "1048576", // git's default
			"Transfer-Encoding: chunked": "65536",   // which is less than the haves
		} {
			t.Run(encoding, func(t *testing.T) {
				h := open(t, gate.Settings{})
				demo := h.demo(t, "demo", 20)
				work := filepath.Join(h.dir, "work")
				git(t, h.dir, "clone", "--quiet", h.url(h.issue(t, "demo"), "demo"), work)

				// 5,000 commits that the gate does not have. Every tenth is on top of what it has.
				var stream strings.Builder
				for i := range 5000 {
					fmt.Fprintf(&stream, "commit refs/heads/own-%d\ncommitter A <a@example> %d +0000\ndata 4\nown\n", i, 1800000000+i)
					if i%10 == 0 {
						stream.WriteString("from refs/remotes/origin/main^0\n")
					}
				}

				feed(t, work, stream.String(), "fast-import", "--quiet")
				feed(t, demo, "commit refs/heads/main\ncommitter A <a@example> 1900000000 +0000\ndata 3\nnew\nfrom refs/heads/main^0\n", "fast-import", "--quiet")

				fetch := command(work, "-c", version, "-c", "http.postBuffer="+buffer, "-c", "fetch.negotiationAlgorithm=consecutive", "fetch", "--quiet", "origin")
				fetch.Env = append(fetch.Env, "GIT_TRACE_CURL=1", "GIT_TRACE_CURL_NO_DATA=1")
				traced, err := fetch.CombinedOutput()
				if err != nil || !strings.Contains(string(traced), "=> Send header: "+encoding) {
					t.Errorf("git fetch: %v\n%s", err, traced)
				}
				if git(t, work, "rev-parse", "origin/main") != git(t, demo, "rev-parse", "main") {
					t.Error("main was not fetched")
				}
			})
		}
	})

	t.Run("in one request", func(t *testing.T) {
		h := open(t, gate.Settings{})
		demo := h.demo(t, "demo", 20)
		want := git(t, demo, "rev-parse", "main")
		body := pkt("want "+want+" multi_ack_detailed no-done side-band-64k ofs-delta\n") + "0000"
		for i := range 6000 {
			body += pkt(fmt.Sprintf("have %040x\n", i+1))
			if i%32 == 0 {
				body += pkt("have " + want + "\n")
			}
		}
		body += pkt("done\n")

		for _, encoding := range []string{"identity", "gzip"} {
			sent := body
			if encoding == "gzip" {
				sent = gzipped(body)
			}
			answer, text := h.request(t, "POST", "/demo.git/git-upload-pack", h.issue(t, "demo"), sent, uploadRequest, "Content-Encoding: "+encoding)
			if answer.StatusCode != 200 || !strings.Contains(text, "ACK "+want+" common") || !strings.Contains(text, "PACK") || !strings.HasSuffix(text, "0000") {
				t.Errorf("%s: %s: %d bytes, %.200q", encoding, answer.Status, len(text), text)
			}
		}
	})
}

func gzipped(text string) string {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = io.WriteString(z, text)
	z.Close()
	return out.String()
}

func TestARequestToFetchIsAtMost32MiBUnpacked(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	want := pkt("want "+git(t, demo, "rev-parse", "main")+"\n") + "0000"
	bomb := gzipped(want + strings.Repeat(pkt("have 0123456789012345678901234567890123456789\n"), 1<<20))
	answer, text := h.request(t, "POST", "/demo.git/git-upload-pack", h.issue(t, "demo"), bomb, uploadRequest, "Content-Encoding: gzip")
	if answer.StatusCode != 413 {
		t.Errorf("%d bytes are answered with %s: %.100q", len(bomb), answer.Status, text)
	}
}

func TestAPushMayComeInChunksAndAskFirst(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	url := h.url(h.issue(t, "demo"), "demo")
	work := filepath.Join(h.dir, "work")
	git(t, h.dir, "clone", "--quiet", url, work)

	push := func(what string, config ...string) {
		t.Helper()
		noise := make([]byte, 3<<20)
		copy(noise, what)
		must(t, os.WriteFile(filepath.Join(work, "file"), noise, 0o644))
		git(t, work, "add", "file")
		git(t, work, "commit", "--quiet", "-m", what)
		git(t, work, append(config, "push", "--quiet", "origin", "main")...)
		if git(t, demo, "rev-parse", "main") != git(t, work, "rev-parse", "main") {
			t.Errorf("%s: main has not moved", what)
		}
	}

	push("in chunks")
	push("whole", "-c", "http.postBuffer=100000000")

	// curl and others ask first if the body is large, git only with Kerberos.
	body := pkt("0000000000000000000000000000000000000000 "+git(t, demo, "rev-parse", "main")+" refs/heads/asked\x00 report-status\n") + "0000" +
		feedOut(t, demo, "", "pack-objects", "--stdout", "-q")

	conn := h.dial(t, head("POST /demo.git/git-receive-pack", h.issue(t, "demo"), receiveRequest, "Expect: 100-continue", fmt.Sprintf("Content-Length: %d", len(body))))
	answers := bufio.NewReader(conn)
	if line, _ := answers.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("asked first, the gate says %q", line)
	}

	_, _ = answers.ReadString('\n')
	_, err := io.WriteString(conn, body)
	must(t, err)

	answer, err := http.ReadResponse(answers, nil)
	must(t, err)
	text, _ := io.ReadAll(answer.Body)
	if !strings.Contains(string(text), "ok refs/heads/asked") {
		t.Errorf("the push is answered with %s: %q", answer.Status, text)
	}

	// And a client that may not push is told so before it sends the body.
	conn = h.dial(t, head("POST /demo.git/git-receive-pack", "wrong", receiveRequest, "Expect: 100-continue", "Content-Length: 100000000"))
	if line, _ := bufio.NewReader(conn).ReadString('\n'); line != "HTTP/1.1 403 Forbidden\r\n" {
		t.Errorf("asked first, with a wrong token, the gate says %q", line)
	}
}

// feedOut is git's standard output as it is.
func feedOut(t *testing.T, dir, input string, args ...string) string {
	t.Helper()
	cmd := command(dir, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.Output()
	must(t, err)
	return string(out)
}

func TestAPushAndACloneOf200MBSucceed(t *testing.T) {
	everyProtocol(t, func(t *testing.T, version string) {
		h := open(t, gate.Settings{})
		demo := h.bare(t, "demo")
		url := h.url(h.issue(t, "demo"), "demo")
		work := filepath.Join(h.dir, "work.git")
		git(t, h.dir, "init", "--quiet", "--bare", work)
		must(t, makeLarge(work, 200))
		git(t, work, "config", "core.bigFileThreshold", "512k")

		git(t, work, "-c", version, "push", "--quiet", url, "main")
		if event := h.trailed(t, trail.Push, 1)[0]; event.Bytes < 200<<20 || event.Refs != 1 {
			t.Errorf("the trail has %+v", event)
		}

		git(t, h.dir, "-c", version, "clone", "--quiet", "--bare", url, "clone")
		if got := git(t, filepath.Join(h.dir, "clone"), "rev-parse", "main"); got != git(t, demo, "rev-parse", "main") {
			t.Errorf("the clone's main is %s", got)
		}
		if event := h.trailed(t, trail.Fetch, 1)[0]; event.Bytes < 200<<20 {
			t.Errorf("the trail has %+v", event)
		}
	})
}

func TestAPushThatIsTooLargeIsRefused(t *testing.T) {
	for name, row := range map[string]struct{ config, says string }{
		"whole":     {"http.postBuffer=100000000", "413"},
		"in chunks": {"http.postBuffer=1000000", "pack exceeds maximum allowed size"},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, gate.Settings{MaxPush: 3 << 20})
			demo := h.bare(t, "demo")
			work := filepath.Join(h.dir, "work.git")
			git(t, h.dir, "init", "--quiet", "--bare", work)
			must(t, makeLarge(work, 5))
			out := gitFails(t, work, "-c", row.config, "push", h.url(h.issue(t, "demo"), "demo"), "main")
			if !strings.Contains(out, row.says) {
				t.Errorf("the client says %s", out)
			}
			if refs := git(t, demo, "for-each-ref"); refs != "" {
				t.Errorf("the push moved %s", refs)
			}
		})
	}
}

func TestGitsFirstRequestsAreNotRecorded(t *testing.T) {
	h := open(t, gate.Settings{})
	h.demo(t, "demo", 1)
	token := h.issue(t, "demo")
	h.request(t, "GET", "/demo.git/info/refs?service=git-upload-pack", "", "")
	h.request(t, "POST", "/demo.git/git-receive-pack", token, "0000", receiveRequest)
	h.request(t, "GET", "/demo.git/info/refs?service=git-upload-pack", token, "")
	h.request(t, "GET", "/favicon.ico", "", "")
	h.request(t, "GET", "/demo.git/info/refs?service=git-upload-pack", "wrong", "") // only this one is recorded
	h.trailed(t, trail.Refused, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.events) != 1 {
		t.Errorf("the trail has %+v", h.events)
	}
}

// A client that reads nothing holds a process and some memory until it counts as stalled, or the
// token ends.
func TestACloneWhoseClientReadsNothingIsCut(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.bare(t, "demo")
	tip := borrow(t, demo)
	git(t, demo, "update-ref", "refs/heads/main", tip)
	body := pkt("want "+tip+" side-band-64k\n") + "0000" + pkt("done\n")
	h.dial(t, head("POST /demo.git/git-upload-pack", h.issue(t, "demo"), uploadRequest, fmt.Sprintf("Content-Length: %d", len(body)))+body)
	testenv.Eventually(t, "git runs", func() bool { return len(processesIn(h.repos)) > 0 })
	h.revoke(t, "demo")
	testenv.Eventually(t, "git has ended", func() bool { return len(processesIn(h.repos)) == 0 })
	h.trailed(t, trail.Cut, 1)
}
