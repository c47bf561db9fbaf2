// Measures what it costs that a host's gate hands requests on to a gate with the repositories.

package main

import (
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"terok-gate-hook/hook"
	"terok-gate-hook/store"
)

// fleet compares a gate that hands requests on with a gate that answers them itself. Both serve
// the same repositories, and all gates run on this machine.
type fleet struct {
	Took map[string]series // in milliseconds: for each action, by gate
	Many manyHosts
	Load [2]string // average, before and after
}

// manyHosts is what it takes to clone the small repository in each container of many hosts at once.
// The bench itself sends what git would send: 2,000 git processes would leave the gates no processor
// time, while in a real fleet each host has its own processors.
type manyHosts struct {
	Hosts, Containers int     // hosts, and containers of each host
	Seconds           float64 // until all are done
	Failed            int
	ReposMB, HostMB   float64 // memory at its peak: of the gate with the repositories, and of the host's gate that used the most
	Own, Git, HostOwn float64 // processor time in seconds: of the gate with the repositories, of its git, of all hosts' gates
}

// The compared actions, by the names that tables show.
const (
	attachIn = "attach"
	startIn  = "a whole `prestart` that attaches"
	listIn   = "`git ls-remote`"
	firstIn  = "the first `git ls-remote` with a new certificate"
	cloneIn  = "a clone of 200 MiB"
	pushIn   = "a push of 200 MiB"

	apart = ", with a processor for each machine" // follows cloneIn and pushIn
)

// The compared gates: the local one, and the first host's.
const (
	local   = "gate"
	handsOn = "host-0"
)

// inTurn returns the compared gates in random order.
func inTurn() []string {
	gates := []string{local, handsOn}
	rand.Shuffle(len(gates), func(i, j int) { gates[i], gates[j] = gates[j], gates[i] })
	return gates
}

// fleetGates are a gate with copies of the house's repositories, and the gates of hosts: host-0,
// host-1 and so on. The hosts' addresses are in the house's map of addresses. host-0 has the
// house's token file.
type fleetGates struct {
	*house
	w       *world
	dir     string
	address string // of the gate with the repositories
	repos   *exec.Cmd
	hosts   []*exec.Cmd
}

// openFleet starts the gate with the repositories, which serves this many hosts, and the gate of
// host-0. openHost starts the others.
func (h *house) openFleet(w *world, hosts int) (f *fleetGates, err error) {
	f = &fleetGates{house: h, w: w, dir: filepath.Join(h.dir, "fleet")}
	if err := os.MkdirAll(f.path("repos"), 0o755); err != nil {
		return f, err
	}
	for _, project := range []string{small, large, empty} {
		if err := done(exec.Command("cp", "-a", filepath.Join(h.repos, project+".git"), f.path("repos"))); err != nil {
			return f, err
		}
	}
	if err := f.openssl("ca", "-subj", "/CN=gates"); err != nil {
		return f, err
	}

	if f.address, err = freeAddress(); err != nil {
		return f, err
	}
	args := []string{"--repos", f.path("repos"), "--tls-listen", f.address}
	for i := range hosts {
		args = append(args, "--vouch", hostName(i)+"=*")
	}
	if f.repos, err = f.startGate("repos", h.tokens, f.address, args...); err != nil {
		return f, err
	}
	return f, f.openHost(h.tokens)
}

// openHost starts the gate of the next host.
func (f *fleetGates) openHost(tokens store.File) (err error) {
	name := hostName(len(f.hosts))
	if f.addresses[name], err = freeAddress(); err != nil {
		return err
	}
	gate, err := f.startGate(name, tokens, f.addresses[name], "--repository-gate", "https://"+f.address,
		"--listen", f.addresses[name], "--control", f.control(name))
	f.hosts = append(f.hosts, gate)
	return err
}

func hostName(i int) string { return fmt.Sprintf("host-%d", i) }

func (f *fleetGates) path(name string) string { return filepath.Join(f.dir, name) }

// control returns the control socket of a gate.
func (f *fleetGates) control(name string) string {
	if name == local {
		return f.house.control
	}
	return f.path(name + "/control/gate")
}

// startGate makes a gate's certificate, starts the gate, and returns when something listens at
// address.
func (f *fleetGates) startGate(name string, tokens store.File, address string, args ...string) (*exec.Cmd, error) {
	if err := f.certify(name); err != nil {
		return nil, err
	}
	gate := exec.Command(f.w.programs["gate"], append([]string{"--token-file", tokens.Path, "--log-file", f.path(name + ".log"), "serve",
		"--tls-cert", f.path(name + ".pem"), "--tls-key", f.path(name + ".key"), "--tls-ca", f.path("ca.pem")}, args...)...)
	if err := f.start(gate); err != nil {
		return nil, err
	}
	return gate, serves(address)
}

