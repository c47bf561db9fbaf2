// Composes the files in the container's directory: gate.env and, with a gate URL, git's
// configuration. (mount.go sets their owner and mode.)

package hook

import (
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"terok-gate-hook/store"
)

type file struct {
	name    text
	content []byte
	public  bool // no secret: every user of the container may read it
}

type variable struct{ name, value string }

// files returns the files for a container. container is its id, and env is its own environment. If
// token is empty, no file holds a token.
//
// Every user may read git's configuration, so it does not hold the token. A process can become
// another user: if that user could not read the configuration, every git command would fail, even
// git status.
func (s Settings) files(want request, token store.Token, container string, env []string) ([]file, error) {
	if s.URL() == "" {
		return []file{{name: "gate.env", content: envFile(s.variables(want, token, env))}}, nil
	}
	git, err := s.gitPointers(env)
	if err != nil {
		return nil, err
	}

	variables := append(s.variables(want, token, env), git.variables()...)
	if len(want.addresses) > 0 {
		variables = append(variables, privateModules(env, want.addresses)...)
	}
	content := envFile(variables)
	files := []file{{name: "gate.env", content: append(content, git.unquoted()...)}}
	if token != "" {
		files = append(files, file{name: "credential", content: credential(token)})
	}
	config := append(gitConfig(s.URL(), MountPath, token != ""), rewriting(s.URL(), want.addresses)...)
	files = append(files, file{name: "gitconfig", content: config, public: true})
	if git.identity {
		identity := gitIdentity(s.identity(), git.system, want.Grant, container)
		files = append(files, file{name: "gitidentity", content: identity, public: true})
	}
	return files, nil
}

// variables returns the variables of gate.env, except git's.
func (s Settings) variables(want request, token store.Token, env []string) []variable {
	var variables []variable
	if token != "" {
		variables = append(variables, variable{"TEROK_GATE_TOKEN", string(token)})
	}
	variables = append(variables, variable{"TEROK_PROJECT", want.Project}, variable{"TEROK_TASK", want.Task})
	if s.URL() == "" {
		return variables
	}

	variables = append(variables, addressVariables(s.URL(), want.Grant)...)
	variables = append(variables, rightsVariables(want)...)
	variables = append(variables, s.serviceVariables(want.services)...)
	return append(variables, s.noProxy(env)...)
}

// envFile returns the content of gate.env. A POSIX shell and systemd's EnvironmentFile= read the same
// values from it. Podman's --env-file does so for values that need no quoting.
func envFile(variables []variable) (content []byte) {
	for _, v := range variables {
		value := v.value
		if !plain(value, "/:._-~[],+@=#*") {
			value = quoted(value, "\\\"$`")
		}
		content = append(content, v.name+"="+value+"\n"...)
	}
	return content
}

// quoted returns the value in double quotes, with a backslash before each of the escaped
// characters.
func quoted(value, escaped string) string {
	quoted := []byte{'"'}
	for i := range len(value) {
		if strings.IndexByte(escaped, value[i]) >= 0 {
			quoted = append(quoted, '\\')
		}
		quoted = append(quoted, value[i])
	}
	return string(append(quoted, '"'))
}

// addressVariables returns the URLs of the gate and of the project's repository. The URLs do not
// hold the token: git would write it into .git/config.
func addressVariables(gateURL string, grant store.Grant) []variable {
	gateURL = strings.TrimSuffix(gateURL, "/")
	return []variable{
		{"TEROK_GATE_URL", gateURL},
		{"CODE_REPO", gateURL + "/" + grant.Project + ".git"},
	}
}

// rightsVariables returns variables that say what the container may do in its own project, and
// which other projects it may use. TEROK_PUSH has one or several lists of patterns: a ref must match
// one pattern of each list. Commas separate patterns, or projects, and colons separate lists: a
// pattern contains neither.
func rightsVariables(want request) []variable {
	limits, _ := store.Entry{Grant: want.Grant, Limits: want.Limits}.In(want.Project)
	variables := []variable{{"TEROK_ACCESS", limits.Access()}}
	if !limits.ReadOnly && len(limits.Push) > 0 {
		var lists []string
		for _, list := range limits.Push {
			lists = append(lists, strings.Join(list, ","))
		}
		variables = append(variables, variable{"TEROK_PUSH", strings.Join(lists, ":")})
	}
	for _, others := range [][2]string{{"TEROK_READ", store.AccessRead}, {"TEROK_WRITE", store.AccessWrite}} {
		if projects := want.With(others[1]); projects != nil {
			variables = append(variables, variable{others[0], strings.Join(projects, ",")})
		}
	}
	return variables
}

// noProxyVariables returns variables that keep requests to a host away from the proxies that
// the container's environment names. (Podman passes in the machine's proxies, which cannot reach a
// host in the container's own network.) The variables keep the entries that they have, except those
// that need quoting. Both no_proxy and NO_PROXY are set, since programs differ in which they read.
func noProxyVariables(env []string, host string) []variable {
	lists := map[string]string{}
	for _, entry := range env {
		if name, value, _ := strings.Cut(entry, "="); name == "no_proxy" || name == "NO_PROXY" {
			lists[name] = value
		}
	}

	var variables []variable
	for _, names := range [][2]string{{"no_proxy", "NO_PROXY"}, {"NO_PROXY", "no_proxy"}} {
		list, ok := lists[names[0]]
		if !ok {
			list = lists[names[1]]
		}

		hosts := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
		hosts = slices.DeleteFunc(hosts, func(h string) bool { return h == host || !plain(h, ":/._-[]") && h != "*" })
		variables = append(variables, variable{names[0], strings.Join(append(hosts, host), ",")})
	}
	return variables
}

// checkGateURL refuses a URL that no gate can have, or that would need quoting in a shell, in git's
// configuration or in systemd's files.
func checkGateURL(s string) error {
	const form = "is not of the form http[s]://host[:port][/path]"
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return errors.New(form)
	}

	if u.User != nil {
		return errors.New("holds credentials: remove them, since the hook adds the token by itself")
	}
	if !plain(s, ":/._-~[]") {
		return errors.New("use letters, digits and :/._-~[] only")
	}
	if u.Port() != "" {
		if _, err := strconv.ParseUint(u.Port(), 10, 16); err != nil {
			return errors.New("there is no such port")
		}
	}
	return nil
}

// plain reports whether s consists of ASCII letters, digits and the other characters.
func plain(s, others string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(others, c) >= 0) {
			return false
		}
	}
	return true
}
