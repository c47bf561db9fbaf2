//go:build engines

package kubernetes

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"terok-gate-hook/e2e/internal/node"
	"terok-gate-hook/internal/testenv"
)

const (
	pods2    = "10.88.1.0/24"
	address2 = "10.89.0.2"

	repo = "http://127.0.0.1:9418/demo.git"
)

// join makes the second node, which then joins the cluster.
var join = sync.OnceValues(func() (two *node.Machine, err error) {
	if two, err = node.NewMachine("two", address2, address); err != nil {
		return nil, err
	}
	if _, err := node.Sh("ip route add " + pods2 + " via " + address2); err != nil {
		return nil, err
	}
	if err := two.Prepare(pods2); err != nil {
		return nil, err
	}
	words := strings.Fields(kubelet("two", address2))
	_, err = two.Start(func() error { _, err := node.Sh(isReady("two")); return err }, words[0], words[1:]...)
	return two, err
})

// twoNodes gives the cluster two nodes, each with a gate, and another gate that has the
// repositories.
func twoNodes(t *testing.T) (two *node.Machine) {
	t.Helper()
	fleet(t)
	two, err := join()
	testenv.Must(t, err)
	ready(t, "two")
	return two
}

// cloned is a pod's command: it clones, pushes a branch that has the pod's name, and stays.
const cloned = `git clone -q $CODE_REPO /tmp/d && cd /tmp/d && git commit -q --allow-empty -m $HOSTNAME && git push -q origin HEAD:refs/heads/$HOSTNAME && touch /tmp/pushed && exec sleep 100000`

// podSpec returns the template of a pod whose command is the script "cloned". The pod's container
// is ready when it has pushed.
func podSpec(selector string) string {
	return fmt.Sprintf(`{metadata: {labels: {app: work}, annotations: {terok.project: demo, terok.task: "1"}}, spec: {nodeSelector: {%s}, terminationGracePeriodSeconds: 0,
  containers: [{name: work, image: %q, command: [sh, -ec, %q], readinessProbe: {periodSeconds: 1, exec: {command: [cat, /tmp/pushed]}}}]}}`, selector, node.Image, cloned)
}

// onEach runs a pod on each node, until the test is over. When both have pushed, it returns
// their containers.
func onEach(t *testing.T) (containers map[string]*node.Container) {
	t.Helper()
	containers = map[string]*node.Container{}
	for _, name := range []string{"one", "two"} {
		deploy(t, "on-"+name, "kubernetes.io/hostname: "+name)
	}
	for _, name := range []string{"one", "two"} {
		_, containers[name] = only(t, "on-"+name)
	}
	return containers
}

