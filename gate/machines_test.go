package gate_test

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// machines are a host and the machine with the repositories: network namespaces with a link
// between them, and a terok-gate in each.
type machines struct {
	dir         string
	authority   *testenv.Authority
	repos, host *testenv.NetworkProcess
	tokens      store.File        // of the host
	programs    map[string]string // by the name of the gate that runs it; the other gates run terok-gate
}

const (
	reposIP = "192.0.2.1"
	hostIP  = "192.0.2.2"
)

func startMachines(t *testing.T) *machines {
	t.Helper()
	m := &machines{dir: memory(t)}
	m.authority = testenv.NewAuthority(t, m.dir)
	m.repos, m.host = testenv.StartInNetwork(t, 0), testenv.StartInNetwork(t, 0)
	m.tokens = store.File{Path: filepath.Join(m.dir, "tokens.json")}

	mustRun(t, m.repos.Command("ip", "link", "add", "there", "type", "veth", "peer", "name", "here", "netns", fmt.Sprint(m.host.PID)))
	for _, end := range []struct {
		of       *testenv.NetworkProcess
		name, ip string
	}{{m.repos, "there", reposIP}, {m.host, "here", hostIP}} {
		mustRun(t, end.of.Command("ip", "address", "add", end.ip+"/24", "dev", end.name))
		mustRun(t, end.of.Command("ip", "link", "set", end.name, "up"))
	}
	m.certify(t, "repos", func(*x509.Certificate) {})
	m.certify(t, "host-a", func(*x509.Certificate) {})
	return m
}

// certify makes the certificate of a gate, or replaces it.
func (m *machines) certify(t *testing.T, name string, edit func(*x509.Certificate)) {
	t.Helper()
	m.authority.Issue(t, name, func(c *x509.Certificate) {
		if name == "repos" {
			c.IPAddresses = []net.IP{net.ParseIP(reposIP)}
		}
		edit(c)
	}, name)
}

func mustRun(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v: %s", cmd.Args, err, out)
	}
}

// path returns the path of a file of the machines.
func (m *machines) path(name string) string { return filepath.Join(m.dir, name) }

// start starts a gate on one of the machines. The gate ends with the test.
func (m *machines) start(t *testing.T, on *testenv.NetworkProcess, name string, args ...string) *exec.Cmd {
	t.Helper()
	ordinary, err := terokGate()
	must(t, err)
	program := cmp.Or(m.programs[name], ordinary)
	cmd := on.Command(program, append([]string{
		"--token-file", m.path(map[bool]string{true: "tokens.json", false: name + "/tokens.json"}[on == m.host]), "--log-file", m.path(name + ".log"), "serve",
		"--tls-cert", m.path(name + ".pem"), "--tls-key", m.path(name + ".key"), "--tls-ca", m.authority.CA,
	}, args...)...)
	log := &safeBuffer{}
	cmd.Stderr = log
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", name, log)
		}
	})
	testenv.Eventually(t, name+" serves", func() bool {
		return strings.Contains(log.String(), "msg=serving") || strings.Contains(log.String(), " INFO serving")
	})
	return cmd
}

func (m *machines) startRepos(t *testing.T) *exec.Cmd {
	t.Helper()
	return m.start(t, m.repos, "repos", "--repos", m.path(""), "--tls-listen", reposIP+":9419", "--vouch", "host-a=demo")
}

func (m *machines) startHost(t *testing.T) *exec.Cmd {
	t.Helper()
	return m.start(t, m.host, "host-a", "--repository-gate", "https://"+reposIP+":9419", "--listen", "127.0.0.1:9418")
}

// git returns git with these arguments on the host.
func (m *machines) git(args ...string) *exec.Cmd {
	plain := command(m.dir, args...)
	cmd := m.host.Command(plain.Path, plain.Args[1:]...)
	cmd.Dir, cmd.Env = plain.Dir, plain.Env
	return cmd
}

// transfer starts a clone or a push of a large repository, and returns when ten MiB have gone over.
func (m *machines) transfer(t *testing.T, push bool, large func() (string, error)) (cmd *exec.Cmd, said *bytes.Buffer) {
	t.Helper()
	token, err := m.tokens.CreateToken("demo", "1")
	must(t, err)
	url := "http://" + string(token) + ":@127.0.0.1:9418/demo.git"
	demo, work := m.path("demo.git"), m.path("work.git")
	git(t, m.dir, "init", "--quiet", "--bare", "--initial-branch=main", demo)
	git(t, m.dir, "init", "--quiet", "--bare", "--initial-branch=main", work)

	far := m.path("clone/objects/pack/tmp_pack_*")
	cmd = m.git("clone", "--quiet", "--bare", url, "clone")
	source := demo
	if push {
		source, far = work, demo+"/objects/tmp_objdir-incoming-*/pack/tmp_pack_*"
		cmd = m.git("--git-dir=work.git", "push", "--quiet", url, "main")
	}
	git(t, source, "update-ref", "refs/heads/main", borrowFrom(t, source, large))

	said = &bytes.Buffer{}
	cmd.Stderr = said
	must(t, cmd.Start())
	t.Cleanup(func() {
		killTree(cmd.Process.Pid)
		_ = cmd.Wait()
	})
	testenv.Eventually(t, "the transfer is under way", func() bool { return sizeOf(far) > 10<<20 })
	return cmd, said
}

