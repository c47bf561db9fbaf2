package forward_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"terok-gate-hook/forward"
	"terok-gate-hook/internal/testenv"
)

// model is a stub of a model's server, with the parts of OpenAI's API that a proxy can get wrong.
type model struct {
	key  string        // that requests must show; empty for none
	more chan struct{} // after each event, stream waits until it receives from this
}

func (m *model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if shown := r.Header.Get("Authorization"); m.key != "" && shown != "Bearer "+m.key {
		http.Error(w, "a wrong key", http.StatusUnauthorized)
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "POST /v1/chat/completions":
		m.stream(w, r)
	case "GET /v1/realtime":
		m.echo(w, r)
	default:
		http.NotFound(w, r)
	}
}

// stream answers with three server-sent events. Each has its number and the length of the question.
func (m *model) stream(w http.ResponseWriter, r *http.Request) {
	var asked struct{ Messages []struct{ Content string } }
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for i := range 3 {
		fmt.Fprintf(w, "data: %d of %d\n\n", i, len(asked.Messages[0].Content))
		w.(http.Flusher).Flush()
		<-m.more
	}
}

// echo goes over to another protocol, as a websocket does, and answers each line in capitals.
func (m *model) echo(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Connection"), "upgrade") || r.Header.Get("Upgrade") != "websocket" {
		http.Error(w, "a request for a websocket must have the header Upgrade: websocket", http.StatusUpgradeRequired)
		return
	}
	w.Header().Set("Connection", "Upgrade")
	w.Header().Set("Upgrade", "websocket")
	w.WriteHeader(http.StatusSwitchingProtocols)
	conn, both, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	for {
		line, err := both.ReadString('\n')
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, strings.ToUpper(line))
	}
}

// modelKey is what the model asks for and no container may know.
const modelKey = "sk-the-key-of-the-model"

// ways are the ways to a model.
var ways = map[string]func(t *testing.T, m *model) forward.Target{
	"directly": func(t *testing.T, m *model) forward.Target {
		server := httptest.NewServer(m)
		t.Cleanup(server.Close)
		return forward.Target{Network: "tcp", Address: server.Listener.Addr().String()}
	},
	"through nginx, which adds the key": func(t *testing.T, m *model) forward.Target {
		m.key = modelKey
		return throughNginx(t, m)
	},
}

// throughNginx starts a model's server with a certificate, and an nginx before it, with the
// configuration of docs/agents.md.
func throughNginx(t *testing.T, m *model) forward.Target {
	t.Helper()
	testenv.Need(t, "nginx")
	server := httptest.NewTLSServer(m)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	socket, key, certificate := filepath.Join(dir, "model"), filepath.Join(dir, "key"), filepath.Join(dir, "certificate")
	must(t, os.WriteFile(key, []byte(`proxy_set_header Authorization "Bearer `+modelKey+`";`), 0o600))
	must(t, os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o644))

	page, err := os.ReadFile("../docs/agents.md")
	must(t, err)
	found := regexp.MustCompile("(?s)```nginx\n(.*?)```").FindSubmatch(page)
	if found == nil {
		t.Fatal("docs/agents.md has no configuration of nginx")
	}
	documented := string(found[1])
	for _, change := range []struct{ from, to string }{
		{"unix:/run/terok-model/socket", "unix:" + socket},
		{"/etc/nginx/terok-model.key", key},
		{"/etc/ssl/certs/ca-certificates.crt", certificate},
		{"api.openai.com", "example.com"}, // for which the server has its certificate
	} {
		if !strings.Contains(documented, change.from) {
			t.Fatalf("the configuration of nginx in docs/agents.md does not name %s", change.from)
		}
		documented = strings.ReplaceAll(documented, change.from, change.to)
	}

	config := filepath.Join(dir, "nginx.conf")
	must(t, os.WriteFile(config, fmt.Appendf(nil, `
daemon off;
pid %[1]s/pid;
error_log %[1]s/log;
events {}
http {
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/answers;
	fastcgi_temp_path %[1]s/unused;
	uwsgi_temp_path %[1]s/unused;
	scgi_temp_path %[1]s/unused;
	upstream example.com { server %[2]s; }
	%[3]s
}`, dir, server.Listener.Addr(), documented), 0o644))

	var said bytes.Buffer
	nginx := exec.Command(testenv.Tool(t, "nginx"), "-c", config, "-e", filepath.Join(dir, "log"))
	nginx.Stderr = &said
	must(t, nginx.Start())
	t.Cleanup(func() {
		_ = nginx.Process.Signal(syscall.SIGTERM)
		_ = nginx.Wait()
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		if t.Failed() || bytes.Contains(log, []byte(modelKey)) {
			t.Errorf("nginx says %s%s", &said, log)
		}
	})
	testenv.Eventually(t, "nginx listens", func() bool {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return forward.Target{Network: "unix", Address: socket}
}

// overhearing is a connection that keeps a copy of what is read from it.
type overhearing struct {
	net.Conn
	to *overheard
}

type overheard struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (o overhearing) Read(b []byte) (int, error) {
	n, err := o.Conn.Read(b)
	o.to.mu.Lock()
	defer o.to.mu.Unlock()
	o.to.all.Write(b[:n])
	return n, err
}

// agent is a client in a container, with a key of its own, as agents insist on having one.
type agent struct {
	*http.Client
	heard overheard // all that was read from its connections
}

func (c *container) agent(t *testing.T) *agent {
	a := &agent{Client: c.client(t, "llm")}
	transport := a.Transport.(*http.Transport)
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		return overhearing{conn, &a.heard}, err
	}
	return a
}

