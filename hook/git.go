// Configures git in a container for the gate and for who commits: files beside gate.env,
// and the variables that point to them.

package hook

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"terok-gate-hook/store"
)

// gitPointers are the variables that have git read the files beside gate.env. Each is one
// variable, so that it is there or not as a whole: programs filter the environment by the
// names of variables, and git fails if GIT_CONFIG_COUNT is there and GIT_CONFIG_KEY_0 is
// not. What a pointer replaces goes on to count.
type gitPointers struct {
	// parameters is GIT_CONFIG_PARAMETERS, what git -c itself sets: above a repository's
	// configuration, and no GIT_CONFIG_NOSYSTEM leaves it out. It is documented nowhere;
	// tests run it with every git that we can have.
	parameters string
	include    string // our own part of it

	// GIT_CONFIG_SYSTEM points to gitidentity: below a user's and a repository's
	// configuration, for an identity is a default and not a limit.
	identity bool
	file     string // gitidentity
	system   string // what gitidentity includes first; empty for nothing
	replaces string // the container's own GIT_CONFIG_SYSTEM
	replaced bool   // there is one
}

const (
	parametersName = "GIT_CONFIG_PARAMETERS"
	systemName     = "GIT_CONFIG_SYSTEM"

	// ownSystemName hands the container's own GIT_CONFIG_SYSTEM from precreate, which
	// replaces it, on to prestart.
	ownSystemName = "TEROK_GIT_CONFIG_SYSTEM"

	systemsOwn = "/etc/gitconfig"
)

// gitPointers returns the pointers for a container whose own environment is env, in which
// precreate may have set them already.
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
	// A path that an include cannot stand for stays in force, without an identity of ours.
	p.identity = s.identity() != "" && (p.system == "" || path.IsAbs(p.system) && printable(p.system))
	return p, nil
}

// lookUp returns a variable of the environment env: of two of a name, the last.
func lookUp(env []string, name string) (value string, found bool) {
	for _, entry := range env {
		if entry, is := strings.CutPrefix(entry, name+"="); is {
			value, found = entry, true
		}
	}
	return value, found
}

func (p gitPointers) variables() []variable {
	variables := []variable{{parametersName, p.parameters}}
	if p.identity {
		variables = append(variables, variable{systemName, p.file})
	}
	return variables
}

// remembered is what prestart needs to know of what precreate replaces.
func (p gitPointers) remembered() []variable {
	if p.identity && p.replaced {
		return []variable{{ownSystemName, p.replaces}}
	}
	return nil
}

// unquoted are lines for readers of gate.env that take quotes for part of a value, as
// podman's --env-file does. For them the second line is one of its own, which overrules
// what they read before; for all others it is part of a value that has no meaning.
func (p gitPointers) unquoted() string {
	return "# For podman run --env-file, which knows no quotes:\n" +
		"TEROK_UNQUOTED=\"\n" + parametersName + "=" + p.include + "\n\"\n"
}

// addParameter adds one to a GIT_CONFIG_PARAMETERS, if it is not the last one already.
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

// skipQuoted returns what follows a word that git has quoted (sq_quote_buf in its quote.c):
// in single quotes, which end for each quote or exclamation mark in it.
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

// credential is the token as git's credential helpers print it. The gate takes the Basic
// user name and ignores the password, which some clients want not to be empty.
func credential(token store.Token) []byte {
	return fmt.Appendf(nil, "username=%s\npassword=x\n", string(token))
}

// gitConfig makes git send the token to the gate and nowhere else. It holds no secret.
//
// The empty extraHeader and helper end what a repository, of an earlier life say, sets for
// the gate's URL. Git would follow a redirect of its first request to another server, and
// send the token there with the requests after it (seen with git 2.39.5). The empty proxy
// overrules those of the environment, into which podman puts the host's. Being set for the
// gate's URL, all of this takes precedence over what is set for every URL; coming by
// GIT_CONFIG_PARAMETERS, also over what a repository sets for the gate's URL
// (git-config(1), http.<url>.*). A repository can still overrule it by a more specific
// name: http.<its URL>.proxy, remote.<name>.proxy.
//
// The helper ends git for a user who may not read the credential, who would otherwise be
// asked for a user name. From 2.46 on git asks it before its first request (proactiveAuth),
// which is then the only one.
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
			`or have podman run --annotation terok.env-mode=0444 the container" >&2; echo quit=1; }; f`, path.Join(mountPath, "credential"))
		config = fmt.Appendf(config, "\thelper = %s\n", quoteForGit(helper))
	}
	return config
}

// gitIdentity is a system's configuration for git that begins with another, if there is one.
func gitIdentity(identity, system string, grant store.Grant, container string) (config []byte) {
	for placeholder, name := range map[string]string{"{project}": grant.Project, "{task}": grant.Task, "{container}": container} {
		identity = strings.ReplaceAll(identity, placeholder, name) // no name has a brace
	}
	name, email, _ := splitIdentity(identity)
	if system != "" {
		config = fmt.Appendf(config, "[include]\n\tpath = %s\n", quoteForGit(system))
	}
	return fmt.Appendf(config, "[user]\n\tname = %s\n\temail = %s\n", quoteForGit(name), quoteForGit(email))
}

// quoteForGit quotes a value that has no control characters for git's configuration.
func quoteForGit(value string) string { return quoted(value, `\"`) }

// splitIdentity takes NAME <EMAIL> apart, which must be what git makes a commit with.
func splitIdentity(identity string) (name, email string, err error) {
	name, email, found := strings.Cut(identity, " <")
	email, ends := strings.CutSuffix(email, ">")
	if !found || !ends || strings.ContainsAny(name+email, "<>") || strings.Contains(email, " ") ||
		!hasLetter(name) || !hasLetter(email) || !printable(identity) {
		return "", "", errors.New("is not of the form NAME <EMAIL>")
	}
	return name, email, nil
}

// hasLetter reports whether s has more than what git cuts off a name.
func hasLetter(s string) bool {
	return strings.ContainsFunc(s, func(c rune) bool { return c > 0x7f || plain(string(c), "") })
}

// printable reports whether s has no control characters.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f })
}
