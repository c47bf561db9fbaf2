// Parses a request's path, method and headers.

package gate

import (
	"net"
	"net/http"
	"slices"
	"strings"

	"terok-gate-hook/store"
)

// service is one of git's two services, with the name of the program that serves it.
type service string

const (
	uploadPack  service = "git-upload-pack"  // clone and fetch
	receivePack service = "git-receive-pack" // push
)

// route is the parsed form of a request.
type route struct {
	project   string
	service   service
	advertise bool   // asks for refs or capabilities (GET), not for an exchange (POST)
	protocol  string // for GIT_PROTOCOL, empty for version 0
}

// command returns the git command that serves the service.
func (s service) command() string { return strings.TrimPrefix(string(s), "git-") }

// contentType returns the content type of git's answer.
func (r route) contentType() string {
	if r.advertise {
		return "application/x-" + string(r.service) + "-advertisement"
	}
	return "application/x-" + string(r.service) + "-result"
}

// routeOf parses a request. It accepts the four requests of git's smart protocol
// (gitprotocol-http(5)), and refuses all others.
//
// Paths are compared as they were sent: a path that needs decoding is not found.
func routeOf(r *http.Request, hosts []string) (route, *refusal) {
	name, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	project := strings.TrimSuffix(name, ".git") // people leave the suffix out
	if store.CheckName(project) != nil {
		return route{}, notFound
	}

	asked := route{project: project, protocol: protocolOf(r.Header)}
	method := http.MethodPost
	switch {
	case rest == "info/refs" && (r.URL.RawQuery == "service="+string(uploadPack) || r.URL.RawQuery == "service="+string(receivePack)):
		asked.service = service(strings.TrimPrefix(r.URL.RawQuery, "service="))
		asked.advertise = true
		method = http.MethodGet
	case (rest == string(uploadPack) || rest == string(receivePack)) && r.URL.RawQuery == "":
		asked.service = service(rest)
	default:
		return route{}, notFound
	}

	if r.Method != method {
		return route{}, wrongMethod(method)
	}
	// The Host header does not matter if the client has shown a certificate.
	if r.URL.Host != "" || r.TLS == nil && !isOurs(r.Host, hosts) {
		return route{}, misdirected
	}
	return asked, nil
}

// isOurs reports whether a Host header is an address or one of the gate's names. An attacker can
// make any other name resolve to the gate's address, and so make a browser send requests to the
// gate.
func isOurs(host string, hosts []string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	return net.ParseIP(host) != nil || host == "localhost" || slices.Contains(hosts, host)
}

// protocolOf returns the highest protocol version in the header Git-Protocol, such as version=2.
// That header is a list of keys and values, and git gets nothing else from it.
func protocolOf(h http.Header) string {
	version := ""
	for _, key := range strings.Split(h.Get("Git-Protocol"), ":") {
		if (key == "version=1" || key == "version=2") && key > version {
			version = key
		}
	}
	return version
}

// checkBody refuses a POST whose headers say that the body is not git's, or that it is too large.
func checkBody(r *http.Request, asked route, maxPush int64) *refusal {
	if r.Header.Get("Content-Type") != "application/x-"+string(asked.service)+"-request" {
		return wrongType
	}
	switch r.Header.Get("Content-Encoding") {
	case "", "identity", "gzip", "x-gzip":
	default:
		return wrongType
	}

	switch {
	case asked.service == receivePack && r.ContentLength > maxPush:
		return tooLargePush(maxPush)
	case asked.service == uploadPack && r.ContentLength > maxFetch:
		return tooLarge
	}
	return nil
}
