//go:build engines

// Package kubelet holds the tests that run a real kubelet, which has static pods and no
// cluster, with containerd and terok-nri. The tests run in a root file system of their own
// (scripts/engines), with a gate that has the repositories itself, as in a cluster of one
// node.
package kubelet

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"terok-gate-hook/e2e/internal/node"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/testenv"
)

const (
	manifests = "/etc/kubernetes/manifests/"
	repo      = "http://127.0.0.1:9418/demo.git"
)

var containerd, gate, nri *node.Daemon

func TestMain(m *testing.M) {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// prepare does what an administrator of a node does.
func prepare() (err error) {
	if err := node.Write("/var/lib/kubelet/config.yaml", node.KubeletConfig+"staticPodPath: "+manifests+"\n"); err != nil {
		return err
	}
	if err := os.MkdirAll(manifests, 0o755); err != nil {
		return err
	}
	if containerd, err = node.Prepare(); err != nil {
		return err
	}

	out, err := node.Sh(`
		terok-gate install --allow-project 'demo*' --allow-project lib
		for project in demo lib; do
			git init -q -b main /root/$project && cd /root/$project
			git -c user.name=n -c user.email=e@example commit -q --allow-empty -m one
			terok-gate add $project /root/$project
		done`)
	fmt.Println(out)
	if err != nil {
		return err
	}

	if err := startGate(); err != nil {
		return err
	}
	if err := startPlugin(); err != nil {
		return err
	}
	_, err = node.Start(func() error { _, err := pods(); return err },
		"kubelet", "--config", "/var/lib/kubelet/config.yaml", "--hostname-override", "node", "--v", "3")
	return err
}

func startPlugin() (err error) {
	_ = os.Remove(node.Log("terok-nri"))
	nri, err = node.Start(func() error { return node.Says("terok-nri", "connected to the engine") },
		"terok-nri", "--allow", "default=demo* default=lib default=secret", "--allow", "team=demo")
	return err
}

func startGate() (err error) {
	gate, err = node.Start(func() error {
		_, err := control.Ask("/run/terok-gate/control", time.Now().Add(time.Second), control.Request{})
		return err
	}, "terok-gate", "serve")
	return err
}

// pod is what the kubelet says about a pod.
type pod struct {
	Metadata struct{ Name, Namespace string }
	Status   struct {
		Message                                  string
		InitContainerStatuses, ContainerStatuses []struct {
			Name, ContainerID string
			RestartCount      int
			State             struct {
				Running             *struct{}
				Waiting, Terminated *struct {
					Reason, Message string
					ExitCode        int
				}
			}
		}
	}
}

var kubelet = http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // on the loopback

// request makes a request of the kubelet.
func request(method, path string) ([]byte, error) {
	r, err := http.NewRequest(method, "https://127.0.0.1:10250"+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := kubelet.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, content)
	}
	return content, err
}

func pods() ([]pod, error) {
	content, err := request("GET", "/pods")
	if err != nil {
		return nil, err
	}
	var list struct{ Items []pod }
	return list.Items, json.Unmarshal(content, &list)
}

// run makes the kubelet run a pod until the test is over.
func run(t *testing.T, namespace, name, annotations, spec string) {
	t.Helper()
	testenv.Must(t, node.Write(manifests+name+".yaml", fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s, annotations: {%s}}\nspec:\n  terminationGracePeriodSeconds: 0\n%s", name, namespace, annotations, spec)))
	t.Cleanup(func() {
		_ = os.Remove(manifests + name + ".yaml")
		if t.Failed() {
			t.Log(node.Must(t, "tail -n 30 /tmp/terok-nri.log; grep 'Event occurred' /tmp/kubelet.log | tail -n 5"))
		}
	})
}

// remove removes a pod, and waits until the kubelet has forgotten it.
func remove(t *testing.T, name string) {
	t.Helper()
	testenv.Must(t, os.Remove(manifests+name+".yaml"))
	testenv.Eventually(t, "the pod is gone", func() bool {
		all, err := pods()
		for _, p := range all {
			if p.Metadata.Name == name+"-node" {
				return false
			}
		}
		return err == nil
	})
}

// status waits until the function "is" returns true for what the kubelet says about a pod. In
// messages, the parameter "what" names the state that is waited for.
func status(t *testing.T, name, what string, is func(pod) bool) (found pod) {
	t.Helper()
	testenv.Eventually(t, "pod "+name+" "+what, func() bool {
		all, _ := pods()
		for _, p := range all {
			if p.Metadata.Name == name+"-node" {
				found = p
				return is(p)
			}
		}
		return false
	})
	return found
}

// running waits until all containers of a pod run.
func running(t *testing.T, name string) pod {
	t.Helper()
	return status(t, name, "runs", func(p pod) bool {
		for _, c := range p.Status.ContainerStatuses {
			if c.State.Running == nil {
				return false
			}
		}
		return len(p.Status.ContainerStatuses) > 0
	})
}

// execute runs a command in a container through the kubelet, as kubectl exec does.
func execute(namespace, pod, container string, command ...string) (string, error) {
	out, err := request("POST", fmt.Sprintf("/run/%s/%s-node/%s?cmd=%s", namespace, pod, container, url.QueryEscape(strings.Join(command, " "))))
	return string(out), err
}

// pid returns the pid of a container of a pod.
func pid(t *testing.T, p pod, container string) int {
	t.Helper()
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == container {
			id := strings.TrimPrefix(c.ContainerID, "containerd://")
			pid, err := strconv.Atoi(node.Must(t, "ctr --namespace k8s.io tasks ls | awk '$1 == \""+id+"\" {print $2}'"))
			testenv.Must(t, err)
			return pid
		}
	}
	t.Fatalf("no container %s", container)
	return 0
}

