// What the files in the container's folder say: gate.env and, with a gate URL, a
// gitconfig. (Whose they are, and with which mode, is in injection.go.)

package hook

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"terok-gate-hook/store"
)

type file struct {
	name    text
	content []byte
}

// files returns the content of the folder at mountPath. An empty mountPath means
// that there is no folder, on the host: then the env file stands alone, without
// git's set-up, which would have to point to a file beside it. Nor is there any for an
// empty token, one that is withheld. More variables may follow.
//
// No value needs quoting, so the env file reads the same for a POSIX shell, for
// podman's --env-file and for systemd's EnvironmentFile=.
func files(gateURL, mountPath string, token store.Token, grant store.Grant, gitConfigCount int, more ...[2]string) []file {
	var variables [][2]string
	if token != "" {
		variables = append(variables, [2]string{"TEROK_GATE_TOKEN", string(token)})
	}
	variables = append(variables, [2]string{"TEROK_PROJECT", grant.Project}, [2]string{"TEROK_TASK", grant.Task})
	if gateURL != "" {
		variables = append(variables, addressVariables(gateURL, grant)...)
	}
	withGit := gateURL != "" && mountPath != "" && token != ""
	if withGit {
		variables = append(variables, gitVariables(mountPath, gitConfigCount)...)
	}
	var env []byte
	for _, v := range append(variables, more...) {
		env = fmt.Appendf(env, "%s=%s\n", v[0], v[1])
	}
	files := []file{{"gate.env", env}}
	if withGit {
		files = append(files, file{"gitconfig", gitConfig(gateURL, token)})
	}
	return files
}

// addressVariables say where the gate and the project's repository are. The URLs do not
// hold the token: git would write it into .git/config.
func addressVariables(gateURL string, grant store.Grant) [][2]string {
	gateURL = strings.TrimSuffix(gateURL, "/")
	return [][2]string{
		{"TEROK_GATE_URL", gateURL},
		{"CODE_REPO", gateURL + "/" + grant.Project + ".git"},
	}
}

// noProxyVariables keep requests to a host from the proxies that the container's
// environment names: podman passes the host's in, and those know nothing of what is in
// the container's own network. What is in the lists already stays, if it needs no
// quoting. Some programs look for the one name, some for the other.
func noProxyVariables(env []string, host string) [][2]string {
	lists := map[string]string{}
	for _, variable := range env {
		if name, value, _ := strings.Cut(variable, "="); name == "no_proxy" || name == "NO_PROXY" {
			lists[name] = value
		}
	}
	var variables [][2]string
	for _, names := range [][2]string{{"no_proxy", "NO_PROXY"}, {"NO_PROXY", "no_proxy"}} {
		list, ok := lists[names[0]]
		if !ok {
			list = lists[names[1]]
		}
		hosts := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
		hosts = slices.DeleteFunc(hosts, func(h string) bool { return h == host || !plain(h, ":/._-[]") && h != "*" })
		variables = append(variables, [2]string{names[0], strings.Join(append(hosts, host), ",")})
	}
	return variables
}

// gitVariables make git include the gitconfig, going on from count other entries of
// its configuration from the environment (git-config(1), "ENVIRONMENT").
func gitVariables(mountPath string, count int) [][2]string {
	index := strconv.Itoa(count)
	return [][2]string{
		{"GIT_CONFIG_COUNT", strconv.Itoa(count + 1)},
		{"GIT_CONFIG_KEY_" + index, "include.path"},
		{"GIT_CONFIG_VALUE_" + index, path.Join(mountPath, "gitconfig")},
	}
}

// gitConfig makes git send the token to the gate and nowhere else. The gate takes
// the Basic user name and ignores the password.
//
// The empty extraHeader comes first since values add up: a file that is included twice
// must send one header, not two. Git would follow a redirect of its first request to
// another server, and send the header there with the requests after it (seen with git
// 2.39.5). The empty proxy overrules those of the environment, into which podman puts
// the host's. Being set for the gate's URL, all of this takes precedence over what is
// set for every URL; coming from the environment, also over what a repository sets for
// the gate's URL (git-config(1), http.<url>.*). A repository can still overrule it by a
// more specific name: http.<its URL>.proxy, remote.<name>.proxy.
func gitConfig(gateURL string, token store.Token) []byte {
	gateURL = strings.TrimSuffix(gateURL, "/")
	basic := base64.StdEncoding.EncodeToString([]byte(string(token) + ":"))
	return fmt.Appendf(nil, "[http %q]\n\textraHeader =\n\textraHeader = Authorization: Basic %s\n"+
		"\tfollowRedirects = false\n\tproxy =\n", gateURL, basic)
}

// gitConfigCount returns where git's configuration from the environment goes on:
// the GIT_CONFIG_COUNT of the container's own environment, less one if its last
// entry is ours already (git-config(1), "ENVIRONMENT").
func gitConfigCount(env []string, mountPath string) (int, error) {
	var count int
	values := map[string]string{}
	for _, variable := range env {
		name, value, _ := strings.Cut(variable, "=")
		values[name] = value
	}
	if value := values["GIT_CONFIG_COUNT"]; value != "" {
		var err error
		const most = 1 << 20
		if count, err = strconv.Atoi(value); err != nil || count < 0 || count > most {
			return 0, instead("the container's environment has a GIT_CONFIG_COUNT that git rejects",
				fmt.Errorf("the container's environment has GIT_CONFIG_COUNT=%.32q, which git rejects", value))
		}
	}
	last := strconv.Itoa(count - 1)
	if values["GIT_CONFIG_KEY_"+last] == "include.path" && values["GIT_CONFIG_VALUE_"+last] == path.Join(mountPath, "gitconfig") {
		count--
	}
	return count, nil
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

// checkMountPath admits an absolute path below the root that needs no quoting.
func checkMountPath(s string) error {
	if !plain(s, "/._-") || !path.IsAbs(s) || path.Clean(s) != s || s == "/" {
		return errors.New("use an absolute path of letters, digits and /._- only, without '..', below /")
	}
	return nil
}

// plain tells whether s consists of letters, digits and the others.
func plain(s, others string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(others, c) >= 0) {
			return false
		}
	}
	return true
}
