// The tests give the resource definitions of these modules to the API, as they are published. No
// package of the modules is imported, so go mod tidy would remove these lines.
module terok-gate-hook/e2e/kubernetes/definitions

go 1.26.1

require (
	github.com/cert-manager/cert-manager v1.21.2
	sigs.k8s.io/agent-sandbox v0.2.1
)
