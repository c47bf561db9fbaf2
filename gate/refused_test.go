package gate_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
)

// A certificate counts only if everything in it is right. If not, the connection fails, and the gate
// reads no request.
func TestAClientWithoutACertificateOfTheFleetIsNotServed(t *testing.T) {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	f.repos.demo(t, "demo", 1)
	strangers := testenv.NewAuthority(t, memory(t))

	shows := func(a *testenv.Authority, edit func(*x509.Certificate)) func(*tls.Config) {
		cert, key := a.Issue(t, "shown", edit, "host-a")
		pair, err := tls.LoadX509KeyPair(cert, key)
		must(t, err)
		return func(c *tls.Config) { c.Certificates = []tls.Certificate{pair} }
	}
	good := shows(f.authority, nil)
	for name, config := range map[string]func(*tls.Config){
		"no certificate":         func(*tls.Config) {},
		"another authority's":    shows(strangers, nil),
		"one that has ended":     shows(f.authority, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }),
		"one that has not begun": shows(f.authority, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }),
		"a server's":             shows(f.authority, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }),
		"one for signing code":   shows(f.authority, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }),
		"HTTP/2 alone":           func(c *tls.Config) { good(c); c.NextProtos = []string{"h2"} },
		"TLS 1.2":                func(c *tls.Config) { good(c); c.MaxVersion = tls.VersionTLS12 },
	} {
		if code, text, err := f.ask(t, config, vouchedRequest(voucherOf(``))); err == nil {
			t.Errorf("%s: answered with %d %q", name, code, text)
		}
	}
	if code, text, err := f.ask(t, good, vouchedRequest(voucherOf(``))); err != nil || code != http.StatusOK {
		t.Errorf("the host's own: %d %q, %v", code, text, err)
	}

	plain, err := net.Dial("tcp", f.address)
	must(t, err)
	defer plain.Close()
	must(t, plain.SetDeadline(time.Now().Add(testenv.AWhile)))
	_, err = io.WriteString(plain, vouchedRequest(voucherOf(``)))
	must(t, err)
	answer, _ := io.ReadAll(plain)
	if !strings.HasPrefix(string(answer), "HTTP/1.0 400 ") || strings.Contains(string(answer), "refs/heads") {
		t.Errorf("without TLS: %q", answer)
	}
}

// voucherOf is the header of a voucher for demo. The parameter more has further keys, in the order
// that keys must have. If that text begins with a brace, it is the whole JSON of the voucher.
func voucherOf(more string) string {
	text := `{"project":"demo","task":"t","fingerprint":"0123abcd","access":"write"` + more + `}`
	if strings.HasPrefix(more, "{") {
		text = more
	}
	return "Terok-Gate-Voucher: " + base64.RawURLEncoding.EncodeToString([]byte(text))
}

func vouchedRequest(headers ...string) string {
	return head("GET /demo.git/info/refs?service=git-receive-pack", "", append(headers, "Connection: close")...)
}

// ask sends the repository gate a request by TLS.
func (f *fleet) ask(t *testing.T, edit func(*tls.Config), request string) (code int, text string, err error) {
	t.Helper()
	conn, err := tls.Dial("tcp", f.address, configFor(edit))
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(testenv.AWhile)))
	if _, err := io.WriteString(conn, request); err != nil {
		return 0, "", err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(body), err
}

func configFor(edit func(*tls.Config)) *tls.Config {
	c := &tls.Config{InsecureSkipVerify: true} // a stranger does not care who serves
	edit(c)
	return c
}

