package doctor

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"terok-gate-hook/engines"
	"terok-gate-hook/forward"
	"terok-gate-hook/gate"
	"terok-gate-hook/hook"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/version"
	"terok-gate-hook/store"
)

// served is a patient whose hooks have a gate of ours, which a test may start.
type served struct {
	patient
	socket, repos, bin string
	hooks, units       string // directories of an installation; empty for none
	settings           hook.Settings
}

func newServed(t *testing.T) *served {
	t.Helper()
	testenv.Need(t, "git")
	s := &served{patient: newPatient(t)}
	s.write(t, "{}")
	s.socket = filepath.Join(s.directory, "it's own", "control")
	s.repos, s.bin = filepath.Join(s.directory, "the repos"), filepath.Join(s.directory, "bin")
	s.settings = hook.Settings{GateSocket: s.socket, GateTimeout: time.Minute}
	s.settings.Tokens.Path = s.tokens
	for _, dir := range []string{filepath.Dir(s.socket), s.repos, s.bin} {
		must(t, os.Mkdir(dir, 0o700))
	}
	s.installGate(t, version.String())
	return s
}

// installGate puts a terok-gate that claims this version beside the hook.
func (s *served) installGate(t *testing.T, version string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(s.bin, "terok-gate"), []byte("#!/bin/sh\necho 'terok-gate version "+version+"'\n"), 0o755))
}

// start starts a gate that reads a token file. stop leaves the gate's socket behind, as a killed gate does.
func (s *served) start(t *testing.T, tokens string) (stop func()) {
	t.Helper()
	return s.startGate(t, gate.Settings{Repos: s.repos, Tokens: store.File{Path: tokens}.Reader(func(error) {})})
}

func (s *served) startGate(t *testing.T, settings gate.Settings) (stop func()) {
	t.Helper()
	g, err := gate.New(settings)
	must(t, err)
	l := s.listen(t)
	go g.ServeControl(l)
	stop = func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		g.Stop(ctx)
	}
	t.Cleanup(stop)
	return stop
}

func (s *served) listen(t *testing.T) *net.UnixListener {
	t.Helper()
	l, err := testenv.ListenForHooks(s.socket)
	must(t, err)
	return l
}

// check makes some of the checks.
func (s *served) check(names ...string) (found []Finding) {
	e := examination{
		Doctor: Doctor{
			Place:  engines.Place{Control: "/usual/control", Repos: "/usual/repos", Hooks: s.hooks, Units: s.units, User: os.Geteuid() != 0},
			Binary: filepath.Join(s.bin, "terok-gate-hook"), TokenFile: s.tokens,
		},
		settings: s.settings, tokens: store.File{Path: s.tokens}, ctx: context.Background(), stopped: map[string]bool{},
		report: func(f Finding) { found = append(found, f) },
	}
	for _, c := range checks {
		e.check = c.name
		if slices.Contains(names, c.name) && !slices.ContainsFunc(c.needs, func(name string) bool { return e.stopped[name] }) {
			c.run(&e)
		}
	}
	return found
}

