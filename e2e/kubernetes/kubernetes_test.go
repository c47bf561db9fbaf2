//go:build engines

// Package kubernetes holds the tests of deploy/kubernetes with a real cluster: etcd, API
// server, controllers, scheduler, kubelet and containerd. If a test needs a second node,
// that node joins the cluster. The tests run in a root file system of their own
// (scripts/engines).
package kubernetes

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"terok-gate-hook/e2e/internal/node"
	"terok-gate-hook/internal/testenv"
)

func TestMain(m *testing.M) {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// The addresses are this machine's own. There is no kube-proxy, so the API server itself has
// the address of its service.
const (
	service = "10.96.0.1"
	address = "10.89.0.1"

	repository = "10.96.0.20"
)

// kubeconfig returns the settings of a program that shows a token to the API server.
func kubeconfig(token string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: it
clusters: [{name: it, cluster: {server: "https://%s", certificate-authority: /etc/kubernetes/apiserver/apiserver.crt}}]
contexts: [{name: it, context: {cluster: it, user: it}}]
users: [{name: it, user: {token: %s}}]
`, service, token)
}

// kustomization is what a cluster's administrator writes: which of our parts to deploy, and
// where the image is.
const kustomization = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [%s]
images:
  - {name: terok-gate, newName: docker.io/library/terok-gate, newTag: "1"}
`

// prepare makes a cluster, and deploys our parts for one node to it.
func prepare() error {
	for path, content := range map[string]string{
		"/etc/kubernetes/tokens.csv":   "admin,admin,1,system:masters\none,system:node:one,2,system:nodes\ntwo,system:node:two,3,system:nodes\n",
		"/etc/kubernetes/admin":        kubeconfig("admin"),
		"/etc/kubernetes/one":          kubeconfig("one"),
		"/etc/kubernetes/two":          kubeconfig("two"),
		"/etc/kubernetes/kubelet.yaml": node.KubeletConfig + "registerWithTaints: [{key: terok.dev/not-ready, effect: NoSchedule}]\n",
		"/one-node/kustomization.yaml": fmt.Sprintf(kustomization, "../deploy/kubernetes/one-node"),
		"/root/.kube/.keep":            "",
	} {
		if err := node.Write(path, content); err != nil {
			return err
		}
	}
	if _, err := node.Sh(`
		ip addr add ` + service + `/32 dev lo && ip addr add ` + address + `/32 dev lo && ip addr add ` + repository + `/32 dev lo
		ln -s /etc/kubernetes/admin /root/.kube/config
		openssl genrsa -out /etc/kubernetes/accounts.key 2048 && openssl rsa -in /etc/kubernetes/accounts.key -pubout -out /etc/kubernetes/accounts.pub
		cp -r ../../deploy /deploy`); err != nil {
		return err
	}
	if _, err := node.Prepare(); err != nil {
		return err
	}

	says := func(script string) func() error { return func() error { _, err := node.Sh(script); return err } }
	for _, d := range []struct {
		up      string
		command string
	}{
		{"etcdctl endpoint health || curl -f http://127.0.0.1:2379/health || [ -e /tmp/etcd/member ]", "etcd --data-dir /tmp/etcd"},
		{"kubectl get --raw /readyz", `kube-apiserver --etcd-servers http://127.0.0.1:2379
			--secure-port 443 --bind-address 0.0.0.0 --advertise-address ` + address + ` --service-cluster-ip-range 10.96.0.0/16
			--cert-dir /etc/kubernetes/apiserver --token-auth-file /etc/kubernetes/tokens.csv --authorization-mode Node,RBAC
			--enable-admission-plugins NodeRestriction --allow-privileged --kubelet-preferred-address-types InternalIP
			--service-account-issuer https://kubernetes.default.svc --service-account-key-file /etc/kubernetes/accounts.pub
			--service-account-signing-key-file /etc/kubernetes/accounts.key`},
		{"kubectl get serviceaccount default", `kube-controller-manager --kubeconfig /etc/kubernetes/admin --leader-elect=false
			--service-account-private-key-file /etc/kubernetes/accounts.key --root-ca-file /etc/kubernetes/apiserver/apiserver.crt`},
		{"true", "kube-scheduler --kubeconfig /etc/kubernetes/admin --leader-elect=false"},
		{isReady("one"), kubelet("one", address)},
	} {
		words := strings.Fields(d.command)
		if _, err := node.Start(says(d.up), words[0], words[1:]...); err != nil {
			return err
		}
	}
	out, err := node.Sh("kubectl apply -k /one-node")
	fmt.Println(out)
	return err
}

func kubelet(name, address string) string {
	return "kubelet --config /etc/kubernetes/kubelet.yaml --kubeconfig /etc/kubernetes/" + name + " --hostname-override " + name + " --address 0.0.0.0 --node-ip " + address
}

func isReady(name string) string {
	return "kubectl wait --for condition=Ready --timeout 1s node/" + name
}

// tainted reports whether a node has our taint.
func tainted(t *testing.T, name string) bool {
	return strings.Contains(node.Must(t, "kubectl get node "+name+" -o jsonpath='{.spec.taints[*].key}'"), "terok.dev/not-ready")
}

// ready waits until a node does not have our taint.
func ready(t *testing.T, name string) {
	t.Helper()
	if !testenv.Wait(func() bool { return !tainted(t, name) }) {
		out, _ := node.Sh("kubectl --namespace terok get events; tail -n 20 /var/log/pods/terok_*/*/*.log")
		t.Fatalf("the node stays tainted: %s", out)
	}
}

func onNode(command string) string {
	return "kubectl --namespace terok exec daemonset/terok-node --container gate -- " + command
}

// job runs the example of a job.
func job(t *testing.T) {
	t.Helper()
	node.Must(t, "kubectl apply -f ../../deploy/kubernetes/examples/job.yaml")
	jobEnds(t)
}

// jobEnds waits until the job has succeeded and no token is left, and removes the job.
func jobEnds(t *testing.T) {
	t.Helper()
	if out, err := node.Sh("kubectl wait --for condition=Complete --timeout 90s job/demo"); err != nil {
		more, _ := node.Sh("kubectl describe job,pod; kubectl logs job/demo; tail -n 20 /var/log/pods/terok_*/*/*.log")
		t.Fatalf("%v %s %s", err, out, more)
	}
	testenv.Eventually(t, "no tokens are left", func() bool { return node.Must(t, onNode("terok-gate list --json")) == "[]" })
	node.Must(t, "kubectl delete job demo")
}

func TestAJobClonesAndPushes(t *testing.T) {
	ready(t, "one")
	node.Must(t, onNode("terok-gate add demo"))
	job(t)
	if refs := node.Must(t, "git -C /var/lib/terok-gate/repos/demo.git for-each-ref"); !strings.Contains(refs, "refs/heads/job/now") {
		t.Errorf("nothing was pushed: %s", refs)
	}
}

// pod returns a pod of a namespace with annotations.
func pod(name, namespace, annotations string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, annotations: {%s}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: work, image: %q}]
`, name, namespace, annotations, node.Image)
}

func apply(manifest string) (string, error) {
	return node.Sh("kubectl apply -f - <<'MANIFEST'\n" + manifest + "MANIFEST")
}

func TestAPodMayNameOnlyTheProjectsOfItsNamespace(t *testing.T) {
	node.Must(t, "kubectl create namespace team")
	testenv.Eventually(t, "the namespace has an account", func() bool {
		_, err := node.Sh("kubectl --namespace team get serviceaccount default")
		return err == nil
	})
	testenv.Eventually(t, "the policy is in force", func() bool {
		_, err := node.Sh("kubectl run --dry-run=server --image x --namespace team --annotations terok.project=demo --annotations terok.task=1 policy")
		return err != nil
	})
	for _, row := range []struct{ namespace, annotations, why string }{
		{"default", `terok.project: demo, terok.task: "1"`, ""},
		{"default", `terok.project: demo2, terok.task: "1", terok.read: "demo3 demo4", terok.write: "demo5"`, ""},
		{"default", `terok.project/work: demo, terok.task: "1"`, ""},
		{"default", "terok.sandbox.sidecar: x", ""},
		{"team", "example.com/a: b", ""},
		{"default", `terok.project: other, terok.task: "1"`, "pods of namespace default may not name project other: see ConfigMap terok-allow"},
		{"default", `terok.project: xdemo, terok.task: "1"`, "may not name project xdemo"},
		{"default", `terok.project: demo, terok.task: "1", terok.read: "demo2,lib"`, "may not name project lib"},
		{"default", `terok.project: demo, terok.task: "1", terok.write: lib`, "may not name project lib"},
		{"default", `terok.project: demo, terok.task: "1", terok.project/work: lib`, "may not name project lib"},
		{"team", `terok.project: demo, terok.task: "1"`, "pods of namespace team may not name project demo"},
	} {
		out, err := node.Sh("kubectl apply --dry-run=server -f - <<'MANIFEST'\n" + pod("admitted", row.namespace, row.annotations) + "MANIFEST")
		switch {
		case row.why == "" && err != nil:
			t.Errorf("%s %s: %v", row.namespace, row.annotations, err)
		case row.why != "" && (err == nil || !strings.Contains(err.Error(), row.why)):
			t.Errorf("%s %s: no refusal with %q: %v %s", row.namespace, row.annotations, row.why, err, out)
		}
	}
}

func TestWithoutThePolicyThePodsEventsSayWhyItIsRefused(t *testing.T) {
	ready(t, "one")
	node.Must(t, "kubectl delete validatingadmissionpolicybinding terok-projects")
	t.Cleanup(func() { node.Must(t, "kubectl apply -k /one-node") })

	testenv.Eventually(t, "the policy is not in force", func() bool {
		_, err := apply(pod("refused", "default", `terok.project: other, terok.task: "1"`))
		return err == nil
	})
	testenv.Eventually(t, "the pod's events say why it is refused", func() bool {
		return strings.Contains(node.Must(t, "kubectl events --for pod/refused"), `pods of namespace "default" may not name project "other": terok-nri needs --allow default=other`)
	})
	node.Must(t, "kubectl delete pod refused")
}

func TestTheNodeIsTaintedWhileAPartIsMissing(t *testing.T) {
	ready(t, "one")
	for _, part := range []string{"/etc/cdi/terok.json", "/opt/terok/terok-gate-hook", "/run/terok-gate/control"} {
		node.Must(t, "mv "+part+" "+part+"-away")
		testenv.Eventually(t, "without "+part+", the node is tainted", func() bool { return tainted(t, "one") })
		node.Must(t, "mv "+part+"-away "+part)
		ready(t, "one")
	}
}

func TestThePluginsAccountCanChangeNothingButItsOwnNodesTaint(t *testing.T) {
	ready(t, "one")
	token := node.Must(t, "kubectl --namespace terok create token terok-node")
	as := "kubectl --kubeconfig /dev/null --server https://" + service + " --certificate-authority /etc/kubernetes/apiserver/apiserver.crt --token " + token + " "
	if out, err := node.Sh(as + "taint node one terok.dev/not-ready=:NoSchedule"); err == nil || !strings.Contains(err.Error(), "may change only the node that it runs on") {
		t.Errorf("a token that is not the node's changes it: %v %s", err, out)
	}
	for _, may := range []string{"get secrets", "list pods", "delete nodes", "update nodes", "create pods/exec"} {
		if out, err := node.Sh(as + "auth can-i --all-namespaces " + may + " | grep '^no'"); err != nil {
			t.Errorf("asked whether it may %s, the API does not say no: %v %s", may, err, out)
		}
	}
	pod := node.Must(t, "kubectl --namespace terok get pods -o name")
	uid := node.Must(t, "kubectl --namespace terok get "+pod+" -o jsonpath='{.metadata.uid}'")
	bound := node.Must(t, "kubectl --namespace terok create token terok-node --bound-object-kind Pod --bound-object-name "+strings.TrimPrefix(pod, "pod/")+" --bound-object-uid "+uid)
	as = strings.ReplaceAll(as, token, bound)
	for _, patch := range []string{
		`{"spec":{"taints":[{"key":"another","effect":"NoSchedule"}]}}`,
		`{"metadata":{"labels":{"another":"x"}}}`,
		`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Namespace","name":"default","uid":"1"}]}}`,
		`{"metadata":{"finalizers":["example.com/another"]}}`,
		`{"spec":{"unschedulable":true}}`,
		`{"spec":{"providerID":"another"}}`,
		`{"spec":{"podCIDR":"10.1.0.0/24","podCIDRs":["10.1.0.0/24"]}}`,
	} {
		if out, err := node.Sh(as + "patch node one --type merge --patch '" + patch + "'"); err == nil || !strings.Contains(err.Error(), "may change only the taint") {
			t.Errorf("%s: %v %s", patch, err, out)
		}
	}
}