// certify makes a gate's certificate and key, or replaces them.
func (f *fleetGates) certify(name string) error {
	return f.openssl(name, "-CA", f.path("ca.pem"), "-CAkey", f.path("ca.key"), "-subj", "/CN="+name,
		"-addext", "subjectAltName=DNS:"+name+",IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=clientAuth,serverAuth")
}

func (f *fleetGates) openssl(name string, args ...string) error {
	return done(exec.Command("openssl", append([]string{"req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "30",
		"-keyout", f.path(name + ".key"), "-out", f.path(name + ".pem")}, args...)...))
}

func (w *world) fleet(h *house, rounds int) (r fleet, err error) {
	r.Load[0], r.Took = load(), map[string]series{}
	defer func() { r.Load[1] = load() }()
	for _, of := range fleetGoals {
		r.Took[of.what] = series{}
	}

	const hosts, containers = 100, 20
	f, err := h.openFleet(w, hosts)
	if err != nil {
		return r, err
	}
	for _, measure := range []func(map[string]series, int) error{f.starts, f.lists, f.transfersApart, f.transfers} {
		if err := measure(r.Took, rounds); err != nil {
			return r, err
		}
	}
	r.Many, err = f.atOnce(hosts, containers)
	return r, err
}

// starts measures how long it takes until a gate serves a container's network: that step alone, and
// a whole prestart. An attach takes either half a millisecond or a whole one. The median of 120
// attaches differed by 7 % from run to run. Therefore, each of 40 rounds has 15 starts.
func (f *fleetGates) starts(took map[string]series, rounds int) error {
	for i := range 15 * rounds {
		for _, gate := range inTurn() {
			for _, what := range []string{attachIn, startIn} {
				if err := f.startOnce(took[what], gate, what, fmt.Sprintf("f1ee7%05d", i)); err != nil {
					return fmt.Errorf("%s, %s: %w", gate, what, err)
				}
			}
		}
	}
	return nil
}

func (f *fleetGates) startOnce(took series, gate, what, id string) error {
	state, pid, end, err := f.w.container(id, syscall.CLONE_NEWNET)
	if err != nil {
		return err
	}
	defer end()

	if what == startIn {
		one, err := timed(exec.Command(f.w.programs["hook"], "--token-file", f.w.tokens(), "--log-file", f.w.log(), "prestart", "--gate-socket", f.control(gate)), state)
		took.add(gate, one)
		return err
	}
	entry := store.Entry{Grant: store.Grant{Project: small, Task: "fleet"}, Container: id, Gate: &store.Attached{Listen: hook.GateListen}}
	if entry.Process, err = store.ProcessOf(pid); err != nil {
		return err
	}
	if entry.Token, err = store.NewToken(); err != nil {
		return err
	}
	start := time.Now()
	err = hook.Settings{GateSocket: f.control(gate)}.Attach(entry)
	took.add(gate, time.Since(start))
	return err
}

// lists measures git ls-remote. A gate that hands requests on makes a new TLS session for the first
// git ls-remote with a new certificate, and resumes that session for the next git ls-remote.
func (f *fleetGates) lists(took map[string]series, rounds int) error {
	for range rounds {
		for _, what := range []string{firstIn, listIn} {
			for _, gate := range inTurn() {
				if what == firstIn && gate == handsOn {
					if err := f.certify(handsOn); err != nil { // with a new certificate, the gate resumes no earlier session
						return err
					}
				}
				start := time.Now()
				if err := done(git(f.dir, "ls-remote", "--quiet", f.url(gate, f.token, small))); err != nil {
					return err
				}
				took[what].add(gate, time.Since(start))
			}
		}
	}
	return nil
}

// transfersApart measures a clone and a push as if the containers' host and the machine with the
// repositories had one processor each. With the local gate, the host has the repositories, too.
func (f *fleetGates) transfersApart(took map[string]series, rounds int) error {
	return f.transfer(took, rounds, apart, "0", "1")
}

// transfers measures a clone and a push if both machines share all processors.
func (f *fleetGates) transfers(took map[string]series, rounds int) error {
	all := fmt.Sprintf("0-%d", runtime.NumCPU()-1)
	return f.transfer(took, rounds, "", all, all)
}