func TestDoctorHasNothingToSayWhereTheHooksHaveAnotherGate(t *testing.T) {
	s := newServed(t)
	s.settings.GateSocket = ""
	if found := s.check("terok-gate", "listeners", "git", "repositories"); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

func TestDoctorFindsAGateThatIsNotThere(t *testing.T) {
	for _, row := range []struct {
		name   string
		make   func(t *testing.T, s *served)
		text   string
		remedy string
	}{
		{"none", func(*testing.T, *served) {}, "no gate listens: %s does not exist; without a gate, no container that asks for a project starts",
			"%[2]s/terok-gate --token-file %[3]s serve --control %[1]s, in a terminal of its own"},
		{"no directory for its socket", func(t *testing.T, s *served) { must(t, os.Remove(filepath.Dir(s.socket))) },
			"no gate listens: %s does not exist", "%[2]s/terok-gate --token-file %[3]s serve --control"},
		{"one that was killed", func(t *testing.T, s *served) { s.listen(t).Close() }, "no gate listens: %s was left by a gate that was killed",
			"%[2]s/terok-gate --token-file %[3]s serve --control"},
		{"no program either", func(t *testing.T, s *served) { must(t, os.Remove(filepath.Join(s.bin, "terok-gate"))) },
			"starts; the program %[2]s/terok-gate is missing", "install terok-gate and terok-gate-hook of one release, both in %[2]s, and then: %[2]s/terok-gate --token-file %[3]s serve"},
		{"a file in the socket's place", func(t *testing.T, s *served) { must(t, os.WriteFile(s.socket, nil, 0o600)) }, "%s is not a gate's socket", "mv %[1]s %[1]s.away && "},
		{"a socket of another kind", func(t *testing.T, s *served) {
			l, err := net.Listen("unix", s.socket)
			must(t, err)
			t.Cleanup(func() { l.Close() })
		}, "%s is not a gate's socket", "mv %[1]s %[1]s.away && "},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newServed(t)
			// row.remedy names the path without quotes.
			s.socket = strings.Replace(s.socket, "it's own", "its", 1)
			must(t, os.Mkdir(filepath.Dir(s.socket), 0o700))
			s.settings.GateSocket = s.socket
			row.make(t, s)

			found := s.check("terok-gate", "listeners", "probe")
			fill := func(format string) string {
				return strings.TrimSuffix(fmt.Sprintf(format+"%[1]s%[2]s%[3]s", s.socket, s.bin, s.tokens), s.socket+s.bin+s.tokens)
			}

			finds(t, found, "terok-gate", Broken, fill(row.text))
			if len(found) != 1 || !strings.Contains(found[0].Remedy, fill(row.remedy)) {
				t.Errorf("%+v\nshould say %s", found, fill(row.remedy))
			}
		})
	}
}

// answers starts a server at the control socket that gives the same answer to every request.
func (s *served) answers(t *testing.T, answer string) {
	t.Helper()
	l := s.listen(t)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, control.MessageLimit))
			_, _ = conn.Write([]byte(answer))
			conn.Close()
		}
	}()
}

func TestDoctorFindsAGateOfAnotherVersion(t *testing.T) {
	s := newServed(t)
	s.answers(t, `{"version": 2, "refused": "version", "detail": "1, and not 2"}`)
	finds(t, s.check("terok-gate"), "terok-gate", Broken, "does not understand terok-gate-hook, which is another version")
	s.answers(t, `{"version": 1, "refused": "malformed", "detail": "0 sockets"}`) // the first gates took no message without a socket
	finds(t, s.check("terok-gate"), "terok-gate", Broken, "does not understand terok-gate-hook, which is another version")
	s.answers(t, `{"version": 1, "refused": "failed", "detail": "user 7 may not use the control socket"}`)
	finds(t, s.check("terok-gate"), "terok-gate", Broken, `the gate refuses: failed: "user 7 may not use the control socket"`)
	s.answers(t, `hello`)
	finds(t, s.check("terok-gate"), "terok-gate", Broken, "its answer is malformed")

	other := fmt.Sprintf(`{"version": 1, "gate": {"program": "v0", "uid": %d, "token_file": %q, "repos": %q}}`, os.Geteuid(), s.tokens, s.repos)
	s.answers(t, other)
	found := s.check("terok-gate")
	finds(t, found, "terok-gate", Warning, "the gate that runs is v0, and terok-gate-hook is "+version.String())
	if want := "end it and start it again: "; !strings.HasPrefix(found[0].Remedy, want) {
		t.Errorf("with an old gate that goes on after an upgrade: %+v", found)
	}
	s.installGate(t, "v0")
	found = s.check("terok-gate")
	if want := "install terok-gate and terok-gate-hook of one release, both in "; len(found) != 1 || !strings.HasPrefix(found[0].Remedy, want) {
		t.Errorf("after half an upgrade: %+v", found)
	}
	s.start(t, s.tokens)
	finds(t, s.check("terok-gate"), "terok-gate", Warning, "bin/terok-gate is v0, and terok-gate-hook is "+version.String())
}