// Of the node's directory /run, the gate sees only /run/terok-gate, where hooks find the gate.
func TestInTheNodesRunDirectoryTheGateSeesOnlyWhereHooksFindIt(t *testing.T) {
	ready(t, "one")
	if has := node.Must(t, onNode("ls /run")); has != "secrets\nterok-gate" {
		t.Errorf("/run has %q", has)
	}
	if mode := node.Must(t, "stat -c %a /run/terok-gate"); mode != "700" {
		t.Errorf("/run/terok-gate has mode %s", mode)
	}
}

func TestTheAPIAcceptsBaseAndOneNode(t *testing.T) {
	for _, dir := range []string{"base", "one-node"} {
		node.Must(t, "kubectl apply --dry-run=server -k ../../deploy/kubernetes/"+dir)
	}
}

// This test removes what the tests above need.
func TestWithoutTheDaemonSetTheNodeIsTainted(t *testing.T) {
	ready(t, "one")
	takeAway(t)
}

// takeAway takes away what prepare has deployed, and checks that the node is then tainted.
func takeAway(t *testing.T) {
	t.Helper()
	node.Must(t, "kubectl --namespace terok delete daemonset terok-node --ignore-not-found --timeout 90s")
	if !tainted(t, "one") {
		t.Error("the node is not tainted")
	}
	node.Must(t, "kubectl delete -k /one-node --ignore-not-found --timeout 90s")
}

