// Checks that the gate works with gates on other machines: that the gate with the repositories
// serves this host, that certificates have not ended, and that clocks agree.

package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/printable"
)

// mostApart is how far clocks may be apart.
const mostApart = time.Minute

func (e *examination) fleet() {
	if e.theGate == nil || e.theGate.Fleet == nil {
		return
	}
	fleet := e.theGate.Fleet
	fine := fleet.Problem == ""
	if fine {
		fine = e.isValid("this gate's certificate", fleet.Certificate)
		fine = e.isValid("the authority's certificate", fleet.Authority) && fine
	} else {
		e.broken("other gates refuse this gate: "+fleet.Problem, oneAuthority)
	}

	until := "this gate's certificate is valid until " + day(fleet.Certificate) + ", the authority's until " + day(fleet.Authority)
	if fleet.Listens {
		if e.hostsVouch(fleet) && fine {
			e.ok(fmt.Sprintf("hosts that may vouch: %s; %s", listed(fleet.Hosts, fleet.More), until))
		}
		return
	}

	project := e.probeProject()
	gate, err := ask(e.settings.GateSocket, control.Request{Try: cmp.Or(project, probeTask)})
	if err == nil && (gate.Fleet == nil || gate.Fleet.Tried == nil) {
		err = errors.New("its answer has no result")
	}
	if err != nil {
		e.broken(fmt.Sprintf("the gate does not try %s: %v", e.theGate.RepositoryGate, err), e.gateSays())
		return
	}
	tried := gate.Fleet.Tried
	if e.isServed(fleet.Name, cmp.Or(project, probeTask), tried) && e.isValid("the certificate of "+tried.Address, tried.Certificate) && fine {
		e.ok(fmt.Sprintf("%s serves this host, %s; %s, that of %s until %s", tried.Address, fleet.Name, until, tried.Address, day(tried.Certificate)))
	}
	if tried.Ahead.Abs() >= mostApart {
		direction := "ahead of"
		if tried.Ahead < 0 {
			direction = "behind"
		}
		e.warn(fmt.Sprintf("the clock of %s is %s %s this machine's: certificates seem to begin late or to end early", tried.Address, tried.Ahead.Abs().Round(10*time.Second), direction),
			"on the machine whose clock is wrong: "+printable.Shell("timedatectl", "set-ntp", "true"))
	}
}

// repositoryGate returns the URL of the gate with the repositories, or "" if the repositories are on this
// machine.
func (e *examination) repositoryGate() string {
	if e.theGate != nil {
		return e.theGate.RepositoryGate
	}
	installed, _, _ := e.Place.Registration()
	return installed.Fleet.RepositoryGate
}

// oneAuthority is the remedy for certificates that gates do not accept.
const oneAuthority = "issue a new certificate with the authority of all gates: see MANY MACHINES in terok-gate(8)"

// isServed reports whether the gate with the repositories serves this host for the project. If it does not,
// isServed makes a finding that says why.
func (e *examination) isServed(host, project string, tried *control.Tried) bool {
	at, there := tried.Address, "on that machine: terok-gate doctor"
	because := ": " + tried.Detail
	switch tried.Fault {
	case "":
		return true
	case control.NoName:
		e.broken("the name of "+at+" cannot be resolved on this machine"+because, "add the name to DNS or /etc/hosts, or give another one: "+e.ourselves("install", "--repository-gate")+" URL")
	case control.NotThere:
		e.broken("no gate listens at "+at+because, there)
	case control.Stranger:
		e.broken("this gate refuses the certificate of "+at+because, there+"; and see that the clocks of both machines are right")
	case control.NotKnown:
		e.broken(at+" refuses this gate's certificate"+because, oneAuthority+"; and see that the clocks of both machines are right")
	case control.NotVouching:
		e.broken(fmt.Sprintf("%s does not let this host vouch for project %s", at, project), "to allow it, on that machine add this line to the file of --vouch-file: "+printable.Shell(host+"="+project))
	case control.NoProject:
		e.warn(fmt.Sprintf("%s serves this host, but has no project %s", at, project), e.add("", project)+"; or try another project: "+e.again("--project")+" PROJECT")
	case control.Refused:
		e.broken(at+" refuses this host"+because, there)
	default:
		e.broken(at+" does not answer"+because, there+"; and see that no firewall is between the machines")
	}
	return false
}

// hostsVouch reports whether there are hosts that may vouch.
func (e *examination) hostsVouch(fleet *control.Fleet) bool {
	switch {
	case fleet.Fault != "":
		e.broken("no host of the file may vouch: "+fleet.Fault, "correct the file; the gate reads it again")
	case len(fleet.Hosts) == 0:
		e.warn("no host may vouch, so none is served", "add a line HOST=PATTERN to the file of --vouch-file; the gate reads it again")
	default:
		return true
	}
	return false
}

// listed lists names, and how many more there are.
func listed(names []string, more int) string {
	list := strings.Join(names, ", ")
	if more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return list
}

// isValid reports whether a certificate is valid and does not end soon; if not, it makes a finding. For an
// unknown certificate, it returns true.
func (e *examination) isValid(what string, v control.Validity) bool {
	now := time.Now()
	soon := min(7*24*time.Hour, v.Until.Sub(v.From)/5) // certificates are usually renewed after two thirds of their life
	switch left := v.Until.Sub(now); {
	case v.Until.IsZero():
	case now.Before(v.From):
		e.broken(fmt.Sprintf("%s is not valid before %s", what, v.From.UTC().Format(time.RFC3339)), "see that the clocks of the machines are right")
		return false
	case left <= 0:
		e.broken(fmt.Sprintf("%s has ended, at %s", what, v.Until.UTC().Format(time.RFC3339)), oneAuthority)
		return false
	case left < soon:
		e.warn(fmt.Sprintf("%s ends in %s, at %s", what, left.Round(time.Minute), v.Until.UTC().Format(time.RFC3339)), oneAuthority)
		return false
	}
	return true
}

// day returns the day on which a certificate ends.
func day(v control.Validity) string { return v.Until.UTC().Format(time.DateOnly) }