func TestDoctorFindsAGateWhoseProgramOthersCanChange(t *testing.T) {
	s := newServed(t)
	s.start(t, s.tokens)
	program, ran := filepath.Join(s.bin, "terok-gate"), filepath.Join(s.directory, "ran")
	must(t, os.WriteFile(program, []byte("#!/bin/sh\n: >'"+ran+"'\n"), 0o755))
	must(t, os.Chmod(program, 0o777))
	found := s.check("terok-gate")
	finds(t, found, "terok-gate", Broken, "every user can change "+program+", which runs as the gate")
	if _, err := os.Stat(ran); err == nil {
		t.Error("doctor has run the program")
	}
	paste(t, found, "terok-gate")
	s.installGate(t, version.String())
	finds(t, s.check("terok-gate"), "terok-gate", OK, "a gate answers")
}

func TestDoctorFindsAGateThatReadsOtherTokens(t *testing.T) {
	s := newServed(t)
	other := filepath.Join(s.directory, "other.json")
	stop := s.start(t, other)
	finds(t, s.check("terok-gate"), "terok-gate", Broken, "the gate reads "+other+", and the hooks write "+s.tokens+": it knows none of their tokens")

	link := filepath.Join(s.directory, "link") // by another name
	must(t, os.Symlink(s.directory, link))
	stop()
	s.start(t, filepath.Join(link, "tokens.json"))
	finds(t, s.check("terok-gate"), "terok-gate", OK, "a gate answers at "+s.socket+", as user "+userName(os.Geteuid())+", with the repositories of "+s.repos)
	finds(t, s.check("terok-gate", "service"), "service", OK, "the gate revokes orphans at once")
}

func TestDoctorLooksForNoRepositoriesWhereAnotherMachineHasThem(t *testing.T) {
	s := newServed(t)
	must(t, os.Remove(s.repos))
	s.startGate(t, gate.Settings{RepositoryGate: "https://repos:9419", Tokens: store.File{Path: s.tokens}.Reader(func(error) {})})
	found := s.check("terok-gate", "repositories")
	finds(t, found, "terok-gate", OK, "with the repositories of https://repos:9419")
	for _, f := range found {
		if f.Check == "repositories" {
			t.Errorf("found %+v", f)
		}
	}
}

func TestDoctorFindsAControlSocketThatIsNotTheGatesAlone(t *testing.T) {
	s := newServed(t)
	s.start(t, s.tokens)
	dir := filepath.Dir(s.socket)
	must(t, os.Chmod(dir, 0o711))
	found := s.check("terok-gate")
	finds(t, found, "terok-gate", Broken, "has mode 0711: no gate starts where others could put a gate of theirs")
	paste(t, found, "terok-gate")
	finds(t, s.check("terok-gate"), "terok-gate", OK, "a gate answers")

	// Other users may need other files in the directory. Doctor does not close such a directory.
	must(t, os.Chmod(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "theirs"), nil, 0o644))
	found = s.check("terok-gate")
	if own := " install"; os.Geteuid() != 0 && !strings.HasSuffix(found[0].Remedy, own) || // a user's own hooks
		os.Geteuid() == 0 && !strings.Contains(found[0].Remedy, own+" --gate-socket /usual/control") {
		t.Errorf("%+v", found)
	}
	must(t, os.Remove(filepath.Join(dir, "theirs")))
	must(t, os.Chmod(dir, 0o700))

	testenv.NeedRoot(t)
	const nobody = 65534
	must(t, os.Chown(dir, nobody, -1))
	found = s.check("terok-gate")
	finds(t, found, "terok-gate", Broken, "user nobody can put another gate at "+s.socket)
	if !strings.Contains(found[0].Remedy, "if the gate runs as that user: ") {
		t.Errorf("%+v", found)
	}
	must(t, os.Chown(dir, 0, -1))
	must(t, os.Chmod(s.directory, 0o777))
	finds(t, s.check("terok-gate"), "terok-gate", Broken, "every user can put another gate at "+s.socket+", by way of "+s.directory)
}

