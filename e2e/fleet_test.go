package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// Every command of docs/fleet.md works, on two booted machines that a cable connects. One has the
// repositories; the other is host-a for root's containers and host-b for alice's.
func TestThePageOnManyMachinesWorks(t *testing.T) {
	t.Parallel()
	testenv.Need(t, "openssl", "ip")
	page, err := os.ReadFile("../docs/fleet.md")
	testenv.Must(t, err)

	repos, host := newMachine(t), newMachine(t)
	reposRoot, _ := newGateAccounts(t, repos)
	hostRoot, alice := newGateAccounts(t, host)
	connect(t, repos, host)
	for _, m := range []*machine{repos, host} {
		m.must(t, "root", `echo 192.0.2.1 repos >>/etc/hosts
			useradd --system --user-group --home-dir /var/lib/terok-gate --shell /usr/sbin/nologin terok-gate
			printf '[containers]\nvolumes = ["/usr:/usr:ro"]\n' >/etc/containers/containers.conf.d/20-git.conf`)
	}
	defer host.logIn(t, "alice")()
	accounts := map[string]account{"repos#": reposRoot, "host-a#": hostRoot, "host-b$": alice}
	for _, a := range []account{hostRoot, alice} {
		a.must(t, imageWithoutGit+"docker.io/library/buildpack-deps:scm")
	}

	says := map[string]string{ // what some of the commands must print
		"repos# terok-gate doctor":    "✓ fleet: hosts that may vouch: host-a, host-b; this gate's certificate is valid until ",
		"host-a# terok-gate doctor":   "✓ fleet: repos:9419 serves this host, host-a; ",
		"host-b$ terok-gate doctor":   "✓ fleet: repos:9419 serves this host, host-b; ",
		"host-b$ ! terok-gate doctor": "✗ fleet: repos:9419 does not let this host vouch for project demo → to allow it, on that machine add this line to the file of --vouch-file: ",
	}
	ca, ran, uninstalled := t.TempDir(), 0, false
	for _, line := range regexp.MustCompile(`(?m)^(ca|repos|host-a|host-b)([#$]) (.*)$`).FindAllStringSubmatch(string(page), -1) {
		machine, command := line[1]+line[2], line[3]
		ran++
		switch copied := regexp.MustCompile(`^scp (.*) (?:root@)?([a-z-]+):(\S+)/$`).FindStringSubmatch(command); {
		case copied != nil:
			to := accounts[map[string]string{"repos": "repos#", "host-a": "host-a#", "host-b": "host-b$"}[copied[2]]]
			to.receive(t, ca, strings.Fields(copied[1]), copied[3])
		case machine == "ca$":
			cmd := exec.Command("sh", "-ec", command)
			cmd.Dir = ca
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", command, err, out)
			}
		default:
			said := accounts[machine].must(t, command)
			if want := says[line[0]]; !strings.Contains(said, want) {
				t.Errorf("%s does not say %q:\n%s", line[0], want, said)
			}
			delete(says, line[0])
			uninstalled = uninstalled || strings.Contains(command, "uninstall")
		}
	}
	if ran < 20 || len(says) > 0 || !uninstalled {
		t.Errorf("%d commands of the page were found (uninstall among them: %v), but not %q", ran, uninstalled, says)
	}

	// Nothing is left of what was uninstalled, and the other host's containers go on.
	alice.must(t, "! systemctl --user cat "+gateUnit+" 2>/dev/null && ! grep -r terok-gate ~/.config/systemd ~/.config/containers")
	hostRoot.must(t, "podman run --rm --network none --annotation terok.project=demo --annotation terok.task=3 docker.io/library/buildpack-deps:scm sh -ec 'git ls-remote $CODE_REPO | grep main'")

	// A container's start needs only its own host. When the other machine's gate is
	// stopped, doctor says which gate does not answer.
	reposRoot.must(t, "systemctl stop "+gateUnit)
	said := hostRoot.must(t, `podman run --rm --network none --annotation terok.project=demo --annotation terok.task=4 docker.io/library/buildpack-deps:scm sh -c '! git ls-remote $CODE_REPO'
		! terok-gate doctor`)
	for _, want := range []string{"remote: the gate with the repositories does not answer", "✗ fleet: no gate listens at repos:9419: "} {
		if !strings.Contains(said, want) {
			t.Errorf("with the other machine's gate stopped, nothing says %q:\n%s", want, said)
		}
	}
}

// imageWithoutGit is a command that makes an image. The image's name must be appended. Containers
// get their programs from the machine's /usr, as containers.conf says.
const imageWithoutGit = "mkdir -p image/usr image/etc image/tmp; ln -sf usr/bin usr/sbin usr/lib usr/lib64 image; tar -C image -c . | podman import --quiet - "

// connect lays a cable between two machines. The first has the address 192.0.2.1.
func connect(t *testing.T, first, second *machine) {
	t.Helper()
	peer := strconv.Itoa(second.init.Process.Pid)
	cmd := exec.Command("nsenter", "--net", "--target", strconv.Itoa(first.init.Process.Pid),
		"ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", peer)
	if out, err := cmd.CombinedOutput(); err != nil {
		testenv.Cannot(t, "no veth between machines: %v: %s", err, out)
	}
	for i, m := range []*machine{first, second} {
		m.must(t, "root", fmt.Sprintf("ip address add 192.0.2.%d/24 dev cable; ip link set cable up", i+1))
	}
}

// receive puts files into a directory of the account's machine, as scp does.
func (a account) receive(t *testing.T, from string, names []string, directory string) {
	t.Helper()
	for _, name := range names {
		info, err := os.Stat(filepath.Join(from, name))
		testenv.Must(t, err)
		a.put(t, filepath.Join(from, name), "/srv/"+name, info.Mode().Perm())
		a.machine.must(t, "root", "chown "+a.user+": /srv/"+name)
		a.must(t, fmt.Sprintf("cp --preserve=mode /srv/%s %s/; rm -f /srv/%[1]s 2>/dev/null || true", name, directory))
	}
}