func TestAHostIsServedOnlyWhatItMayVouchFor(t *testing.T) {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	demo := f.repos.demo(t, "demo", 1)
	f.repos.demo(t, "lib", 1)
	f.repos.demo(t, "other", 1)
	f.mayVouch(t, "host-a=demo\nhost-b=other\nhost-b=lib\n")
	token := f.repos.issue(t, "demo") // of the repository gate's own token file
	before := git(t, demo, "for-each-ref")

	as := func(names ...string) func(*tls.Config) {
		cert, key := f.authority.Issue(t, "as", nil, names...)
		pair, err := tls.LoadX509KeyPair(cert, key)
		must(t, err)
		return func(c *tls.Config) { c.Certificates = []tls.Certificate{pair} }
	}
	offering := func(who func(*tls.Config), protocols ...string) func(*tls.Config) {
		return func(c *tls.Config) { who(c); c.NextProtos = protocols }
	}
	a, b := as("host-a"), as("host-b")
	const only, notVouched = "only the gates of containers' hosts", "does not let this host vouch"
	const rest = `,"task":"t","fingerprint":"0123abcd","access":"write"}`
	good := voucherOf(``)
	get := func(path string, headers ...string) string { return head("GET "+path, "", headers...) }
	libRefs := "/lib.git/info/refs?service=git-upload-pack"

	for name, row := range map[string]struct {
		who     func(*tls.Config)
		request string
		code    int
		text    string
	}{
		"a voucher":                         {a, vouchedRequest(good), 200, "refs/heads/main"},
		"another spelling of the host":      {as("HOST-A"), vouchedRequest(good), 200, "refs/heads/main"},
		"a second name of the host":         {as("x", "host-a"), vouchedRequest(good), 200, "refs/heads/main"},
		"no voucher":                        {a, vouchedRequest(), 403, only},
		"a token in its place":              {a, head("GET /demo.git/info/refs?service=git-upload-pack", token), 403, only},
		"an empty voucher":                  {a, vouchedRequest("Terok-Gate-Voucher:"), 403, only},
		"two vouchers":                      {a, vouchedRequest(good, good), 403, only},
		"two vouchers in a line":            {a, vouchedRequest(good + ", " + strings.TrimPrefix(good, "Terok-Gate-Voucher: ")), 403, only},
		"JSON that is not encoded":          {a, vouchedRequest(`Terok-Gate-Voucher: {"project":"demo"` + rest), 403, only},
		"padding":                           {a, vouchedRequest(good + "="), 403, only},
		"an unknown key":                    {a, vouchedRequest(voucherOf(`,"host":"host-b"`)), 403, only},
		"a key twice":                       {a, vouchedRequest(voucherOf(`,"access":"write"`)), 403, only},
		"a space":                           {a, vouchedRequest(voucherOf(`{"project": "demo"` + rest)), 403, only},
		"no project":                        {a, vouchedRequest(voucherOf(`{"project":""` + rest)), 403, only},
		"a pattern for a project":           {a, vouchedRequest(voucherOf(`{"project":"*"` + rest)), 403, only},
		"a path for a project":              {a, vouchedRequest(voucherOf(`{"project":"../demo"` + rest)), 403, only},
		"no task":                           {a, vouchedRequest(voucherOf(`{"project":"demo","task":"","fingerprint":"0123abcd","access":"write"}`)), 403, only},
		"two lines for a container":         {a, vouchedRequest(voucherOf(`{"project":"demo","task":"t","container":"a\nb","fingerprint":"0123abcd","access":"write"}`)), 403, only},
		"a token for a fingerprint":         {a, vouchedRequest(voucherOf(`{"project":"demo","task":"t","fingerprint":"` + token + `","access":"write"}`)), 403, only},
		"no access":                         {a, vouchedRequest(voucherOf(`{"project":"demo","task":"t","fingerprint":"0123abcd","access":""}`)), 403, only},
		"more access than there is":         {a, vouchedRequest(voucherOf(`{"project":"demo","task":"t","fingerprint":"0123abcd","access":"admin"}`)), 403, only},
		"an empty list of limits":           {a, vouchedRequest(voucherOf(`,"push":[]`)), 403, only},
		"a voucher that is too long":        {a, vouchedRequest("Terok-Gate-Voucher: " + strings.Repeat("A", 50<<10)), 403, only},
		"a header that is too long":         {a, vouchedRequest("Terok-Gate-Voucher: " + strings.Repeat("A", 80<<10)), 431, ""},
		"a voucher for another project":     {a, get(libRefs, good), 403, only},
		"a project of another host":         {a, get(libRefs, voucherOf(`{"project":"lib"`+rest)), 403, notVouched},
		"this project by another host":      {b, vouchedRequest(good), 403, notVouched},
		"a host that nothing is said of":    {as("host-c"), vouchedRequest(good), 403, notVouched},
		"a certificate without a name":      {as(), vouchedRequest(good), 403, notVouched},
		"a certificate for all names":       {as("*"), vouchedRequest(good), 403, notVouched},
		"a certificate for names below":     {as("x.host-a"), vouchedRequest(good), 403, notVouched},
		"a certificate for a name above":    {as("host"), vouchedRequest(good), 403, notVouched},
		"a project that is not there":       {as("host-b"), get("/gone.git/info/refs?service=git-upload-pack", voucherOf(`{"project":"gone"`+rest)), 403, notVouched},
		"a push with a voucher for reading": {a, vouchedRequest(voucherOf(`{"project":"demo","task":"t","fingerprint":"0123abcd","access":"read"}`)), 403, "may fetch and not push"},
		"another path":                      {a, get("/demo.git/config", good), 404, "not found"},
		"a path with dots":                  {a, get("/demo.git/../other.git/info/refs?service=git-upload-pack", good), 404, "not found"},
		"a path that is encoded":            {a, get("/d%65mo.git/info/refs?service=git-upload-pack", good), 404, "not found"},
		"another method":                    {a, strings.Replace(vouchedRequest(good), "GET", "PUT", 1), 405, "method not allowed"},
		"a whole URL":                       {a, strings.Replace(vouchedRequest(good), "GET /", "GET http://other/", 1), 421, ""},
		"HTTP/2 without asking":             {a, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404, ""},
		"HTTP/2 before 1.1":                 {offering(a, "h2", "http/1.1"), vouchedRequest(good), 200, "refs/heads/main"},
		"two vouchers, spelled otherwise":   {a, vouchedRequest(good, strings.Replace(good, "Terok", "tEROK", 1)), 403, only},
		"an empty voucher before":           {a, vouchedRequest("Terok-Gate-Voucher:", good), 403, only},
		"a voucher with another name":       {a, vouchedRequest(strings.Replace(good, "-", "_", 2)), 403, only},
		"a space before the colon":          {a, vouchedRequest(strings.Replace(good, ":", " :", 1)), 400, ""},
		"a voucher in two lines":            {a, vouchedRequest(good[:40] + "\r\n " + good[40:]), 403, only},
		"a voucher in the query":            {a, get("/demo.git/info/refs?service=git-upload-pack&Terok-Gate-Voucher=x"), 404, "not found"},
		"a voucher in a trailer": {a, head("POST /demo.git/git-receive-pack", "", receiveRequest, "Transfer-Encoding: chunked", "Trailer: Terok-Gate-Voucher") +
			"4\r\n0000\r\n0\r\n" + good + "\r\n\r\n", 403, only},
		"two lengths": {a, head("POST /demo.git/git-receive-pack", "", good, receiveRequest, "Content-Length: 4", "Content-Length: 5") + "0000", 400, ""},
		"chunks spelled otherwise": {a, head("POST /demo.git/git-receive-pack", "", good, receiveRequest, "Transfer-Encoding: xchunked") +
			"0\r\n\r\n", 501, ""},
		"many headers": {a, vouchedRequest(append(strings.Split(strings.Repeat("X: y,", 20_000)+"X: y", ","), good)...), 431, ""},
	} {
		code, text, err := f.ask(t, row.who, row.request)
		if err != nil || code != row.code || !strings.Contains(text, row.text) {
			t.Errorf("%s: %d %q, %v; want %d %q", name, code, text, err, row.code, row.text)
		}
	}
	if after := git(t, demo, "for-each-ref"); after != before {
		t.Errorf("the refs were %s and are %s", before, after)
	}

	// A push to a ref outside the voucher's limits is refused, as a push with a limited token is.
	limited := voucherOf(`,"push":[["refs/heads/agent/**"]]`)
	push := strings.Replace(pushRequest("", "report-status", fmt.Sprintf("%s %s refs/heads/mine", noObject, git(t, demo, "rev-parse", "main"))),
		"\r\n\r\n", "\r\n"+limited+"\r\n\r\n", 1)
	if code, text, err := f.ask(t, a, push); err != nil || code != 200 || !strings.Contains(text, "ng refs/heads/mine the token may push to refs/heads/agent/**") {
		t.Errorf("a push outside the limits: %d %q, %v", code, text, err)
	}
	if moved := f.repos.trailed(t, trail.Moved, 0); len(moved) > 0 {
		t.Errorf("moved: %+v", moved)
	}
}