// paste runs the remedy of a finding.
func paste(t *testing.T, found []Finding, check string) {
	t.Helper()
	for _, f := range found {
		if f.Check == check && f.Remedy != "" {
			command, _, _ := strings.Cut(f.Remedy, ", and ")
			if out, err := exec.Command("sh", "-ec", command).CombinedOutput(); err != nil {
				t.Errorf("%s\n%v: %s", f.Remedy, err, out)
			}
		}
	}
}

// container is a process in a network namespace, with a token for the gate there.
type container struct {
	store.Entry
	*testenv.NetworkProcess
}

// container starts a container, in the neighbour's network if there is one.
func (s *served) container(t *testing.T, id string, neighbour *container) *container {
	t.Helper()
	pid := 0
	if neighbour != nil {
		pid = neighbour.PID
	}
	c := &container{NetworkProcess: testenv.StartInNetwork(t, pid)}

	token, err := store.NewToken()
	must(t, err)
	process, err := store.ProcessOf(c.PID)
	must(t, err)
	c.Entry = store.Entry{
		Token: token, Grant: store.Grant{Project: "demo", Task: "t-" + id}, Container: id, Process: process,
		Gate: &store.Attached{Listen: "127.0.0.1:9418"},
	}
	_, err = store.File{Path: s.tokens}.Issue(c.Entry)
	must(t, err)
	return c
}

func TestDoctorFindsContainersThatTheGateDoesNotServe(t *testing.T) {
	s := newServed(t)
	stop := s.start(t, s.tokens)
	finds(t, s.check("terok-gate", "listeners"), "listeners", OK, "living containers that the gate serves: 0")
	first := s.container(t, "c0ffee0123456789", nil)
	must(t, s.settings.Attach(first.Entry))
	finds(t, s.check("terok-gate", "listeners"), "listeners", OK, "living containers that the gate serves: 1")
	// The gate already listens in the second container's network, but for a neighbour.
	second := s.container(t, "second", first)
	found := s.check("terok-gate", "listeners")
	finds(t, found, "listeners", Broken, `living containers without the gate: second (project demo, task t-second)`)
	if want := filepath.Join(s.bin, "terok-gate") + " attach"; found[len(found)-1].Remedy != want {
		t.Errorf("%+v\nshould say %s", found, want)
	}
	must(t, s.settings.Attach(second.Entry))
	finds(t, s.check("terok-gate", "listeners"), "listeners", OK, "living containers that the gate serves: 2")

	stop()
	s.start(t, s.tokens)
	finds(t, s.check("terok-gate", "listeners"), "listeners", Broken, "living containers without the gate: ")
	hostile := s.container(t, "hostile", nil)
	for _, at := range []string{"127.0.0.1:9418", "0.0.0.0:9418", "[::]:9418"} {
		var l net.Listener
		must(t, hostile.Enter(func() (err error) {
			l, err = net.Listen("tcp", at)
			return err
		}))
		found = s.check("terok-gate", "listeners")
		finds(t, found, "listeners", Broken, `living container hostile (project demo, task t-hostile): another program listens at 127.0.0.1:9418 there and may receive its token`)
		finds(t, found, "listeners", Broken, `without the gate: `)
		l.Close()
	}
}

// forward starts terok-gate forward for these services. stop leaves the socket behind.
func (s *served) forward(t *testing.T, services map[string]forward.Target) (stop func()) {
	t.Helper()
	f, err := forward.New(forward.Settings{Services: services, Tokens: store.File{Path: s.tokens}.Reader(func(error) {})})
	must(t, err)
	socket := control.ForwardSocket(s.socket)
	must(t, os.MkdirAll(filepath.Dir(socket), 0o700))
	l, err := testenv.ListenForHooks(socket)
	must(t, err)
	go f.ServeControl(l)
	stop = func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		f.Stop(ctx)
	}
	t.Cleanup(stop)
	return stop
}