// transfer measures a clone and a push of the large repository. onHost and onRepos are the
// processors of the machines, as taskset(1) reads them.
func (f *fleetGates) transfer(took map[string]series, rounds int, named, onHost, onRepos string) error {
	for gate, processors := range map[*exec.Cmd]string{f.gate: onHost, f.hosts[0]: onHost, f.repos: onRepos} {
		if err := done(exec.Command("taskset", "--all-tasks", "--cpu-list", "--pid", processors, strconv.Itoa(gate.Process.Pid))); err != nil {
			return err
		}
	}
	onHostDone := func(cmd *exec.Cmd) error {
		placed := exec.Command("taskset", append([]string{"--cpu-list", onHost}, cmd.Args...)...)
		placed.Dir, placed.Env = cmd.Dir, cmd.Env
		return done(placed)
	}

	tokens := map[string]string{}
	for _, project := range []string{large, empty} {
		var err error
		if tokens[project], err = f.issue(store.Entry{Grant: store.Grant{Project: project, Task: "fleet"}}); err != nil {
			return err
		}
	}

	rounds = max(1, rounds/4)
	pushed := map[string]string{local: filepath.Join(f.house.repos, empty+".git"), handsOn: f.path("repos/" + empty + ".git")}
	for range rounds {
		for _, gate := range inTurn() {
			start := time.Now()
			if err := onHostDone(git(f.dir, "clone", "--quiet", "--bare", f.url(gate, tokens[large], large), "clone")); err != nil {
				return err
			}
			took[cloneIn+named].add(gate, time.Since(start))
			if err := os.RemoveAll(f.path("clone")); err != nil {
				return err
			}
		}

		for _, gate := range inTurn() {
			start := time.Now()
			if err := onHostDone(git(filepath.Join(f.house.repos, large+".git"), "push", "--quiet", f.url(gate, tokens[empty], empty), "main")); err != nil {
				return err
			}
			took[pushIn+named].add(gate, time.Since(start))
			if err := errors.Join(os.RemoveAll(pushed[gate]), initBare(pushed[gate])); err != nil {
				return err
			}
		}
	}
	return nil
}

// atOnce makes containers of many hosts clone at once, each with a token of its own.
func (f *fleetGates) atOnce(hosts, containers int) (m manyHosts, err error) {
	m = manyHosts{Hosts: hosts, Containers: containers}
	var clients []cloning
	for i := range hosts {
		of := *f.house
		if i > 0 {
			of.tokens = store.File{Path: f.path(hostName(i) + "/tokens.json")}
			if err := f.openHost(of.tokens); err != nil {
				return m, err
			}
		}
		for task := range containers {
			token, err := of.issue(store.Entry{Grant: store.Grant{Project: small, Task: strconv.Itoa(task)}})
			if err != nil {
				return m, err
			}
			clients = append(clients, cloning{f.addresses[hostName(i)], token})
		}
	}

	own, gits := processorTime(f.repos.Process.Pid)
	hostOwn := f.hostsOwn()
	errs := make([]error, len(clients))
	var all sync.WaitGroup
	start := time.Now()
	for i, client := range clients {
		all.Go(func() { errs[i] = client.clone() })
	}
	all.Wait()
	m.Seconds = time.Since(start).Seconds()

	for _, err := range errs {
		if err == nil {
			continue
		}
		if m.Failed++; m.Failed <= 3 {
			fmt.Println(err)
		}
	}
	ownNow, gitsNow := processorTime(f.repos.Process.Pid)
	m.Own, m.Git, m.HostOwn = ownNow-own, gitsNow-gits, f.hostsOwn()-hostOwn

	for _, gate := range f.hosts {
		peak, err := peakMB(gate.Process.Pid)
		if err != nil {
			return m, err
		}
		m.HostMB = max(m.HostMB, peak)
	}
	m.ReposMB, err = peakMB(f.repos.Process.Pid)
	return m, err
}

// cloning is a client of a gate.
type cloning struct{ address, token string }

