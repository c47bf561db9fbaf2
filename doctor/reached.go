// Reports whether git in a probe's container reached the gate.

package doctor

import (
	"fmt"
	"strings"

	"terok-gate-hook/internal/printable"
)

func (e *examination) gate() { e.reached(e.probed) }

// reached reports whether git in a probe's container reached the gate, and why it did not.
func (e *examination) reached(p *probed) {
	const table = "see “How a container reaches a gate” in other-gates.md, in /usr/share/doc/terok-gate-hook, or in docs/ of the sources"
	if p == nil || p.repository == "" {
		return
	}

	if p.saw("gate") {
		e.ok(p.repository + " can be read from a container, with a fresh token")
		return
	}
	if p.saw("no git") {
		e.warn("not tried: there is no git in the probe container", packages([]string{"git"}, []string{"git"}, "install git here")+"; or try an image that has git: "+e.again("--image", "IMAGE"))
		return
	}
	if p.saw("no CODE_REPO") {
		anew := e.install("--gate-url", e.GateURL)
		if e.atOurGate() {
			anew = e.install()
		}
		e.broken("the hooks do not tell containers of "+p.repository, anew)
		return
	}

	last := p.lines[len(p.lines)-1]
	if p.err != nil {
		last = p.err.Error()
	}
	text := fmt.Sprintf("%s, from a container: %.300s", p.repository, last)
	said := func(words string) bool { return strings.Contains(last, words) }

	switch {
	case said("not found") && e.atOurGate():
		e.warn(text, "the gate answers; make the repository: "+e.add(e.reposDirectory(), p.project)+", or try a project that it has: "+e.again("--project", "P"))
	case e.atOurGate():
		e.broken(text, e.gateSays())
	case said("not found") && e.Project == "":
		// The project was our guess.
		e.warn(text, "the gate answers; try a project that it has: "+e.again("--project", "P"))
	case said("not found"):
		e.broken(text, "the gate answers, but has no project "+p.project+": make its repository there, or "+e.again("--project", "P"))
	case said("Authentication failed"), said("could not read Username"):
		e.broken(text, "the gate does not know the token: make the gate read "+printable.Shell(e.TokenFile))
	case said("403") && (e.settings.Hashed || e.settings.Limits()):
		e.broken(text, "only terok-gate takes hashed or limited tokens; if the gate is terok-gate, check that the URL is that of the gate")
	case said("403"):
		e.broken(text, "the gate knows the token, but not for this URL: check that the URL is that of the gate")
	case said("resolve host"):
		e.broken(text, "containers on this network cannot resolve that name: "+table+", and "+e.again("--network", "NETWORK"))
	default:
		e.broken(text, "start the gate where containers on their network reach it: "+table+", and "+e.again("--network", "NETWORK"))
	}
}

// atOurGate reports whether the gate to try is the one at the hooks' socket, which listens in containers'
// networks. If the doctor was given a URL, the gate to try is the one there.
func (e *examination) atOurGate() bool {
	return e.settings.GateSocket != "" && e.given.GateURL == ""
}