func (a *agent) asks(t *testing.T, method, path, body string, header ...string) *http.Response {
	t.Helper()
	request, err := http.NewRequest(method, "http://127.0.0.1:4000"+path, strings.NewReader(body))
	must(t, err)
	request.Header.Set("Authorization", "Bearer none")
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	answer, err := a.Do(request)
	must(t, err)
	t.Cleanup(func() { answer.Body.Close() })
	return answer
}

// heardNoKey checks that nothing that a container has heard, or started with, contains the key.
func (a *agent) heardNoKey(t *testing.T, c *container) {
	t.Helper()
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", c.PID))
	must(t, err)
	a.heard.mu.Lock()
	defer a.heard.mu.Unlock()
	if heard := a.heard.all.Bytes(); len(heard) == 0 || bytes.Contains(heard, []byte(modelKey)) || bytes.Contains(environment, []byte(modelKey)) {
		t.Errorf("the container has the key, or heard nothing: it heard %.2000q, and its environment is %q", heard, environment)
	}
}

// What a model's server sends piece by piece arrives piece by piece.
func TestAnswersAreStreamed(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			m := &model{more: make(chan struct{})}
			h := open(t, map[string]forward.Target{"llm": way(t, m)}, nil)
			c := h.start(t, h.container(t, nil, llm))
			agent := c.agent(t)

			long := strings.Repeat("a whole repository ", 1<<17)
			answer := agent.asks(t, http.MethodPost, "/v1/chat/completions", `{"stream":true,"messages":[{"role":"user","content":"`+long+`"}]}`)
			lines := bufio.NewReader(answer.Body)
			for i := range 3 {
				line, err := lines.ReadString('\n')
				if err != nil || line != fmt.Sprintf("data: %d of %d\n", i, len(long)) {
					t.Fatalf("event %d is %q, %v", i, line, err)
				}
				_, _ = lines.ReadString('\n')
				m.more <- struct{}{} // the next is not sent before this one was read
			}
			if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
				t.Errorf("it ends with %q, %v", rest, err)
			}
			agent.heardNoKey(t, c)
		})
	}
}

func TestAWebsocketIsForwarded(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			h := open(t, map[string]forward.Target{"llm": way(t, &model{})}, nil)
			c := h.start(t, h.container(t, nil, llm))
			agent := c.agent(t)
			answer := agent.asks(t, http.MethodGet, "/v1/realtime", "", "Connection", "Upgrade", "Upgrade", "websocket")
			if answer.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("the answer is %s", answer.Status)
			}

			both := answer.Body.(io.ReadWriter)
			heard := bufio.NewReader(both)
			for _, word := range []string{"one\n", "two\n"} {
				_, err := io.WriteString(both, word)
				must(t, err)
				if line, err := heard.ReadString('\n'); err != nil || line != strings.ToUpper(word) {
					t.Errorf("the answer to %q is %q, %v", word, line, err)
				}
			}
			agent.heardNoKey(t, c)
		})
	}
}

// The proxy of docs/agents.md lets containers ask the model, and nothing else that its key opens.
func TestAKeyIsForTheModelAlone(t *testing.T) {
	m := &model{key: modelKey}
	h := open(t, map[string]forward.Target{"llm": throughNginx(t, m)}, nil)
	c := h.start(t, h.container(t, nil, llm))
	for _, path := range []string{"/v1/files", "/v1/organization/admin_api_keys", "/", "/v1/realtime/../files", "/v1/chat/completions/../../files"} {
		agent := c.agent(t)
		if answer := agent.asks(t, http.MethodGet, path, ""); answer.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %s", path, answer.Status)
		}
		agent.heardNoKey(t, c)
	}
}