// clone sends the requests of a git clone, with protocol 2 and on one connection. If the pack in the
// answer is not whole, it returns an error.
func (c cloning) clone() error {
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()

	if _, err := c.ask(client, http.MethodGet, "info/refs?service=git-upload-pack", ""); err != nil {
		return err
	}
	refs, err := c.ask(client, http.MethodPost, "git-upload-pack", packet("command=ls-refs\n")+"0001"+packet("ref-prefix refs/heads/\n")+"0000")
	if err != nil {
		return err
	}
	tip, _, found := strings.Cut(refs[4:], " refs/heads/")
	if !found {
		return fmt.Errorf("the gate lists %.100q", refs)
	}

	answer, err := c.ask(client, http.MethodPost, "git-upload-pack", packet("command=fetch\n")+"0001"+packet("no-progress\n")+packet("want "+tip+"\n")+packet("done\n")+"0000")
	if err != nil {
		return err
	}
	var pack []byte
	for rest := answer; len(rest) >= 4; {
		length, err := strconv.ParseUint(rest[:4], 16, 16)
		if err != nil || int(length) > len(rest) {
			return fmt.Errorf("the gate sends %.100q", rest)
		}
		if length > 5 && rest[4] == 1 {
			pack = append(pack, rest[5:length]...)
		}
		rest = rest[max(4, length):]
	}
	end := len(pack) - sha1.Size
	if end < 0 || sha1.Sum(pack[:end]) != [sha1.Size]byte(pack[end:]) {
		return fmt.Errorf("the gate sends no whole pack in %.100q", answer)
	}
	return nil
}

func (c cloning) ask(client *http.Client, method, what, body string) (string, error) {
	request, err := http.NewRequest(method, "http://"+c.address+"/"+small+".git/"+what, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", basic(c.token))
	request.Header.Set("Git-Protocol", "version=2")
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/x-git-upload-pack-request")
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, answer)
	}
	return string(answer), err
}

func packet(line string) string { return fmt.Sprintf("%04x%s", 4+len(line), line) }

// hostsOwn returns the processor time of the hosts' gates, in seconds.
func (f *fleetGates) hostsOwn() (sum float64) {
	for _, gate := range f.hosts {
		own, _ := processorTime(gate.Process.Pid)
		sum += own
	}
	return sum
}

// fleetGoals are the goals: an action may take at most this many times as long if it is handed on. An
// action with 0 has no goal.
var fleetGoals = []struct {
	what string
	most float64
}{
	{attachIn, 1.05}, {startIn, 1.05}, {firstIn, 1.5}, {listIn, 1.5},
	{cloneIn + apart, 1 / 0.9}, {pushIn + apart, 1 / 0.9}, {cloneIn, 0}, {pushIn, 0},
}

func (r fleet) String() (text string) {
	for _, of := range fleetGoals {
		here, there := r.Took[of.what].median(local), r.Took[of.what].median(handsOn)
		text += fmt.Sprintf("%s: %.2f ms, handed on %.2f ms (%.2f)\n", of.what, here, there, there/here)
	}
	m := r.Many
	return text + fmt.Sprintf("%s that clone at once: %.1f s, %d failed; memory at its peak: the gate with the repositories %.0f MB, the host's gate that used the most %.0f MB; processor time: the gate with the repositories %.1f s, its git %.1f s, the hosts' gates %.1f s",
		m.who(), m.Seconds, m.Failed, m.ReposMB, m.HostMB, m.Own, m.Git, m.HostOwn)
}

func (m manyHosts) who() string {
	return fmt.Sprintf("%d hosts with %d containers each", m.Hosts, m.Containers)
}

// table writes the results, beside the goals.
func (r fleet) table(p func(format string, a ...any)) {
	p("")
	p("# What a gate elsewhere costs")
	p("")
	p("The local gate, and one that hands requests on over TLS to a gate with the same repositories, in turns; medians in milliseconds. All gates run on this machine, and share its processors unless a row says otherwise. Load average %s before, %s after.", r.Load[0], r.Load[1])
	p("")
	p("| | local | handed on | times | goal |")
	p("|---|---|---|---|---|")
	for _, of := range fleetGoals {
		here, there := r.Took[of.what].median(local), r.Took[of.what].median(handsOn)
		goal := ""
		if of.most > 0 {
			goal = fmt.Sprintf("%.2f", of.most)
		}
		p("| %s | %.1f | %.1f | %.2f | %s |", of.what, here, there, there/here, goal)
	}

	m := r.Many
	clones := float64(m.Hosts * m.Containers)
	p("")
	p("| %s that clone at once | measured | goal |", m.who())
	p("|---|---|---|")
	p("| all done | %.1f s, %d failed | none fails |", m.Seconds, m.Failed)
	p("| memory at its peak: the gate with the repositories; the host's gate that used the most | %.0f MB; %.0f MB | under 100 MB |", m.ReposMB, m.HostMB)
	p("| processor time for a clone: the gate with the repositories; git there; the host's gate | %.1f ms; %.1f ms; %.1f ms | |", 1000*m.Own/clones, 1000*m.Git/clones, 1000*m.HostOwn/clones)
}
