//go:build engines

package docker

import (
	"strings"
	"testing"
)

// When podman is there, another install makes hooks for podman and for Docker. Go runs test
// files in the order of their names, so the tests of the other files run before, without podman.
func TestPodmanTakesTheDeviceToo(t *testing.T) {
	must(t, "mv /usr/bin/podman-later /usr/bin/podman")
	t.Log(must(t, "podman --version"))
	must(t, `mkdir -p /etc/containers && printf '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]\npids_limit = 0\nnetns = "none"\n[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\n' >/etc/containers/containers.conf
		echo '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json
		docker save `+image+` | podman load`)
	out := must(t, "terok-gate install")
	for _, engine := range []string{"podman:", "Docker:", "containerd:"} {
		if !strings.Contains(out, engine) {
			t.Errorf("install does not say what it did for %s %s", engine, out)
		}
	}
	all := doctor(t, "")
	if wrong := amiss(all); len(wrong) > 0 {
		t.Errorf("%+v", wrong)
	}
	for _, check := range []string{"probe", "docker-probe"} {
		finds(t, all, check, "ok", "gets its token and loses it")
	}

	must(t, "podman run --rm "+device+image+" sh -ec "+work)
	must(t, "podman run -d --name exec "+device+image+" "+forEver)
	for _, user := range []string{"0", "65534"} {
		must(t, "podman exec -u "+user+" exec git ls-remote "+repo)
	}
	must(t, "podman rm -f -t 0 exec")
	must(t, "podman run --rm --network none --annotation terok.project=demo --annotation terok.task=1 "+image+" sh -ec "+work)
	must(t, "mkdir /context && printf 'FROM "+image+"\\nRUN git ls-remote "+repo+"\\n' >/context/Containerfile && podman build -q "+device+"/context")
	noTokenRemains(t, "terok-gate")
}
