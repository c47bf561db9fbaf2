//go:build engines

// Package kubernetes holds the tests of deploy/kubernetes, with a real cluster of one node:
// etcd, API server, controllers, scheduler, kubelet and containerd. They run in a root file
// system of their own (scripts/engines).
package kubernetes

import (
	"fmt"
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

// The addresses are this machine's own: there is no kube-proxy, so the API's is its service's.
const (
	service = "10.96.0.1"
	address = "10.89.0.1"
)

// kubeconfig returns the settings of a program that shows a token.
func kubeconfig(token string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: it
clusters: [{name: it, cluster: {server: "https://%s", certificate-authority: /run/apiserver/apiserver.crt}}]
contexts: [{name: it, context: {cluster: it, user: it}}]
users: [{name: it, user: {token: %s}}]
`, service, token)
}

// kustomization is what somebody with a cluster writes: which of ours, and where the image is.
const kustomization = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [%s]
images:
  - {name: terok-gate, newName: docker.io/library/terok-gate, newTag: "1"}
`

// prepare makes a cluster, and deploys to it.
func prepare() error {
	for path, content := range map[string]string{
		"/etc/kubernetes/tokens.csv":   "admin,admin,1,system:masters\none,system:node:one,2,system:nodes\n",
		"/etc/kubernetes/admin":        kubeconfig("admin"),
		"/etc/kubernetes/one":          kubeconfig("one"),
		"/var/lib/kubelet/config.yaml": node.KubeletConfig + "registerWithTaints: [{key: terok.dev/not-ready, effect: NoSchedule}]\n",
		"/one-node/kustomization.yaml": fmt.Sprintf(kustomization, "../deploy/kubernetes/one-node"),
		"/root/.kube/.keep":            "",
	} {
		if err := node.Write(path, content); err != nil {
			return err
		}
	}
	if _, err := node.Sh(`
		ip addr add ` + service + `/32 dev lo && ip addr add ` + address + `/32 dev lo
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
			--cert-dir /run/apiserver --token-auth-file /etc/kubernetes/tokens.csv --authorization-mode Node,RBAC
			--enable-admission-plugins NodeRestriction --allow-privileged --kubelet-preferred-address-types InternalIP
			--service-account-issuer https://kubernetes.default.svc --service-account-key-file /etc/kubernetes/accounts.pub
			--service-account-signing-key-file /etc/kubernetes/accounts.key`},
		{"kubectl get serviceaccount default", `kube-controller-manager --kubeconfig /etc/kubernetes/admin --leader-elect=false
			--service-account-private-key-file /etc/kubernetes/accounts.key --root-ca-file /run/apiserver/apiserver.crt`},
		{"true", "kube-scheduler --kubeconfig /etc/kubernetes/admin --leader-elect=false"},
		{"kubectl wait --for condition=Ready --timeout 1s node/one", `kubelet --config /var/lib/kubelet/config.yaml --kubeconfig /etc/kubernetes/one
			--hostname-override one --address 0.0.0.0 --node-ip ` + address},
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

// tainted reports whether the node has our taint.
func tainted(t *testing.T) bool {
	return strings.Contains(node.Must(t, "kubectl get node one -o jsonpath='{.spec.taints[*].key}'"), "terok.dev/not-ready")
}

// ready waits until the node has no taint.
func ready(t *testing.T) {
	t.Helper()
	if !testenv.Wait(func() bool { return !tainted(t) }) {
		out, _ := node.Sh("kubectl --namespace terok get events; tail -n 20 /var/log/pods/terok_*/*/*.log")
		t.Fatalf("the node stays tainted: %s", out)
	}
}

func onNode(command string) string {
	return "kubectl --namespace terok exec daemonset/terok-node --container gate -- " + command
}

func TestAJobClonesAndPushes(t *testing.T) {
	ready(t)
	node.Must(t, onNode("terok-gate add demo"))
	node.Must(t, "sed s,docker.io/alpine/git,"+node.Image+", ../../deploy/kubernetes/examples/job.yaml | kubectl apply -f -")
	if out, err := node.Sh("kubectl wait --for condition=Complete --timeout 90s job/demo"); err != nil {
		more, _ := node.Sh("kubectl describe job,pod; kubectl logs job/demo")
		t.Fatalf("%v %s %s", err, out, more)
	}
	if refs := node.Must(t, "git -C /var/lib/terok-gate/repos/demo.git for-each-ref"); !strings.Contains(refs, "refs/heads/job/now") {
		t.Errorf("nothing was pushed: %s", refs)
	}
	testenv.Eventually(t, "no tokens are left", func() bool { return node.Must(t, onNode("terok-gate list --json")) == "[]" })
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

func TestAPodIsNotAdmittedForAProjectThatIsNotItsNamespaces(t *testing.T) {
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

func TestWithoutThePolicyTheRefusalStandsInThePodsEvents(t *testing.T) {
	ready(t)
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
	ready(t)
	for _, part := range []string{"/etc/cdi/terok.json", "/opt/terok/terok-gate-hook", "/run/terok-gate/control"} {
		node.Must(t, "mv "+part+" "+part+"-away")
		testenv.Eventually(t, "without "+part+", the node is tainted", func() bool { return tainted(t) })
		node.Must(t, "mv "+part+"-away "+part)
		ready(t)
	}
}

func TestThePluginsAccountCanChangeNothingButItsOwnNodesTaint(t *testing.T) {
	ready(t)
	token := node.Must(t, "kubectl --namespace terok create token terok-node")
	as := "kubectl --kubeconfig /dev/null --server https://" + service + " --certificate-authority /run/apiserver/apiserver.crt --token " + token + " "
	if out, err := node.Sh(as + "taint node one terok.dev/not-ready=:NoSchedule"); err == nil || !strings.Contains(err.Error(), "may change only the node that it runs on") {
		t.Errorf("a token that is not the node's changes it: %v %s", err, out)
	}
	for _, may := range []string{"get secrets", "list pods", "delete nodes", "update nodes", "create pods/exec"} {
		if out, err := node.Sh(as + "auth can-i --all-namespaces " + may); err == nil {
			t.Errorf("it may %s: %s", may, out)
		}
	}
	pod := node.Must(t, "kubectl --namespace terok get pods -o name")
	uid := node.Must(t, "kubectl --namespace terok get "+pod+" -o jsonpath='{.metadata.uid}'")
	bound := node.Must(t, "kubectl --namespace terok create token terok-node --bound-object-kind Pod --bound-object-name "+strings.TrimPrefix(pod, "pod/")+" --bound-object-uid "+uid)
	as = strings.ReplaceAll(as, token, bound)
	for _, patch := range []string{
		`{"spec":{"taints":[{"key":"another","effect":"NoSchedule"}]}}`,
		`{"metadata":{"labels":{"another":"x"}}}`,
		`{"spec":{"unschedulable":true}}`,
	} {
		if out, err := node.Sh(as + "patch node one --type merge --patch '" + patch + "'"); err == nil || !strings.Contains(err.Error(), "may change only the taint") {
			t.Errorf("%s: %v %s", patch, err, out)
		}
	}
}

func TestEveryKustomizationIsTakenByTheAPI(t *testing.T) {
	for _, dir := range []string{"base", "one-node"} {
		node.Must(t, "kubectl apply --dry-run=server -k ../../deploy/kubernetes/"+dir)
	}
	built := node.Must(t, "kubectl kustomize ../../deploy/kubernetes/cert-manager")
	for _, secret := range []string{"secretName: terok-node-tls", "secretName: terok-repository-tls"} {
		if strings.Count(built, secret) != 2 { // of the certificate, and of those who show it
			t.Errorf("%d times %s", strings.Count(built, secret), secret)
		}
	}
}

// It is the last test: it takes away what the others need.
func TestWithoutTheDaemonSetTheNodeIsTainted(t *testing.T) {
	ready(t)
	node.Must(t, "kubectl --namespace terok delete daemonset terok-node --timeout 90s")
	if !tainted(t) {
		t.Error("the node is not tainted")
	}
	node.Must(t, "kubectl delete -k /one-node --ignore-not-found --timeout 90s")
}