// deploy deploys one pod that clones and pushes, until the test is over.
func deploy(t *testing.T, name, selector string) {
	t.Helper()
	testenv.Eventually(t, name+" is admitted", func() bool {
		_, err := apply(fmt.Sprintf(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: %s}, spec: {selector: {matchLabels: {app: work, name: %[1]s}}, template: %s}}
`, name, strings.Replace(podSpec(selector), "{app: work}", "{app: work, name: "+name+"}", 1)))
		return err == nil
	})
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := node.Sh("kubectl get pods -o wide; kubectl get events --sort-by .lastTimestamp | tail -n 20; kubectl --namespace terok logs --tail 20 --prefix --all-containers --selector app.kubernetes.io/name")
			t.Log(out)
		}
		node.Must(t, "kubectl delete deployment "+name+" && kubectl wait --for delete pod --selector name="+name+" --timeout 90s")
	})
}

// only waits until a deployment's only pod has pushed, and returns the pod's node and
// container.
func only(t *testing.T, deployment string) (on string, c *node.Container) {
	t.Helper()
	testenv.Eventually(t, deployment+" has pushed", func() bool {
		out, _ := node.Sh("kubectl get deployment " + deployment + " -o jsonpath='{.status.replicas} {.status.readyReplicas}'")
		return out == "1 1"
	})
	about := strings.Fields(node.Must(t, "kubectl get pod --selector name="+deployment+" -o jsonpath='{.items[*].spec.nodeName} {.items[*].status.containerStatuses[0].containerID}'"))
	if len(about) != 2 {
		t.Fatalf("the pod is %q", about)
	}
	return about[0], node.Hold(t, processOf(t, about[1]))
}

// processOf returns the first process of a container on any of the nodes. This machine sees the
// processes of all nodes.
func processOf(t *testing.T, container string) int {
	t.Helper()
	pid, err := strconv.Atoi(node.Must(t, "grep -ls "+strings.TrimPrefix(container, "containerd://")+" /proc/[0-9]*/cgroup | cut -d / -f 3 | sort -n | head -n 1"))
	testenv.Must(t, err)
	return pid
}

// gatePod returns the pod of a node's gate.
func gatePod(t *testing.T, name string) string {
	t.Helper()
	return node.Must(t, "kubectl --namespace terok get pods --selector app.kubernetes.io/name=terok-node --field-selector spec.nodeName="+name+" -o name")
}

// tokensOn returns the tokens of a node, as JSON.
func tokensOn(t *testing.T, name string) string {
	t.Helper()
	return node.Must(t, "kubectl --namespace terok exec --container gate "+gatePod(t, name)+" -- terok-gate list --json")
}

func TestPodsOfTwoNodesCloneAndPushAtOneRepository(t *testing.T) {
	twoNodes(t)
	containers := onEach(t)
	refs := node.Must(t, atRepository+"git -C /data/terok-gate/repos/demo.git for-each-ref")
	for name, c := range containers {
		if !strings.Contains(refs, "refs/heads/on-"+name) {
			t.Errorf("the pod of node %s has not pushed: %s", name, refs)
		}
		testenv.Must(t, c.Served(c.Token, repo))
		if list := tokensOn(t, name); strings.Count(list, `"fingerprint"`) != 1 {
			t.Errorf("node %s does not have exactly one token: %s", name, list)
		}
	}
	if containers["one"].Served(containers["two"].Token, repo) == nil || containers["two"].Served(containers["one"].Token, repo) == nil {
		t.Error("a token of one node is served on the other")
	}

	trail := node.Must(t, "cat $(find /volume -name '*.log')")
	if !strings.Contains(trail, "refs/heads/on-one") || !strings.Contains(trail, "refs/heads/on-two") || !strings.Contains(trail, `"host":"terok-node"`) {
		t.Errorf("the trail at the repository: %s", trail)
	}
	noTokenAtTheRepository(t)
}

func TestOnEachNodeNothingIsServedAfterAContainersDeath(t *testing.T) {
	twoNodes(t)
	for name, c := range onEach(t) {
		testenv.Must(t, c.Served(c.Token, repo))
		c.Kill(t)
		died := time.Now()
		if err := c.Served(c.Token, repo); err == nil {
			t.Errorf("node %s: a request that began after the death was served", name)
		}
		t.Logf("node %s: the first request after the death was refused within %v", name, time.Since(died).Round(time.Millisecond))
	}
}

func TestANodeWhoseGateHangsIsTaintedAndTheOtherGoesOn(t *testing.T) {
	twoNodes(t)
	containers := onEach(t)
	gate := processOf(t, node.Must(t, "kubectl --namespace terok get "+gatePod(t, "two")+` -o jsonpath='{.status.containerStatuses[?(@.name=="gate")].containerID}'`))
	testenv.Must(t, syscall.Kill(gate, syscall.SIGSTOP))
	goesOn := sync.OnceFunc(func() { testenv.Must(t, syscall.Kill(gate, syscall.SIGCONT)) })
	t.Cleanup(goesOn)
	testenv.Eventually(t, "the node is tainted", func() bool { return tainted(t, "two") })

	testenv.Must(t, containers["one"].Served(containers["one"].Token, repo))
	deploy(t, "anywhere", "")
	if on, _ := only(t, "anywhere"); on != "one" {
		t.Errorf("a pod starts on node %s", on)
	}

	goesOn()
	ready(t, "two")
	testenv.Must(t, containers["two"].Served(containers["two"].Token, repo))
}

func TestAPodThatMovesToAnotherNodeGetsANewToken(t *testing.T) {
	twoNodes(t)
	deploy(t, "moving", "")
	from, was := only(t, "moving")
	node.Must(t, "kubectl cordon "+from)
	t.Cleanup(func() { node.Must(t, "kubectl uncordon "+from) })
	node.Must(t, "kubectl delete pod --selector name=moving")

	to, is := only(t, "moving")
	if to == from {
		t.Fatalf("the pod is on node %s again", to)
	}
	if is.Token == was.Token {
		t.Error("the token has moved")
	}
	testenv.Must(t, is.Served(is.Token, repo))
	if err := is.Served(was.Token, repo); err == nil {
		t.Errorf("the token of node %s is served on node %s", from, to)
	}
	was.Ended(t) // Kubernetes has forgotten the pod by now, but the kubelet may not have ended it yet
	if err := was.Served(was.Token, repo); err == nil {
		t.Errorf("node %s still serves the token", from)
	}
	testenv.Eventually(t, "no token is left where the pod was", func() bool { return tokensOn(t, from) == "[]" })
}
