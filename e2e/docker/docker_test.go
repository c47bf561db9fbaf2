//go:build engines

// Package docker holds the tests that run real Docker and containerd, whose containers ask
// for a project as a device. The tests run in a root file system of their own
// (scripts/engines), which has its own daemons and nothing of the machine. What remains on
// the machine is an empty cgroup docker, and one of containerd's.
package docker

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"terok-gate-hook/internal/testenv"
)

const (
	image = "e2e"
	repo  = "http://127.0.0.1:9418/demo.git"
	// The flags of docker run for a container of the project.
	device = "--network none --device terok.dev/project=demo "
)

var daemon, gate *exec.Cmd

func TestMain(m *testing.M) {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// prepare does what an administrator does: it starts the daemons, installs, and adds a
// project. There is no podman in PATH until a test asks for it.
func prepare() error {
	if err := os.WriteFile("/etc/docker/daemon.json", []byte(os.Getenv("TEROK_DOCKER_CONFIG")), 0o644); err != nil {
		return err
	}
	containerd := exec.Command("containerd")
	if err := start(containerd, "containerd", "ctr version"); err != nil {
		return err
	}
	if err := startDocker(); err != nil {
		return err
	}

	build := exec.Command("go", "build", "-o", "/usr/bin/", ".", "./cmd/terok-gate")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w: %s", err, out)
	}
	out, err := sh(`
		mv /usr/bin/podman /usr/bin/podman-later
		terok-gate install
		git init -q -b main /root/demo && cd /root/demo
		git -c user.name=n -c user.email=e@example commit -q --allow-empty -m one
		terok-gate add demo /root/demo
		mkdir -p /image/bin /image/usr/lib/git-core /image/tmp /image/etc && cd /image
		cp /usr/bin/git bin/git && cp /usr/lib/git-core/git-remote-http usr/lib/git-core/
		cp /usr/bin/busybox bin/ && for name in sh sleep cat env id tail true wget grep date; do ln -s busybox bin/$name; done
		ldd bin/git usr/lib/git-core/git-remote-http | grep -o '/[^ ]*\.so[^ ]*' | sort -u | tar -C / -ch --files-from=- 2>/dev/null | tar -x
		echo root:x:0:0::/:/bin/sh >etc/passwd
		tar -c . | docker import - ` + image + `
		docker save ` + image + ` | ctr images import --digests=false -`)
	fmt.Println(out)
	if err != nil {
		return err
	}
	if !strings.Contains(out, "Docker: containers with --device") || !strings.Contains(out, "containerd: containers with --device") || strings.Contains(out, "podman:") {
		return errors.New("install does not say what it did for each engine")
	}
	return startGate()
}

func startGate() error {
	gate = exec.Command("terok-gate", "serve")
	return start(gate, "gate", "terok-gate doctor --json | grep -q 'a gate answers'")
}

func startDocker() error {
	daemon = exec.Command("dockerd")
	return start(daemon, "dockerd", "docker info")
}

// start starts a daemon and waits until the command succeeds.
func start(cmd *exec.Cmd, name, until string) error {
	log, err := os.Create("/tmp/" + name + ".log")
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	var last error
	if !testenv.Wait(func() bool { _, last = sh(until); return last == nil }) {
		return fmt.Errorf("%s does not come up: %w", name, last)
	}
	return nil
}

// sh runs a script and returns what the script writes to both outputs.
func sh(script string) (string, error) {
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return string(out), err
}