// gitOfRepos returns git's processes in the repository.
func (m *machines) gitOfRepos() []string { return processesIn(m.path("demo.git")) }

// bounded logs how long it takes until a condition holds, which must be no longer than bound.
func bounded(t *testing.T, what string, bound time.Duration, is func() bool) {
	t.Helper()
	began := time.Now()
	testenv.Eventually(t, what, is)
	took := time.Since(began).Round(time.Millisecond)
	t.Logf("%s: at most %v, seen %v", what, bound, took)
	if took > bound {
		t.Errorf("%s after %v, not within %v", what, took, bound)
	}
}

func TestFaultsBetweenMachines(t *testing.T) {
	const vanished = 6 * time.Second // five until it is noticed, and a second's grace
	type faulty struct {
		*machines
		repos, host *exec.Cmd
	}
	linkDown := func(t *testing.T, f *faulty) {
		mustRun(t, f.machines.repos.Command("ip", "link", "set", "there", "down"))
	}
	gone := func(f *faulty) func() bool { return func() bool { return len(f.gitOfRepos()) == 0 } }

	for name, inject := range map[string]func(t *testing.T, f *faulty){
		"the link is cut": func(t *testing.T, f *faulty) {
			linkDown(t, f)
			bounded(t, "git has ended at the repository", vanished, gone(f))
			bounded(t, "the request has ended at the host", vanished, func() bool {
				lines, _ := readFile(f.path("host-a.log"))
				return strings.Contains(lines, `"event":"failed"`)
			})
		},
		"the link is cut, and the token is revoked before it is back": func(t *testing.T, f *faulty) {
			linkDown(t, f)
			_, err := f.tokens.RevokeTokenForTask("demo", "1")
			must(t, err)
			mustRun(t, f.machines.repos.Command("ip", "link", "set", "there", "up"))
			bounded(t, "git has ended at the repository", vanished, gone(f))
		},
		"the host's gate is killed": func(t *testing.T, f *faulty) {
			must(t, f.host.Process.Kill())
			bounded(t, "git has ended at the repository", time.Second, gone(f))
		},
		"the repository gate is killed, and starts again": func(t *testing.T, f *faulty) {
			must(t, f.repos.Process.Kill())
			bounded(t, "git has ended at the repository", time.Second, gone(f))
			_ = f.repos.Wait()
			token, err := f.tokens.CreateToken("demo", "2")
			must(t, err)
			url := "http://" + string(token) + ":@127.0.0.1:9418/demo.git"
			if out, err := f.git("ls-remote", url).CombinedOutput(); err == nil || !strings.Contains(string(out), "the gate with the repositories does not answer") {
				t.Errorf("meanwhile git says %s", out)
			}
			f.startRepos(t)
			mustRun(t, f.git("ls-remote", url))
		},
	} {
		for _, push := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, push %v", name, push), func(t *testing.T) {
				m := startMachines(t)
				f := &faulty{machines: m, repos: m.startRepos(t), host: m.startHost(t)}
				m.transfer(t, push, gigabyte)
				inject(t, f)
				if push {
					if refs := git(t, m.path("demo.git"), "for-each-ref"); refs != "" {
						t.Errorf("moved: %s", refs)
					}
				}
			})
		}
	}
}

// A process that is stopped and later goes on loses nothing: the other side does not take it for a
// machine that has vanished. Requests that begin meanwhile wait for the process.
func TestATransferOutlastsStoppedProcesses(t *testing.T) {
	const stopped = 8 * time.Second // longer than it takes until a machine counts as vanished
	for name, which := range map[string]func(m *machines, repos, host, client *exec.Cmd) int{
		"the repository gate": func(_ *machines, repos, _, _ *exec.Cmd) int { return repos.Process.Pid },
		"the host's gate":     func(_ *machines, _, host, _ *exec.Cmd) int { return host.Process.Pid },
		"the client":          func(_ *machines, _, _, client *exec.Cmd) int { return client.Process.Pid },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := startMachines(t)
			repos, host := m.startRepos(t), m.startHost(t)
			client, said := m.transfer(t, false, quarter)
			pid := which(m, repos, host, client)
			pids := append(childrenOf(pid), pid)
			for _, pid := range pids {
				must(t, syscall.Kill(pid, syscall.SIGSTOP))
			}
			if sizeOf(m.path("clone/objects/pack/tmp_pack_*")) == 0 {
				t.Error("the transfer was over before the processes were stopped")
			}
			token, err := m.tokens.CreateToken("demo", "2")
			must(t, err)
			begun := m.git("ls-remote", "http://"+string(token)+":@127.0.0.1:9418/demo.git")
			must(t, begun.Start())
			time.Sleep(stopped) // the fault itself
			for _, pid := range pids {
				must(t, syscall.Kill(pid, syscall.SIGCONT))
			}
			if err := client.Wait(); err != nil {
				t.Errorf("after %v: %v: %s", stopped, err, said)
			}
			if err := begun.Wait(); err != nil {
				t.Errorf("a request that began meanwhile: %v", err)
			}
		})
	}
}

// childrenOf returns the processes below one of ours.
func childrenOf(pid int) (below []int) {
	for _, list := range glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) { // a Go program starts children from any thread
		children, _ := readFile(list)
		for _, child := range strings.Fields(children) {
			var number int
			fmt.Sscan(child, &number)
			below = append(append(below, number), childrenOf(number)...)
		}
	}
	return below
}