type entry struct{ Project, Task, Container string }

// tokens returns what each token of the token file is for.
func tokens(t *testing.T) (list []entry) {
	t.Helper()
	testenv.Must(t, json.Unmarshal([]byte(node.Must(t, "terok-gate list --json")), &list))
	return list
}

func noTokens(t *testing.T) {
	t.Helper()
	testenv.Eventually(t, "no tokens are left", func() bool { return len(tokens(t)) == 0 })
}

const work = `git clone -q $CODE_REPO /tmp/d && cd /tmp/d && git -c user.name=n -c user.email=e@example commit -q --allow-empty -m "$0" && git push -q origin HEAD:refs/heads/$0 && sleep 100000`

func container(name, more string) string {
	return fmt.Sprintf("  - {name: %s, image: %q%s}\n", name, node.Image, more)
}

func works(branch string) string {
	command, _ := json.Marshal([]string{"sh", "-ec", work, branch})
	return ", command: " + string(command)
}

func TestEachContainerOfAPodClonesAndPushesWithATokenOfItsOwn(t *testing.T) {
	run(t, "default", "demo", `terok.project: demo, terok.task/work: "1", terok.task/test: "2", terok.task/before: "0"`, `  initContainers:
`+container("before", `, command: [sh, -ec, "git ls-remote $CODE_REPO"]`)+`  containers:
`+container("work", works("of-work"))+container("test", works("of-test")+", securityContext: {runAsUser: 1234, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}, volumeMounts: [{name: tmp, mountPath: /tmp}]")+`  volumes: [{name: tmp, emptyDir: {}}]
`)
	running(t, "demo")
	testenv.Eventually(t, "both have pushed", func() bool {
		refs, _ := node.Sh("git -C /var/lib/terok-gate/repos/demo.git for-each-ref")
		return strings.Contains(refs, "refs/heads/of-work") && strings.Contains(refs, "refs/heads/of-test")
	})

	tasks := map[string]string{}
	for _, e := range tokens(t) {
		tasks[e.Task] = e.Project
	}
	if len(tasks) != 2 || tasks["1"] != "demo" || tasks["2"] != "demo" {
		t.Errorf("tokens of %v", tasks)
	}

	for _, container := range []string{"work", "test"} {
		out, err := execute("default", "demo", container, "git", "ls-remote", repo)
		if err != nil || !strings.Contains(out, "refs/heads/of-work") {
			t.Errorf("exec in %s, with nothing sourced: %v %s", container, err, out)
		}
	}

	remove(t, "demo")
	noTokens(t)
}

func TestAPodWithoutAnnotationsIsLeftAlone(t *testing.T) {
	run(t, "default", "plain", "terok.sandbox.sidecar: x", "  containers:\n"+container("work", ""))
	running(t, "plain")
	out, err := execute("default", "plain", "work", "env")
	if err != nil || strings.Contains(out, "TEROK") || strings.Contains(out, "9418") {
		t.Errorf("%v %s", err, out)
	}
	if list := tokens(t); len(list) != 0 {
		t.Errorf("tokens: %v", list)
	}
}