func must(t *testing.T, script string) string {
	t.Helper()
	out, err := sh(script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func refused(t *testing.T, script, why string) {
	t.Helper()
	if out, err := sh(script); err == nil || !strings.Contains(out, why) {
		t.Errorf("%s: no refusal with %q: %v %s", script, why, err, out)
	}
}

const work = `'git clone -q $CODE_REPO /tmp/d 2>/dev/null; cd /tmp/d; git -c user.name=n -c user.email=e@example commit -q --allow-empty -m two; git push -q'`

func TestAContainerClonesCommitsAndPushesWithoutANetwork(t *testing.T) {
	t.Log(must(t, "docker version --format '{{.Server.Version}}'"))
	before := must(t, "git -C /var/lib/terok-gate/repos/demo.git rev-parse main")
	must(t, "docker run --rm "+device+image+" sh -ec "+work)
	if after := must(t, "git -C /var/lib/terok-gate/repos/demo.git rev-parse main"); after == before {
		t.Error("nothing was pushed")
	}
}

// The command of docs/engines.md works word for word.
func TestThePagesStepWithDocker(t *testing.T) {
	page, err := os.ReadFile("../../docs/engines.md")
	testenv.Must(t, err)
	_, step, _ := strings.Cut(string(page), "this is step 3 of the README")
	_, step, _ = strings.Cut(step, "```sh\n")
	step, _, found := strings.Cut(step, "```\n")
	if !found {
		t.Fatal("the page has no such step")
	}

	must(t, "image="+image+"\n"+step)
	if review := must(t, "terok-gate review"); !strings.Contains(review, "task-1") || !strings.Contains(review, "Note the time") {
		t.Errorf("there is nothing to review: %s", review)
	}
}

// docker exec gets the variables of docker run -e.
func TestAContainerHasAnIdentityIfItAsksForIt(t *testing.T) {
	must(t, "docker run -d --name named -e GIT_CONFIG_SYSTEM=/run/terok/gitidentity "+device+image+" "+forEver)
	t.Cleanup(func() { _, _ = sh("docker rm -f named") })
	who := must(t, "docker exec named sh -ec 'git clone -q "+repo+" /tmp/d 2>/dev/null; cd /tmp/d; git commit -q --allow-empty -m two; git log -1 --format=%an'")
	if id := must(t, "docker inspect -f '{{.Id}}' named"); who != id[:12] {
		t.Errorf("the commit is by %q, and the task is %.12s", who, id)
	}
}

// docker exec gets none of the variables that the device sets.
func TestExecNeedsNothingSourcedAndNoToken(t *testing.T) {
	must(t, "docker run -d --name exec "+device+image+" sleep 1000")
	t.Cleanup(func() { _, _ = sh("docker rm -f exec") })
	for _, user := range []string{"0", "65534"} {
		must(t, "docker exec -u "+user+" exec git ls-remote "+repo)
	}
	id := must(t, "docker inspect -f '{{.Id}}' exec")
	if list := must(t, "terok-gate list"); !strings.Contains(list, id[:12]) {
		t.Errorf("the task is not the container's id: %s", list)
	}
	tokens := strings.Fields(must(t, "grep -o 'terok-g-[0-9a-f]*' /var/lib/terok/sandbox/gate/tokens.json"))
	for _, where := range []string{"docker inspect exec", "docker export exec | cat", "docker exec exec env", "docker exec exec sh -c 'cat /run/terok/*'", "grep -r --text terok-g- /var/lib/docker/containers /run/containerd /run/docker || true"} {
		out := must(t, where)
		for _, token := range tokens {
			if strings.Contains(out, token) {
				t.Errorf("%s has the token %q", where, token)
			}
		}
	}
}

// kill ends a process of a test.
func kill(t *testing.T, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("pid %d", pid)
	}
	testenv.Must(t, syscall.Kill(pid, syscall.SIGKILL))
}

func killDocker(t *testing.T) {
	t.Helper()
	kill(t, daemon.Process.Pid)
	_ = daemon.Wait()
}

// A daemon that comes back starts containers with a restart policy. Before Docker 28.2, it
// does not start those with devices (moby#49989).
func TestADaemonThatComesBackStartsContainersWithNewTokens(t *testing.T) {
	must(t, "docker run -d --restart always --stop-timeout 1 --name back "+device+image+" "+forEver)
	t.Cleanup(func() { _, _ = sh("docker rm -f back") })
	before := must(t, "terok-gate list --json")
	endDocker(t)
	testenv.Must(t, startDocker())
	if strings.HasPrefix(must(t, "docker version --format '{{.Server.Version}}'"), "26.") {
		refused(t, "docker exec back true", "is not running")
		must(t, "docker start back")
	}
	testenv.Eventually(t, "it is served again", func() bool { _, err := sh("docker exec back git ls-remote " + repo); return err == nil })
	if after := must(t, "terok-gate list --json"); after == before || strings.Count(after, `"container"`) != 1 {
		t.Errorf("tokens before: %s, after: %s", before, after)
	}
}

func TestDockerFailsClosed(t *testing.T) {
	run := "docker run --rm --name closed "
	must(t, "docker run -d --name neighbour "+device+image+" sleep 1000")
	t.Cleanup(func() { _, _ = sh("docker rm -f neighbour") })
	annotated := "--network none --device terok.dev/project=annotated "
	for _, row := range []struct{ name, args, why string }{
		{"no such device", "--network none --device terok.dev/project=none " + image, "unresolvable CDI devices terok.dev/project=none"},
		{"two devices", device + "--device terok.dev/project=annotated --annotation terok.project=demo --annotation terok.task=1 " + image, "the container has a token already"},
		{"another project annotated", device + "--annotation terok.project=other " + image, "names another project than the device"},
		{"an annotation that is not known", device + "--annotation terok.acess=read " + image, "is not known"},
		{"no annotations", annotated + image, "the device needs annotations"},
		{"a project annotated without a task", annotated + "--annotation terok.project=demo " + image, "set both or neither"},
		{"the host's network", "--network host --device terok.dev/project=demo " + image, "the container is in the host's network"},
		{"a neighbour's network", "--network container:neighbour --device terok.dev/project=demo " + image, "the container shares its network"},
	} {
		t.Run(row.name, func(t *testing.T) { refused(t, run+row.args+" true", row.why) })
	}

	// What makes no difference to the hook is not refused.
	for _, flags := range []string{"--privileged", "--pid host", "--read-only", "--user 1000", "--annotation terok.task=7"} {
		t.Run(flags, func(t *testing.T) { must(t, run+flags+" "+device+image+" git ls-remote "+repo) })
	}
	t.Run("read only", func(t *testing.T) {
		refused(t, run+device+"--annotation terok.access=read "+image+" sh -ec "+work, "the token may fetch and not push")
	})

	for _, command := range []string{"docker build --device terok.dev/project=demo /image", "docker service create --device terok.dev/project=demo " + image} {
		t.Run(command, func(t *testing.T) { refused(t, command, "unknown flag: --device") })
	}
	t.Run("no hook", func(t *testing.T) {
		must(t, "mv /usr/bin/terok-gate-hook /usr/bin/away")
		defer must(t, "mv /usr/bin/away /usr/bin/terok-gate-hook")
		refused(t, run+device+image+" true", "terok-gate-hook: no such file or directory")
	})
	t.Run("no gate", func(t *testing.T) {
		must(t, "mv /run/terok-gate/control /run/terok-gate/away")
		defer must(t, "mv /run/terok-gate/away /run/terok-gate/control")
		refused(t, run+device+image+" true", "the gate does not answer")
	})
	t.Run("a project that was removed", func(t *testing.T) {
		must(t, "terok-gate add short && "+run+"--network none --device terok.dev/project=short "+image+" true && terok-gate remove short")
		refused(t, run+"--network none --device terok.dev/project=short "+image+" true", "unresolvable CDI devices terok.dev/project=short")
	})
	t.Run("no file", func(t *testing.T) {
		must(t, "mv /etc/cdi/terok.json /etc/cdi/away")
		defer must(t, "mv /etc/cdi/away /etc/cdi/terok.json")
		refused(t, run+device+image+" true", "unresolvable CDI devices terok.dev/project=demo")
	})
	if list := must(t, "terok-gate list"); strings.Count(list, "\n") != 1 {
		t.Errorf("tokens remain beside the neighbour's:\n%s", list)
	}
}

// restartDocker gives the daemon other settings, as jq changes them, until the test is over.
func restartDocker(t *testing.T, change string) {
	t.Helper()
	config, err := os.ReadFile("/etc/docker/daemon.json")
	testenv.Must(t, err)
	again := func(config []byte) {
		testenv.Must(t, os.WriteFile("/etc/docker/daemon.json", config, 0o644))
		endDocker(t)
		testenv.Must(t, startDocker())
	}
	t.Cleanup(func() { again(config) })
	again([]byte(must(t, "jq '"+change+"' /etc/docker/daemon.json")))
}

// endDocker ends the daemon, which stops its containers.
func endDocker(t *testing.T) {
	t.Helper()
	testenv.Must(t, daemon.Process.Signal(syscall.SIGTERM))
	_ = daemon.Wait()
}

func TestWithLiveRestoreAContainerKeepsItsTokenWhileItLives(t *testing.T) {
	restartDocker(t, `."live-restore" = true`)
	must(t, "docker run -d --stop-timeout 1 --name living "+device+image+" sleep 1000")
	t.Cleanup(func() { _, _ = sh("docker rm -f living") })
	pid, err := strconv.Atoi(must(t, "docker inspect -f '{{.State.Pid}}' living"))
	testenv.Must(t, err)
	network := networkOf(t, pid)

	killDocker(t)
	testenv.Must(t, network.served(""))
	testenv.Must(t, startDocker())
	must(t, "docker exec living git ls-remote "+repo)

	must(t, "docker rm -f living")
	if err := network.served(""); err == nil {
		t.Error("a request that began after the death was served")
	}
}

// With user namespaces, a container's root is another user of the host.
func TestUserNamespacesMakeNoDifference(t *testing.T) {
	must(t, "useradd -r dockremap && echo dockremap:100000:65536 | tee -a /etc/subuid >>/etc/subgid; docker save "+image+" >/tmp/image.tar")
	restartDocker(t, `."userns-remap" = "default"`)
	must(t, "docker load </tmp/image.tar")
	must(t, "docker run --rm "+device+image+" sh -ec "+work)
	must(t, "docker run --rm --user 1000 "+device+image+" git ls-remote "+repo)
}

func TestContainerdTakesTheDeviceToo(t *testing.T) {
	version := must(t, "ctr version | sed -n 's/ *Version: *//p' | tail -n 1")
	t.Log(version)
	const ofImage = "docker.io/library/" + image + ":latest "
	if strings.HasPrefix(strings.TrimPrefix(version, "v"), "1.") { // its ctr knows device files alone; its CRI plugin knows CDI
		refused(t, "ctr run --rm --device terok.dev/project=demo "+ofImage+"by-ctr true", "stat terok.dev/project=demo: no such file or directory")
		return
	}
	must(t, "ctr run --rm --device terok.dev/project=demo "+ofImage+"by-ctr sh -ec "+work)
	refused(t, "ctr run --rm --device terok.dev/project=none "+ofImage+"by-ctr true", "unresolvable CDI devices")
	noTokenRemains(t, "terok-gate")

	for _, d := range []death{
		{name: "exit", command: untilEnd, die: does("ctr task exec --exec-id end dying sh -c '>/tmp/end'")},
		{name: "kill -9 of the process", command: forEver, die: kill},
		{name: "ctr task kill", command: forEver, die: does("ctr task kill -s KILL dying")},
		{name: "ctr task rm -f", command: forEver, die: does("ctr task rm -f dying")},
		{name: "out of memory", command: outOfMemory, die: does("ctr task exec --exec-id end dying sh -c '>/tmp/end'")},
		{name: "its shim killed", command: forEver, die: killShim},
	} {
		t.Run(d.name, func(t *testing.T) {
			must(t, "ctr run --detach --memory-limit 31457280 --device terok.dev/project=demo "+ofImage+"dying "+d.command)
			t.Cleanup(func() { must(t, "ctr task rm -f dying || true; ctr container rm dying") })
			must(t, "ctr task exec --exec-id ask dying git ls-remote "+repo)
			pid, err := strconv.Atoi(must(t, "ctr task ls | sed -n 's/^dying *\\([0-9]*\\) .*/\\1/p'"))
			testenv.Must(t, err)
			network := networkOf(t, pid)

			d.strikes(t, pid, network, "", "terok-gate")
			network.goes(t)
		})
	}
	noTokenRemains(t, "terok-gate")
}