// A container can send what it likes: its gate hands on none of that as it came, but writes a new
// request.
func TestAContainerForgesNoVoucher(t *testing.T) {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	demo := f.repos.demo(t, "demo", 1)
	f.repos.demo(t, "lib", 1)
	before := git(t, demo, "for-each-ref")
	token := "terok-g-22222222222222222222222222222222"
	f.host.put(t, token, `{"limited": {"project": "demo", "access": "read"}, "task": "1"}`)
	good := voucherOf(``)
	create := fmt.Sprintf("%s %s refs/heads/forged", noObject, git(t, demo, "rev-parse", "main"))
	fetch, push := "GET /demo.git/info/refs?service=git-upload-pack", "GET /demo.git/info/refs?service=git-receive-pack"
	smuggled := strings.ReplaceAll(pushRequest(token, "report-status", create), "\r\n\r\n", "\r\n"+good+"\r\n\r\n")

	for name, row := range map[string]struct {
		request string
		code    int
	}{
		"with its token":                  {head(fetch, token), 200},
		"a voucher and no token":          {strings.Replace(head(fetch, "x", good), "Authorization", "X-Other", 1), 401},
		"a voucher and a wrong token":     {head(fetch, "wrong", good), 403},
		"a voucher to push":               {head(push, token, good), 403},
		"two vouchers to push":            {head(push, token, good, good), 403},
		"a voucher to push, for one hop":  {head(push, token, good, "Connection: Terok-Gate-Voucher"), 403},
		"a voucher for another project":   {head("GET /lib.git/info/refs?service=git-upload-pack", token, voucherOf(`{"project":"lib","task":"t","fingerprint":"0123abcd","access":"write"}`)), 403},
		"a voucher beside a read":         {head(fetch, token, good), 200},
		"a push":                          {smuggled, 403},
		"two lengths":                     {head("POST /demo.git/git-upload-pack", token, "Content-Type: application/x-git-upload-pack-request", "Content-Length: 4", "Content-Length: 5") + "0000" + smuggled, 400},
		"a length with a sign":            {head("POST /demo.git/git-upload-pack", token, "Content-Type: application/x-git-upload-pack-request", "Content-Length: +4") + "0000" + smuggled, 400},
		"another transfer encoding":       {head("POST /demo.git/git-upload-pack", token, "Content-Type: application/x-git-upload-pack-request", "Transfer-Encoding: chunked, identity") + "0\r\n\r\n" + smuggled, 501},
		"a space before the colon":        {head(fetch, token, "Content-Length : 4"), 400},
		"a line that goes on":             {head(fetch, token, "X-A: b\r\n "+good), 200},
		"an upgrade":                      {head(fetch, token, "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAAP__"), 200},
		"a bare line feed in the query":   {head("GET /demo.git/info/refs?service=git-upload-pack\nX:y", token), 400},
		"an encoded line end in the path": {head("GET /demo.git%0d%0aX/info/refs?service=git-upload-pack", token), 404},
		"a path with dots":                {head("GET /demo.git/../lib.git/info/refs?service=git-upload-pack", token), 404},
		"a tunnel":                        {"CONNECT lib:9419 HTTP/1.1\r\nHost: lib:9419\r\n\r\n", 404},
		"a trace":                         {head("TRACE /demo.git/git-upload-pack", token), 405},
		"a voucher in a trailer": {head("POST /demo.git/git-receive-pack", token, receiveRequest, "Transfer-Encoding: chunked", "Trailer: Terok-Gate-Voucher") +
			"4\r\n0000\r\n0\r\n" + good + "\r\n\r\n", 403},
		"a request behind a request": {head(fetch, token) + smuggled, 200},
		"a header that is too long":  {head(fetch, token, "X-Long: "+strings.Repeat("x", 32<<10)), 431},
		"a protocol with more in it": {head(fetch, token, "Git-Protocol: version=2:x=y\tz"), 200},
	} {
		conn := f.host.dial(t, row.request)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || answer.StatusCode != row.code {
			t.Errorf("%s: %+v, %v; want %d", name, answer, err, row.code)
		}
		conn.Close()
	}

	if after := git(t, demo, "for-each-ref"); after != before {
		t.Errorf("the refs were %s and are %s", before, after)
	}
	f.repos.mu.Lock()
	defer f.repos.mu.Unlock()
	for _, e := range f.repos.events {
		t.Errorf("the repository gate was asked for more than refs: %+v", e)
	}
}

func TestAVoucherCountsOnlyAtTheListenerForHosts(t *testing.T) {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	f.repos.demo(t, "demo", 1)
	f.repos.demo(t, "lib", 1)
	token := f.repos.issue(t, "lib")
	const fetch = "GET /demo.git/info/refs?service=git-upload-pack"
	for name, row := range map[string]struct {
		request string
		code    int
	}{
		"no token":                 {strings.Replace(head(fetch, "x", voucherOf(``)), "Authorization", "X-Other", 1), 401},
		"a wrong token":            {head(fetch, "wrong", voucherOf(``)), 403},
		"another project's token":  {head(fetch, token, voucherOf(``)), 403},
		"that project's own token": {head("GET /lib.git/info/refs?service=git-upload-pack", token, voucherOf(``)), 200},
	} {
		answer, err := http.ReadResponse(bufio.NewReader(f.repos.dial(t, row.request)), nil)
		if err != nil || answer.StatusCode != row.code {
			t.Errorf("%s: %+v, %v; want %d", name, answer, err, row.code)
		}
	}
}
