//go:build engines

package docker

import (
	"strconv"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// dpkg and rpm run packaging/preremove before they remove the programs. Here it runs where there
// is Docker and no podman.
func TestThePackagesRemovalTakesTokensAndDevicesAway(t *testing.T) {
	must(t, "docker run -d --name living "+device+image+" "+forEver)
	t.Cleanup(func() { _, _ = sh("docker rm -f living") })
	pid, err := strconv.Atoi(must(t, "docker inspect -f '{{.State.Pid}}' living"))
	testenv.Must(t, err)
	network := networkOf(t, pid)
	testenv.Must(t, network.served(""))

	t.Cleanup(func() { must(t, "terok-gate install") })
	out := must(t, "../../packaging/preremove remove")
	for _, want := range []string{"revoked tokens of containers: 1", "removed /etc/cdi/terok.json"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q: %s", want, out)
		}
	}
	if err := network.served(""); err == nil {
		t.Error("the container is still served")
	}
	noTokenRemains(t, "terok-gate")

	refused(t, "docker restart -t 0 living", "unresolvable CDI devices terok.dev/project=demo")
	refused(t, "docker run --rm "+device+image+" true", "unresolvable CDI devices terok.dev/project=demo")
	must(t, "docker run --rm --network none "+image+" true")
}