// noTokenAtTheRepository fails the test if the gate with the repositories has written a token to
// its storage or its log.
func noTokenAtTheRepository(t *testing.T) {
	t.Helper()
	if files, err := node.Sh("if grep -r terok-g- /volume /var/log/pods/terok_terok-repository*; then exit 2; else [ $? = 1 ]; fi"); err != nil {
		t.Errorf("a token is known to the gate with the repositories: %s", files)
	}
}

func TestAJobClonesAndPushesAtTheGateThatHasTheRepositories(t *testing.T) {
	fleet(t)
	job(t)
	if refs := node.Must(t, atRepository+"git -C /data/terok-gate/repos/demo.git for-each-ref"); !strings.Contains(refs, "refs/heads/job/now") {
		t.Errorf("nothing was pushed: %s", refs)
	}
	noTokenAtTheRepository(t)

	node.Must(t, "kubectl --namespace terok scale statefulset terok-repository --replicas 0 && kubectl --namespace terok wait --for delete pod/terok-repository-0 --timeout 90s")
	testenv.Eventually(t, "a pod is admitted", func() bool {
		_, err := apply(pod("alone", "default", `terok.project: demo, terok.task: "1"`))
		return err == nil
	})
	node.Must(t, "kubectl wait --for condition=Ready --timeout 90s pod/alone")
	if out, err := node.Sh("kubectl exec alone -- git ls-remote http://127.0.0.1:9418/demo.git"); err == nil || !strings.Contains(err.Error(), "502") {
		t.Errorf("without the gate that has the repositories, git does not say 502: %v %s", err, out)
	}
	node.Must(t, "kubectl delete pod alone")
}

// forward connects the service of the gate with the repositories to the gate's pod, as kube-proxy
// would.
func forward(t *testing.T, pod string) {
	t.Helper()
	l, err := net.Listen("tcp", repository+":9419")
	testenv.Must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", pod+":9419")
			if err != nil {
				from.Close()
				continue
			}
			for _, ends := range [][2]net.Conn{{from, to}, {to, from}} {
				go func() {
					_, _ = io.Copy(ends[0], ends[1])
					ends[0].Close()
					ends[1].Close()
				}()
			}
		}
	}()
}