func TestThePodsStatusSaysWhyItIsRefused(t *testing.T) {
	for i, row := range []struct{ name, namespace, annotations, spec, before, after, why string }{
		{"a project that is not the namespace's", "team", `terok.project: demo2, terok.task: "1"`, "", "", "", `pods of namespace "team" may not name project "demo2": terok-nri needs --allow team=demo2`},
		{"a namespace that may name no project", "other", `terok.project: demo, terok.task: "1"`, "", "", "", `pods of namespace "other" may not name project "demo"`},
		{"another project to read", "team", `terok.project: demo, terok.task: "1", terok.read: lib`, "", "", "", `pods of namespace "team" may not name project "lib"`},
		{"a project that the node does not admit", "default", `terok.project: secret, terok.task: "1"`, "", "", "", "not among those that are admitted"},
		{"a project without a task", "default", "terok.project: demo", "", "", "", "terok.task is not: set both or neither"},
		{"a bad task", "default", `terok.project: demo, terok.task: a/b`, "", "", "", "annotation terok.task: use letters"},
		{"a misspelled limit", "default", `terok.project: demo, terok.task: "1", terok.acess: read`, "", "", "", "is not known"},
		{"the host's network", "default", `terok.project: demo, terok.task: "1"`, "  hostNetwork: true\n", "", "", "the container is in the host's network"},
		{"no gate", "default", `terok.project: demo, terok.task: "1"`, "", "mv /run/terok-gate/control /run/terok-gate/away", "mv /run/terok-gate/away /run/terok-gate/control", "the gate does not answer"},
		{"no hook", "default", `terok.project: demo, terok.task: "1"`, "", "mv /usr/bin/terok-gate-hook /usr/bin/away", "mv /usr/bin/away /usr/bin/terok-gate-hook", "terok-gate-hook: no such file or directory"},
		{"no device", "default", `terok.project: demo, terok.task: "1"`, "", "mv /etc/cdi/terok.json /etc/cdi/away", "mv /etc/cdi/away /etc/cdi/terok.json", "has no device annotated"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.before != "" {
				node.Must(t, row.before)
				defer node.Must(t, row.after)
			}
			name := fmt.Sprint("refused-", i)
			run(t, row.namespace, name, row.annotations, row.spec+"  containers:\n"+container("work", ""))
			var said string
			p := status(t, name, "is refused", func(p pod) bool {
				for _, c := range p.Status.ContainerStatuses {
					if c.State.Waiting != nil && c.State.Waiting.Message != "" {
						said = c.State.Waiting.Message
						return true
					}
				}
				return false
			})
			if !strings.Contains(said, row.why) {
				t.Errorf("no refusal with %q: %s %+v", row.why, said, p.Status)
			}
			if list := tokens(t); len(list) != 0 {
				t.Errorf("tokens: %v", list)
			}
			remove(t, name) // before row.after brings back what was missing, since the kubelet tries again
		})
	}
}

func TestNothingIsServedAfterAContainersDeath(t *testing.T) {
	run(t, "default", "dying", `terok.project: demo, terok.task: "1"`, "  containers:\n"+container("dies", "")+container("lives", ""))
	p := running(t, "dying")
	dies := node.Hold(t, pid(t, p, "dies"))
	testenv.Must(t, dies.Served(dies.Token, repo))

	dies.Kill(t)
	if err := dies.Served(dies.Token, repo); err == nil {
		t.Error("a request that began after the death was served")
	}
	if _, err := execute("default", "dying", "lives", "git", "ls-remote", repo); err != nil {
		t.Errorf("the pod's other container is not served: %v", err)
	}

	status(t, "dying", "has restarted the container", func(p pod) bool {
		for _, c := range p.Status.ContainerStatuses {
			if c.Name == "dies" && c.RestartCount == 1 && c.State.Running != nil {
				return true
			}
		}
		return false
	})
	if _, err := execute("default", "dying", "dies", "git", "ls-remote", repo); err != nil {
		t.Errorf("the restarted container is not served: %v", err)
	}
	if err := dies.Served(dies.Token, repo); err == nil {
		t.Error("the dead container's token is valid again")
	}
	remove(t, "dying")
	noTokens(t)
}

func TestThePluginConnectsAgainWhenTheEngineHasRestarted(t *testing.T) {
	testenv.Must(t, os.Truncate(node.Log("terok-nri"), 0))
	containerd.Kill(t)
	var err error
	containerd, err = node.StartContainerd()
	testenv.Must(t, err)
	testenv.Eventually(t, "the plugin is connected", func() bool {
		return node.Says("terok-nri", "connected to the engine") == nil && !errors.Is(node.There("/run/nri/nri.sock"), os.ErrNotExist)
	})

	run(t, "default", "again", `terok.project: demo, terok.task: "1"`, "  containers:\n"+container("work", ""))
	running(t, "again")
	if out, err := execute("default", "again", "work", "git", "ls-remote", repo); err != nil {
		t.Errorf("%v %s", err, out)
	}
}

// In a cluster the gate runs in a pod, so no service manager keeps its listeners. Here, too, the
// gate runs without one.
func TestAGateThatStartsServesTheContainersThatLive(t *testing.T) {
	run(t, "default", "living", `terok.project: demo, terok.task: "1"`, "  containers:\n"+container("work", "")+container("test", ""))
	running(t, "living")
	gate.Kill(t)
	if _, err := execute("default", "living", "work", "git", "ls-remote", repo); err == nil {
		t.Error("without a gate, a container is served")
	}
	testenv.Must(t, startGate())
	for _, container := range []string{"work", "test"} {
		testenv.Eventually(t, container+" is served again", func() bool {
			_, err := execute("default", "living", container, "git", "ls-remote", repo)
			return err == nil
		})
	}
	remove(t, "living")
	noTokens(t)
}

func TestDoctorSaysWhetherTheNodesPodsGetTheGate(t *testing.T) {
	if out, err := node.Sh("terok-gate doctor"); err != nil || !strings.Contains(out, "✓ nri: terok-nri is connected to the engine") {
		t.Errorf("%v %s", err, out)
	}
	nri.Kill(t)
	if out := node.Must(t, "terok-gate doctor"); !strings.Contains(out, "! nri: a kubelet runs, but terok-nri does not") {
		t.Error(out)
	}
	testenv.Must(t, startPlugin())
}