func TestDoctorTriesServicesOfTheHost(t *testing.T) {
	s := newServed(t)
	s.start(t, s.tokens)
	if found := s.check("terok-gate", "services"); len(found) != 1 {
		t.Errorf("without services, it finds %+v", found)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	db := filepath.Join(s.directory, "db")
	s.settings.Services = []string{"llm=4000:" + l.Addr().String(), "db=5432:unix:" + db}
	both := map[string]forward.Target{"llm": {Network: "tcp", Address: l.Addr().String()}, "db": {Network: "unix", Address: db}}

	found := s.check("terok-gate", "services")
	finds(t, found, "services", Broken, "terok-gate forward does not answer: "+control.ForwardSocket(s.socket)+" does not exist; without terok-gate forward, no container that asks for a service starts")
	if want := "/terok-gate --token-file " + s.tokens + " forward --control "; !strings.Contains(found[len(found)-1].Remedy, want) {
		t.Errorf("%+v\nshould say %s", found, want)
	}

	stop := s.forward(t, map[string]forward.Target{"llm": {Network: "tcp", Address: "127.0.0.1:1"}})
	found = s.check("terok-gate", "services")
	finds(t, found, "services", Broken, "service llm: something answers at "+l.Addr().String()+", but terok-gate forward does not reach it")
	finds(t, found, "services", Broken, "terok-gate forward does not have service db, and a container that asks for it does not start")
	stop()
	finds(t, s.check("terok-gate", "services"), "services", Broken, " was left by a terok-gate forward that was killed;")
	socket := control.ForwardSocket(s.socket)
	must(t, os.Remove(socket))
	must(t, os.WriteFile(socket, nil, 0o600))
	finds(t, s.check("terok-gate", "services"), "services", Broken, socket+" is not a socket of terok-gate forward")
	must(t, os.Remove(socket))

	stop = s.forward(t, both)
	finds(t, s.check("terok-gate", "services"), "services", Warning, "service db: dial unix "+db+": connect: no such file or directory")
	finds(t, s.check("terok-gate", "services"), "services", OK, "reaches llm")

	// The listener of one service is gone, and the gate's is not.
	c := s.container(t, "c0ffee0123456789", nil)
	c.Gate.Services = map[string]string{"llm": "127.0.0.1:4000"}
	_, err = store.File{Path: s.tokens}.Issue(c.Entry)
	must(t, err)
	must(t, s.settings.Attach(c.Entry))
	stop()
	s.forward(t, both)
	found = s.check("terok-gate", "listeners", "services")
	finds(t, found, "listeners", OK, "living containers that the gate serves: 1")
	finds(t, found, "services", Broken, "living containers without service llm: c0ffee012345 (project demo, task t-c0ffee0123456789)")

	must(t, c.Enter(func() error {
		hostile, err := net.Listen("tcp", "127.0.0.1:4000")
		if err == nil {
			t.Cleanup(func() { hostile.Close() })
		}
		return err
	}))
	finds(t, s.check("terok-gate", "services"), "services", Broken, "another program listens at 127.0.0.1:4000 there and may receive what it sends to service llm")
}

// real puts the real gate beside the hook.
func (s *served) real(t *testing.T) {
	t.Helper()
	must(t, os.Remove(s.bin+"/terok-gate"))
	make := exec.Command("go", "build", "-o", s.bin+"/terok-gate", "terok-gate-hook/cmd/terok-gate")
	if built := os.Getenv("TEROK_TEST_PROGRAMS"); built != "" { // for a user who has no home to build in
		make = exec.Command("cp", built+"/terok-gate", s.bin)
	}
	if out, err := make.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", make.Args, err, out)
	}
}

