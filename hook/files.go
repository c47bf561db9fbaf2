// What the files in the container's directory say: gate.env and, with a gate URL, git's
// set-up. (Whose they are, and with which mode, is in mount.go.)

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
	public  bool // holds no secret: every user of the container may read it
}

type variable struct{ name, value string }

// files returns the content of the directory in the container with that id, whose own
// environment is env. An empty token is one that is withheld.
//
// The token is in files apart from git's configuration: git fails, git status too, if it
// is pointed to a file that it may not read, and a process can become another user.
func (s Settings) files(want request, token store.Token, container string, env []string) ([]file, error) {
	if s.URL() == "" {
		return []file{{name: "gate.env", content: envFile(s.variables(want, token, env))}}, nil
	}
	git, err := s.gitPointers(env)
	if err != nil {
		return nil, err
	}

	content := envFile(append(s.variables(want, token, env), git.variables()...))
	files := []file{{name: "gate.env", content: append(content, git.unquoted()...)}}
	if token != "" {
		files = append(files, file{name: "credential", content: credential(token)})
	}
	files = append(files, file{name: "gitconfig", content: gitConfig(s.URL(), MountPath, token != ""), public: true})
	if git.identity {
		identity := gitIdentity(s.identity(), git.system, want.Grant, container)
		files = append(files, file{name: "gitidentity", content: identity, public: true})
	}
	return files, nil
}

// variables are those of gate.env that are not git's.
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
	variables = append(variables, rightsVariables(want.Limits)...)
	return append(variables, s.noProxy(env)...)
}

// envFile is gate.env. It reads the same for a POSIX shell and for systemd's
// EnvironmentFile=; and, as long as no value needs quoting, for podman's --env-file.
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

// quoted puts a value in double quotes, and a backslash before each of some characters.
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

// addressVariables say where the gate and the project's repository are. The URLs do not
// hold the token: git would write it into .git/config.
func addressVariables(gateURL string, grant store.Grant) []variable {
	gateURL = strings.TrimSuffix(gateURL, "/")
	return []variable{
		{"TEROK_GATE_URL", gateURL},
		{"CODE_REPO", gateURL + "/" + grant.Project + ".git"},
	}
}

// rightsVariables say what the container may do, so that it need not find out by trying.
// A ref may be pushed to if it matches one pattern of each list; no pattern holds a comma
// or a colon.
func rightsVariables(limits store.Limits) []variable {
	variables := []variable{{"TEROK_ACCESS", limits.Access()}}
	if !limits.ReadOnly && len(limits.Push) > 0 {
		var lists []string
		for _, list := range limits.Push {
			lists = append(lists, strings.Join(list, ","))
		}
		variables = append(variables, variable{"TEROK_PUSH", strings.Join(lists, ":")})
	}
	return variables
}

// noProxyVariables keep requests to a host from the proxies that the container's
// environment names: podman passes the host's in, and those know nothing of what is in
// the container's own network. What is in the lists already stays, if it needs no
// quoting. Some programs look for the one name, some for the other.
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

// checkGateURL admits a URL that needs no quoting anywhere: in a shell, in git's
// configuration, in systemd's.
func checkGateURL(s string) error {
	const form = "is not of the form http[s]://host[:port][/path]"
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return errors.New(form)
	}
	if u.User != nil {
		return errors.New("holds credentials, which the hook adds by itself")
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

// plain reports whether s consists of letters, digits and the others.
func plain(s, others string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(others, c) >= 0) {
			return false
		}
	}
	return true
}
