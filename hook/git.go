// Configures git in a container: how to reach the gate, and the identity for commits. It
// makes files beside gate.env and variables that point to them.

package hook

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"terok-gate-hook/store"
)

// gitPointers are the variables that make git read the files beside gate.env. The
// container's own values of these variables stay in force as well.
//
// One variable is enough for each file. GIT_CONFIG_COUNT is avoided: programs that filter the
// environment by name may drop GIT_CONFIG_KEY_0 alone, and then git fails.
type gitPointers struct {
	// parameters is the value of GIT_CONFIG_PARAMETERS, which git -c sets, too. This variable
	// overrides a repository's configuration, and GIT_CONFIG_NOSYSTEM does not turn it off. Git does
	// not document the variable; tests try it with every version of git that we can get.
	parameters string
	include    string // our own entry in parameters

	// With identity, GIT_CONFIG_SYSTEM points to gitidentity. A user's and a repository's
	// configuration override that file: an identity is a default, not a limit.
	identity bool
	file     string // gitidentity
	system   string // the file that gitidentity includes first; empty for none
	replaces string // the container's own GIT_CONFIG_SYSTEM
	replaced bool   // whether there is one
}

const (
	parametersName = "GIT_CONFIG_PARAMETERS"
	systemName     = "GIT_CONFIG_SYSTEM"

	// ownSystemName holds the container's own GIT_CONFIG_SYSTEM, which precreate replaces
	// and prestart needs to know.
	ownSystemName = "TEROK_GIT_CONFIG_SYSTEM"

	systemsOwn = "/etc/gitconfig"
)

// gitPointers returns the pointers for a container with the environment env. Precreate may
// have set them there already.
func (s Settings) gitPointers(env []string) (p gitPointers, err error) {
	p.include = "'include.path=" + path.Join(MountPath, "gitconfig") + "'"
	parameters, _ := lookUp(env, parametersName)
	if p.parameters, err = addParameter(parameters, p.include); err != nil {
		return p, err
	}

	p.file, p.system = path.Join(MountPath, "gitidentity"), systemsOwn
	p.replaces, p.replaced = lookUp(env, systemName)
	if p.replaced && p.replaces == p.file {
		p.replaces, p.replaced = lookUp(env, ownSystemName)
	}
	if p.replaced {
		p.system = p.replaces
	}
	// If no include can name the container's own file, that file stays in force, without our identity.
	p.identity = s.identity() != "" && (p.system == "" || path.IsAbs(p.system) && printable(p.system))
	return p, nil
}

// lookUp returns the value of a variable in env, the last one if there are several.
func lookUp(env []string, name string) (value string, found bool) {
	for _, entry := range env {
		if entry, is := strings.CutPrefix(entry, name+"="); is {
			value, found = entry, true
		}
	}
	return value, found
}

// variables returns the pointers as variables.
func (p gitPointers) variables() []variable {
	variables := []variable{{parametersName, p.parameters}}
	if p.identity {
		variables = append(variables, variable{systemName, p.file})
	}
	return variables
}

// remembered returns the variable from which prestart learns the value that precreate has replaced.
func (p gitPointers) remembered() []variable {
	if p.identity && p.replaced {
		return []variable{{ownSystemName, p.replaces}}
	}
	return nil
}

// unquoted returns lines for readers of gate.env that take quotes for part of a value, as
// podman's --env-file does. They read GIT_CONFIG_PARAMETERS from a line of its own, which
// overrides the quoted one above. All other readers take that line as part of the value of
// TEROK_UNQUOTED, which nothing uses.
func (p gitPointers) unquoted() string {
	return "# For podman run --env-file, which knows no quotes:\n" +
		"TEROK_UNQUOTED=\"\n" + parametersName + "=" + p.include + "\n\"\n"
}

// addParameter returns the value of GIT_CONFIG_PARAMETERS with the parameter as its last entry. A value
// that git rejects is an error.
func addParameter(value, parameter string) (string, error) {
	const blank = " \t\r\n"
	for rest := value; rest != ""; rest = strings.TrimLeft(rest, blank) {
		var ok bool
		rest, ok = skipQuoted(rest)
		if ok && strings.HasPrefix(rest, "=") { // 'key'='value' and 'key'=, since git 2.31
			if rest = rest[1:]; strings.HasPrefix(rest, "'") {
				rest, ok = skipQuoted(rest)
			}
		}
		if !ok || rest != "" && !strings.Contains(blank, rest[:1]) {
			return "", instead("the container's environment has a GIT_CONFIG_PARAMETERS that git rejects",
				fmt.Errorf("the container's environment has %s=%.32q, which git rejects", parametersName, value))
		}
	}

	switch before, found := strings.CutSuffix(value, parameter); {
	case value == "":
		return parameter, nil
	case found && (before == "" || strings.Contains(blank, before[len(before)-1:])):
		return value, nil
	}
	return value + " " + parameter, nil
}