func TestDoctorFindsWhatIsWrongWithRepositories(t *testing.T) {
	s := newServed(t)
	s.real(t)

	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@a", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@a")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}

	const nobody = 65534
	demo := filepath.Join(s.repos, "demo.git")
	for _, row := range []struct {
		name  string
		make  func(t *testing.T)
		state State
		text  string
		root  bool
	}{
		{"no directory", func(t *testing.T) { must(t, os.RemoveAll(s.repos)) }, Broken, "the directory of repositories " + s.repos + " does not exist", false},
		{"a file in its place", func(t *testing.T) {
			must(t, os.RemoveAll(s.repos))
			must(t, os.WriteFile(s.repos, nil, 0o600))
		}, Broken, s.repos + " is not a directory", false},
		{"a directory of another user", func(t *testing.T) { must(t, os.Chown(s.repos, nobody, -1)) }, Broken, "directory " + s.repos + " belongs to user nobody, and the gate runs as user root", true},
		{"a directory that everybody may write to", func(t *testing.T) { must(t, os.Chmod(s.repos, 0o1777)) }, Broken, "every user can write to directory " + s.repos, false},
		{"below a directory that everybody may write to", func(t *testing.T) { must(t, os.Chmod(s.directory, 0o777)) }, Broken, "every user can put other repositories in the place of " + s.repos, false},
		{"a repository of another user", func(t *testing.T) { must(t, os.Chown(demo, nobody, -1)) }, Broken, "repository " + demo + " belongs to user nobody", true},
		{"a repository that everybody may write to", func(t *testing.T) { must(t, os.Chmod(demo, 0o777)) }, Broken, "every user can write to repository " + demo, false},
		{"no repository at all", func(t *testing.T) { must(t, os.RemoveAll(demo)) }, Warning, "there is no repository in " + s.repos, false},
		{"a file in a repository's place", func(t *testing.T) {
			must(t, os.RemoveAll(demo))
			must(t, os.WriteFile(demo, nil, 0o600))
		}, Broken, demo + " is not a repository", false},
		{"a link that leads nowhere", func(t *testing.T) {
			must(t, os.RemoveAll(demo))
			must(t, os.Symlink("nowhere", demo))
		}, Broken, "demo.git: no such file or directory", false},
		{"no HEAD", func(t *testing.T) { must(t, os.Remove(demo+"/HEAD")) }, Broken, "repository " + demo + " is broken: git: not a git repository", false},
		{"a configuration that git cannot read", func(t *testing.T) { must(t, os.WriteFile(demo+"/config", []byte("["), 0o600)) }, Broken, "repository " + demo + " is broken: git: bad config line ", false},
		{"a work tree", func(t *testing.T) {
			must(t, os.RemoveAll(demo))
			git("init", "--quiet", demo)
			git("-C", demo, "commit", "--quiet", "--allow-empty", "--message", "begin")
		}, Broken, "repository " + demo + " is not a bare one", false},
		{"a copy of a work tree", func(t *testing.T) { git("-C", demo, "config", "core.bare", "false") }, Broken, "repository " + demo + " is not a bare one", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.root {
				testenv.NeedRoot(t)
			}

			must(t, os.RemoveAll(s.repos))
			must(t, os.RemoveAll(s.repos+".away"))
			must(t, os.Mkdir(s.repos, 0o700))
			must(t, os.Chmod(s.directory, 0o700))
			git("init", "--quiet", "--bare", demo)

			stop := s.start(t, s.tokens)
			defer stop()
			finds(t, s.check("terok-gate", "git", "repositories"), "repositories", OK, s.repos+", repositories: 1")

			row.make(t)
			found := s.check("terok-gate", "git", "repositories")
			finds(t, found, "repositories", row.state, row.text)
			if strings.Contains(found[len(found)-1].Remedy, "PROJECT") {
				return
			}

			paste(t, found, "repositories")
			for _, f := range s.check("terok-gate", "git", "repositories") {
				if f.Check == "repositories" && f.State == Broken {
					t.Errorf("after %s\nthere is still %+v", found[len(found)-1].Remedy, f)
				}
			}
		})
	}
}

