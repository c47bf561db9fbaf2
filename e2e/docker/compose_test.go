//go:build engines

package docker

import (
	"os"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// Compose 2.26 reads the entries of the short form of devices as paths of files, so the service
// work has the long form.
const composeFile = `
services:
  work:
    image: ` + image + `
    command: sleep 1000
    network_mode: none
    deploy: {resources: {reservations: {devices: [{driver: cdi, capabilities: [git], device_ids: ["terok.dev/project=demo"]}]}}}
    annotations:
      - terok.task=composed
  reader:
    image: ` + image + `
    command: git ls-remote ` + repo + `
    network_mode: none
    devices: ["terok.dev/project=demo"]
    annotations:
      - terok.access=read
`

func TestComposeTakesTheDevice(t *testing.T) {
	version := must(t, "docker compose version --short")
	t.Log(version)
	must(t, "mkdir -p /composed")
	testenv.Must(t, os.WriteFile("/composed/compose.yaml", []byte(composeFile), 0o644))
	compose := "cd /composed && docker compose "
	must(t, compose+"up --quiet-pull -d work")
	must(t, compose+"exec -T work sh -ec "+strings.Replace(work, "$CODE_REPO", repo, 1)) // exec does not have the device's variables
	must(t, "terok-gate list | grep composed")

	if strings.HasPrefix(version, "2.26.") {
		refused(t, compose+"run -T --rm reader", `error gathering device information while adding custom device "terok.dev/project=demo": no such file or directory`)
	} else {
		must(t, compose+"run -T --rm reader")
		refused(t, compose+"run -T --rm reader sh -ec "+work, "the token may fetch and not push")
	}

	must(t, compose+"down -t 0")
	if !testenv.Wait(func() bool { return must(t, "terok-gate list --json") == "[]" }) {
		t.Errorf("tokens remain: %s", must(t, "terok-gate list"))
	}
}
