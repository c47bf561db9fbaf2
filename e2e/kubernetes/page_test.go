//go:build engines

package kubernetes

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"terok-gate-hook/e2e/internal/node"
	"terok-gate-hook/internal/testenv"
)

// atRepository is the beginning of a command that the pod of the gate with the repositories
// runs.
const atRepository = "kubectl --namespace terok exec statefulset/terok-repository -- "

// addresses are patches by which the nodes' gates find the gate with the repositories without a
// name server.
const addresses = `patches:
  - patch: |
      apiVersion: v1
      kind: Service
      metadata: {name: terok-repository, namespace: terok}
      spec: {clusterIP: ` + repository + `}
  - patch: |
      apiVersion: apps/v1
      kind: DaemonSet
      metadata: {name: terok-node, namespace: terok}
      spec: {template: {spec: {hostAliases: [{ip: ` + repository + `, hostnames: [terok-repository.terok.svc]}]}}}
`

// volume makes the storage that a cluster would have.
const volume = `mkdir -p /volume && chown 10001:10001 /volume # hostPath knows no fsGroup
kubectl apply -f - <<MANIFEST
apiVersion: v1
kind: PersistentVolume
metadata: {name: repositories}
spec:
  capacity: {storage: 20Gi}
  accessModes: [ReadWriteOncePod]
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: /volume}
MANIFEST`

// image stands in for make image and podman push: the nodes have the image already.
const image = `mkdir -p /page/bin && cp -r ../../deploy ../../docs /page && cd /page
cat >bin/make <<'END'
#!/bin/sh -e
[ "$*" = "image IMAGE=registry.example/terok-gate:1" ]
for program in $(sed -n 's,^COPY \(.*\) .*,\1,p' deploy/kubernetes/Containerfile); do [ -x /image/usr/bin/$program ]; done
END
cat >bin/podman <<'END'
#!/bin/sh -e
[ "$*" = "push registry.example/terok-gate:1" ]
ctr --namespace k8s.io images ls -q | grep -qx "$2"
END
chmod +x bin/*`

// certificates stands in for cert-manager: it makes the secrets that certificates ask for.
const certificates = `mkdir -p /certificates && cd /certificates
[ -e ca.crt ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=terok -addext basicConstraints=critical,CA:TRUE 2>/dev/null
kubectl --namespace terok get certificates -o go-template='{{range .items}}{{if not .spec.isCA}}{{.spec.secretName}} {{index .spec.dnsNames 0}} {{index .spec.usages 0}}{{"\n"}}{{end}}{{end}}' >asked
[ $(wc -l <asked) = 2 ]
while read -r secret name usage _; do
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out csr -subj /CN=$name 2>/dev/null
	printf 'subjectAltName=DNS:%s\nextendedKeyUsage=%sAuth\n' $name $usage >ext
	openssl x509 -req -in csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -extfile ext -out crt 2>/dev/null
	kubectl --namespace terok create secret generic $secret --from-file tls.crt=crt --from-file tls.key=key --from-file ca.crt
done <asked`

// define gives the API the definitions of cert-manager and of agent-sandbox.
var define = sync.OnceValue(func() error {
	out, err := node.Sh("GOPROXY=off go -C definitions mod download -json")
	if err != nil {
		return err
	}
	modules := json.NewDecoder(strings.NewReader(out))
	for modules.More() {
		var module struct{ Dir string }
		if err := modules.Decode(&module); err != nil {
			return err
		}
		if _, err := node.Sh("for file in " + module.Dir + "/deploy/crds/cert-manager.io_*.yaml " + module.Dir + `/k8s/crds/agents.x-k8s.io_*.yaml; do
			[ ! -e $file ] || kubectl create -f $file
		done`); err != nil {
			return err
		}
	}
	_, err = node.Sh("kubectl wait --for condition=Established --timeout 90s crd --all")
	return err
})

// commands returns the blocks of shell commands in docs/kubernetes.md.
func commands(t *testing.T) (blocks []string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/kubernetes.md")
	testenv.Must(t, err)
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		blocks = append(blocks, block[1])
	}
	if len(blocks) != 3 {
		t.Fatalf("the page has %d blocks of commands", len(blocks))
	}
	return blocks
}

