// Reads the address of the gate with the repositories.

package mtls

import (
	"errors"
	"net"
	"net/url"
	"strings"
)

// URL is the address of the gate with the repositories. {project} in its host stands for the
// project, so that different projects can have their repositories at different gates.
type URL string

const projectPlaceholder = "{project}"

// ParseURL reads an address such as https://{project}.git.example:9419.
func ParseURL(text string) (URL, error) {
	u, err := url.Parse(strings.ReplaceAll(text, projectPlaceholder, "project"))
	switch {
	case err != nil:
		return "", errors.New("not a URL")
	case u.Scheme != "https":
		return "", errors.New("must begin with https://")
	case u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return "", errors.New("must be https://HOST or https://HOST:PORT alone")
	case strings.Contains(u.Port(), "project"):
		return "", errors.New("{project} must be in the name of the host")
	}
	return URL(strings.TrimRight(text, "/")), nil
}

// Address returns the host:port of the gate that has a project.
func (u URL) Address(project string) string {
	host := strings.TrimPrefix(strings.ReplaceAll(string(u), projectPlaceholder, project), "https://")
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), "443")
}