func TestDoctorFindsAContainerWhoseProjectHasNoRepository(t *testing.T) {
	s := newServed(t)
	s.start(t, s.tokens)
	s.container(t, "c0ffee0123456789", nil)
	s.container(t, "another", nil)
	found := s.check("terok-gate", "git", "repositories")
	finds(t, found, "repositories", Broken, "living container c0ffee012345 (project demo, task t-c0ffee0123456789): there is no repository "+s.repos+"/demo.git")
	want := printable.Shell(s.bin+"/terok-gate", "add", "--repos", s.repos, "demo")
	if last := found[len(found)-1]; len(found) != 3 || last.Remedy != want { // one finding for both containers
		t.Errorf("%+v\nshould say %s", found, want)
	}
}

func TestDoctorFindsAGitThatTheGateCannotWorkWith(t *testing.T) {
	s := newServed(t)
	for says, want := range map[string]State{
		"git version 2.39.5": OK, "git version 2.50.1 (Apple Git-155)": OK, "git version 3.0.0": OK,
		"git version 2.38.9": Broken, "git version 1.99.0": Broken, "no git": Broken,
	} {
		bin := t.TempDir()
		must(t, os.WriteFile(filepath.Join(bin, "git"), []byte("#!/bin/sh\necho '"+says+"'\n"), 0o755))
		t.Setenv("PATH", bin+":/usr/bin:/bin")
		finds(t, s.check("git"), "git", want, says)
	}
	t.Setenv("PATH", t.TempDir())
	finds(t, s.check("git", "repositories"), "git", Broken, "the gate serves nothing without git: ")
}

// A user who has taken over the gate cannot make root paste a command that gives more away.
func TestDoctorTrustsNoGateOfAnotherUser(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "python3")
	const nobody = 65534

	s := newServed(t)
	must(t, os.Chown(filepath.Dir(s.socket), nobody, -1))
	must(t, os.Chmod(s.directory, 0o711))

	says := `import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.bind(sys.argv[1])
os.setuid(65534)
s.listen()
print("listens", flush=True)
while True:
    c, _ = s.accept()
    c.recv(4096)
    c.send(sys.argv[2].encode())
    c.close()
`

	hostile := func(repos string, uid int) (stop func()) {
		_ = os.Remove(s.socket)
		gate := exec.Command("python3", "-c", says, s.socket, fmt.Sprintf(
			`{"version":1,"gate":{"program":%q,"uid":%d,"token_file":%q,"repos":%q}}`, version.String(), uid, s.tokens, repos))
		out, err := gate.StdoutPipe()
		must(t, err)
		must(t, gate.Start())
		stop = func() { _ = gate.Process.Kill(); _ = gate.Wait() }
		t.Cleanup(stop)
		if _, err := io.ReadFull(out, make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		return stop
	}

	roots := filepath.Join(s.directory, "roots")
	must(t, os.Mkdir(roots, 0o755))
	must(t, os.Chown(s.repos, nobody, -1))
	must(t, os.Symlink(roots, filepath.Join(s.repos, "demo.git")))

	for _, repos := range []string{roots, roots + "/cron.d", s.tokens, s.repos} {
		for _, uid := range []int{0, nobody, 1234} {
			stop := hostile(repos, uid)
			found := s.check("terok-gate", "git", "repositories")
			finds(t, found, "repositories", Broken, "")
			for _, f := range found {
				if f.Check == "repositories" && !strings.HasPrefix(f.Remedy, "see who ") && !strings.HasPrefix(f.Remedy, printable.Shell("mv", s.repos+"/demo.git")) {
					t.Errorf("a gate that says %s and user %d: %s", repos, uid, f.Remedy)
				}
			}
			stop()
		}
	}
}