// skipQuoted returns what follows a word that git has quoted (sq_quote_buf in its quote.c).
// The word is in single quotes, which end before each quote and exclamation mark in it, and begin again
// after that.
func skipQuoted(s string) (rest string, ok bool) {
	if !strings.HasPrefix(s, "'") {
		return s, false
	}
	for s = s[1:]; ; s = rest[len(`\''`):] {
		if _, rest, ok = strings.Cut(s, "'"); !ok {
			return s, false
		}
		if !strings.HasPrefix(rest, `\''`) && !strings.HasPrefix(rest, `\!'`) {
			return rest, true
		}
	}
}

// credential returns the token in the form that git's credential helpers print. The gate
// reads the user name and ignores the password, which some clients do not allow to be empty.
func credential(token store.Token) []byte {
	return fmt.Appendf(nil, "username=%s\npassword=x\n", string(token))
}

// gitConfig returns the configuration that makes git send the token to the gate and nowhere
// else. The configuration holds no secret.
//
// The empty extraHeader and helper clear the values that a repository has for the gate's URL, for
// example from an earlier container. Without followRedirects = false, git would follow a redirect of its
// first request to another server, and send the token there with the next requests (seen
// with git 2.39.5). The empty proxy overrides the environment's proxy, which podman
// copies from the host.
//
// These settings are for the gate's URL, so they take precedence over settings for all URLs.
// They come from GIT_CONFIG_PARAMETERS, so they also take precedence over a repository's own
// settings for the gate's URL (git-config(1), http.<url>.*). A repository can still override
// them with a more specific name: http.<its URL>.proxy, remote.<name>.proxy.
//
// If the user may not read the credential, the helper ends git, which would otherwise ask for
// a user name. Git 2.46 and later call the helper before the first request (proactiveAuth),
// and so need no second request.
func gitConfig(gateURL, mountPath string, withToken bool) []byte {
	gateURL = strings.TrimSuffix(gateURL, "/")
	config := fmt.Appendf(nil, "[http %q]\n\textraHeader =\n\tfollowRedirects = false\n\tproxy =\n", gateURL)
	if withToken {
		config = append(config, "\tproactiveAuth = basic\n"...)
	}
	config = fmt.Appendf(config, "[credential %q]\n\thelper =\n", gateURL)
	if withToken {
		helper := fmt.Sprintf(`!f() { test "$1" = get || exit 0; cat %[1]s 2>/dev/null && exit; `+
			`echo "terok-gate: this user may not read %[1]s: run git as the user of the container's first process, `+
			`or start the container with --annotation terok.env-mode=0444" >&2; echo quit=1; }; f`, path.Join(mountPath, "credential"))
		config = fmt.Appendf(config, "\thelper = %s\n", quoteForGit(helper))
	}
	return config
}

// gitIdentity returns a system configuration for git with the identity of the container's
// commits. The configuration first includes the file base, unless base is empty.
func gitIdentity(identity, base string, grant store.Grant, container string) (config []byte) {
	for placeholder, name := range map[string]string{"{project}": grant.Project, "{task}": grant.Task, "{container}": container} {
		identity = strings.ReplaceAll(identity, placeholder, name) // no name has a brace
	}

	name, email, _ := splitIdentity(identity)
	if base != "" {
		config = fmt.Appendf(config, "[include]\n\tpath = %s\n", quoteForGit(base))
	}
	return fmt.Appendf(config, "[user]\n\tname = %s\n\temail = %s\n", quoteForGit(name), quoteForGit(email))
}

// quoteForGit quotes a value for git's configuration. The value must have no control characters.
func quoteForGit(value string) string { return quoted(value, `\"`) }

// splitIdentity splits NAME <EMAIL>. It refuses names that git would not accept or would change.
func splitIdentity(identity string) (name, email string, err error) {
	name, email, found := strings.Cut(identity, " <")
	email, ends := strings.CutSuffix(email, ">")
	if !found || !ends || strings.ContainsAny(name+email, "<>") || strings.Contains(email, " ") ||
		!hasLetter(name) || !hasLetter(email) || !printable(identity) {
		return "", "", errors.New("is not of the form NAME <EMAIL>")
	}
	return name, email, nil
}

// hasLetter reports whether s has a letter, a digit or a character that is not ASCII. Git refuses a name
// that has only characters that git strips.
func hasLetter(s string) bool {
	return strings.ContainsFunc(s, func(c rune) bool { return c > 0x7f || plain(string(c), "") })
}

// printable reports whether s has no control characters.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f })
}