// fleet changes the cluster: the nodes' gates then have no repositories, and the gate with the
// repositories knows no token. The page's commands do that, as far as the first clone.
func fleet(t *testing.T) {
	t.Helper()
	if _, err := node.Sh("kubectl --namespace terok get statefulset terok-repository"); err == nil {
		node.Must(t, "kubectl --namespace terok scale statefulset terok-repository --replicas 1")
		atPod(t)
		ready(t, "one")
		return
	}
	takeAway(t)
	testenv.Must(t, define())
	node.Must(t, volume)
	node.Must(t, image)

	made := make(chan error)
	go func() {
		var err error
		testenv.Wait(func() bool {
			_, err = node.Sh(certificates)
			return err == nil
		})
		made <- err
	}()
	// The cluster has neither a name server nor kube-proxy.
	block := strings.Replace(commands(t)[0], "images: [", addresses+"images: [", 1)
	before, last, found := strings.Cut(block, "kubectl apply -f deploy/kubernetes/examples/job.yaml\n")
	if !found || last != "" {
		t.Fatalf("the first clone is not the last command of the page's first block: %s", block)
	}
	_, err := node.Sh("export PATH=/page/bin:$PATH && cd /page\n" + before)
	testenv.Must(t, <-made)
	if err != nil {
		more, _ := node.Sh("kubectl --namespace terok describe pod; kubectl --namespace terok get events; tail -n 20 /var/log/pods/terok_*/*/*.log")
		t.Fatalf("%v %s", err, more)
	}

	atPod(t)
	ready(t, "one")
	node.Must(t, "cd /page && kubectl apply -f deploy/kubernetes/examples/job.yaml")
	jobEnds(t)
}

// atPod waits until the pod of the gate with the repositories is ready, and connects the gate's
// service to the pod.
func atPod(t *testing.T) {
	t.Helper()
	node.Must(t, "kubectl --namespace terok rollout status statefulset/terok-repository --timeout 90s")
	forward(t, node.Must(t, "kubectl --namespace terok get pod terok-repository-0 -o jsonpath='{.status.podIP}'"))
}

func TestThePageGoesFromAClusterToAFirstClone(t *testing.T) {
	fleet(t)
	if out := node.Must(t, commands(t)[1]); !strings.Contains(out, "what time it was") {
		t.Errorf("the page does not show what was pushed: %s", out)
	}
}

func TestDoctorSaysInThePodWhatTheNodeLacks(t *testing.T) {
	fleet(t)
	doctor := "kubectl --namespace terok exec --container nri " + gatePod(t, "one") + " -- /opt/terok/terok-gate doctor"
	out, err := node.Sh(doctor)
	for _, right := range []string{
		"✓ terok-gate: a gate answers at /run/terok-gate/control",
		"✓ devices: 1 in /etc/cdi/terok.json",
		"✓ nri: terok-nri is connected to the engine",
		"✓ token-file:",
	} {
		if err != nil || !strings.Contains(out, right) {
			t.Errorf("no %q: %v %s", right, err, out)
		}
	}

	for _, row := range []struct{ part, wrong string }{
		{"/run/terok-gate/control", "✗ terok-gate: no gate listens"},
		{"/opt/terok/terok-gate-hook", "the hook's program: stat /opt/terok/terok-gate-hook: no such file or directory"},
		{"/etc/cdi/terok.json", "✗ devices: there is no /etc/cdi/terok.json to give devices to containerd"},
	} {
		node.Must(t, "mv "+row.part+" "+row.part+"-away")
		out, err := node.Sh(doctor)
		node.Must(t, "mv "+row.part+"-away "+row.part)
		if err == nil || !strings.Contains(out, row.wrong) {
			t.Errorf("without %s, no %q: %s", row.part, row.wrong, out)
		}
	}
}

func TestTheExampleOfAgentSandboxIsTakenByTheAPI(t *testing.T) {
	testenv.Must(t, define())
	// The definition of v1beta1, which has the same template of a pod, is in no module that can be verified.
	sandbox := "sed s,agents.x-k8s.io/v1beta1,agents.x-k8s.io/v1alpha1, ../../deploy/kubernetes/examples/agent-sandbox.yaml"
	apply := " | kubectl apply --dry-run=server --validate=strict -f -"
	node.Must(t, sandbox+apply)
	if out, err := node.Sh(sandbox + " | sed s,podTemplate,podTemplat," + apply); err == nil {
		t.Errorf("the API takes anything: %s", out)
	}
}

// This test removes what the tests above need.
func TestThePageRemovesEverything(t *testing.T) {
	fleet(t)
	node.Must(t, "cd /page && "+commands(t)[2])
	if left, err := node.Sh("! kubectl get namespace terok && ! kubectl get clusterrole terok-node && ! kubectl get validatingadmissionpolicy terok-projects"); err != nil {
		t.Errorf("something is left: %s", left)
	}
	node.Must(t, "kubectl delete persistentvolume repositories")
}
