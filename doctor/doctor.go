// Package doctor examines an installation, from podman, Docker or containerd to the gate, and
// reports what is wrong and how to fix it.
//
// The package is a table of checks, with a file for each subject. To add a check, add a row and a function.
package doctor

import (
	"context"
	"fmt"
	"os/exec"
	"slices"

	"terok-gate-hook/engines"
	"terok-gate-hook/hook"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/untrusted"
	"terok-gate-hook/store"
)

// check is one subject to examine. All of its findings have the check's name.
type check struct {
	name  string
	needs []string // checks that must have run without calling [examination.stop]
	run   func(*examination)
}

// checks run in this order. A check may use the results of the checks that it needs. The results of
// other checks may still be zero values.
var checks = []check{
	{"kernel", nil, (*examination).kernel},
	{"machine-id", nil, (*examination).machineID},

	{"user-namespaces", nil, (*examination).userNamespaces},
	{"podman", []string{"user-namespaces"}, (*examination).podman},
	{"hooks", []string{"podman"}, (*examination).hooks},
	{"definition", []string{"hooks"}, (*examination).definition},
	{"containers", []string{"podman"}, (*examination).containers},
	{"terok-gate", []string{"hooks"}, (*examination).terokGate},

	{"devices", nil, (*examination).devices},
	{"docker", nil, (*examination).docker},
	{"containerd", nil, (*examination).containerd},
	{"nri", nil, (*examination).nri},
	{"token-file", nil, (*examination).tokenFile},
	{"lock", []string{"token-file"}, (*examination).lock},
	{"orphans", []string{"token-file"}, (*examination).orphans},
	{"limits", []string{"token-file"}, (*examination).limits},
	{"frozen", []string{"token-file"}, (*examination).frozen},
	{"forgotten", []string{"token-file", "podman"}, (*examination).forgotten},
	{"leftovers", []string{"token-file"}, (*examination).leftovers},
	{"gate-user", []string{"token-file"}, (*examination).gateUser},

	{"listeners", []string{"token-file", "terok-gate"}, (*examination).listeners},
	{"services", []string{"token-file", "terok-gate"}, (*examination).services},
	{"git", []string{"hooks"}, (*examination).git},
	{"repositories", []string{"token-file", "git"}, (*examination).repositories},
	{"fleet", []string{"token-file", "terok-gate"}, (*examination).fleet},

	{"service", []string{"hooks"}, (*examination).service},
	{"sync", nil, (*examination).sync},
	{"log", nil, (*examination).log},

	{"probe", []string{"hooks", "definition", "token-file", "terok-gate"}, (*examination).probe},
	{"gate", []string{"probe"}, (*examination).gate},
	{"docker-probe", []string{"hooks", "devices", "docker", "token-file", "terok-gate"}, (*examination).dockerProbe},
}

// State is the result of a check.
type State string

const (
	OK      State = "ok"
	Warning State = "warning" // works, but not as it should
	Broken  State = "broken"
	Fixed   State = "fixed" // was broken or a warning until now
)

// Finding is a result of a check. A check can have several results.
type Finding struct {
	Check  string `json:"check"`
	State  State  `json:"state"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"` // how to fix the problem
}

// Doctor examines the installation of one user, who may be root.
type Doctor struct {
	Place     engines.Place
	Binary    string // absolute path of terok-gate-hook
	TokenFile string // empty: what the definitions name, or else the default
	LogFile   string // empty: what the definitions name
	GateURL   string // empty: what the definitions name
	GateUser  string // the user that the gate runs as; empty: the user of the hooks' gate, if there is one
	Project   string // the probe's; empty: one that the definitions admit
	Network   string // the probe's, as podman run --network takes it; empty: podman's default
	Image     string // the probe's; empty: no image, but the host's programs
	Repair    bool   // fix what is safe to fix
}

// Examine runs all checks that make sense here, and reports their findings. It starts containers that only
// try the hooks and the gate. It changes nothing, unless Repair is set.
func (d Doctor) Examine(ctx context.Context, report func(Finding)) {
	e := examination{Doctor: d, given: d, ctx: ctx, report: report, stopped: map[string]bool{}}
	for _, c := range checks {
		e.check = c.name
		if slices.ContainsFunc(c.needs, func(name string) bool { return e.stopped[name] }) {
			e.stopped[c.name] = true
			continue
		}
		c.run(&e)
	}
}

// examination is one run of a doctor, with its results so far. Some checks fill in settings that the doctor
// was not given.
type examination struct {
	Doctor
	given   Doctor // the doctor as it was before any check
	ctx     context.Context
	report  func(Finding)
	check   string          // name of the check that runs
	stopped map[string]bool // names of checks that called stop

	// Results, each with the check that sets it.
	noPodman       bool                 // podman: it is not installed, and need not be
	imagesAnnotate bool                 // podman: an image can choose the project
	definitions    []engines.Registered // hooks: our definitions that podman reads
	settings       hook.Settings        // hooks: the settings in force
	tokens         store.File           // token-file: the file that was examined
	theGate        *control.Gate        // terok-gate: what the gate at the hooks' socket says of itself
	devicesOf      []string             // devices: projects that have a device
	projects       []string             // repositories: projects that have a repository
	noProbe        string               // gate-user: why a probe would do harm
	probed         *probed              // probe: what the container said
}

func (e *examination) ok(text string) {
	e.report(Finding{Check: e.check, State: OK, Text: text})
}

func (e *examination) warn(text, remedy string) {
	e.report(Finding{Check: e.check, State: Warning, Text: text, Remedy: remedy})
}

func (e *examination) broken(text, remedy string) {
	e.report(Finding{Check: e.check, State: Broken, Text: text, Remedy: remedy})
}

// stop makes Examine skip the checks that need this check: they would repeat the finding or make no sense.
func (e *examination) stop() { e.stopped[e.check] = true }

// fix reports a problem that the function repair can fix. If the doctor is to repair, fix calls repair, and
// reports the outcome.
func (e *examination) fix(state State, text, remedy string, repair func() (done string, err error)) {
	if !e.Repair {
		e.report(Finding{Check: e.check, State: state, Text: text, Remedy: remedy + " (doctor --repair does it)"})
		return
	}
	done, err := repair()
	if err != nil {
		e.broken(fmt.Sprintf("%s: not fixed: %v", text, err), remedy)
		return
	}
	e.report(Finding{Check: e.check, State: Fixed, Text: text + ": " + done})
}

// command runs a program and returns its standard output. The output is limited, since the probe's image
// may be hostile.
func (e *examination) command(name string, args ...string) (string, error) {
	var stdout, stderr untrusted.Output
	cmd := exec.CommandContext(e.ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil && len(stderr.Bytes()) > 0 {
		err = fmt.Errorf("%w: %.300s", err, engines.LastLine(stderr.Bytes()))
	}
	return stdout.String(), err
}
