package untrusted

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

func TestAnotherUsersProgramGetsNothingOfRoots(t *testing.T) {
	testenv.NeedRoot(t)
	t.Setenv("SECRET", "of root's")

	cmd := exec.Command("sh", "-c", `id -u; id -G; pwd; cut -d' ' -f6 /proc/self/stat; env`)
	As(cmd, 1234, 5678)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}

	said := strings.SplitN(string(out), "\n", 5)
	if len(said) != 5 || said[0] != "1234" || said[1] != "5678" || said[2] != "/" {
		t.Fatalf("%q", said)
	}

	ours, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	if said[3] == "" || said[3] == strconv.Itoa(ours) {
		t.Errorf("the program is in session %s, as we are in %d", said[3], ours)
	}

	if strings.Contains(said[4], "SECRET") {
		t.Errorf("the program's environment has %s", said[4])
	}
}

func TestOutputIsLimited(t *testing.T) {
	var out Output
	cmd := exec.Command("head", "-c", "40000000", "/dev/zero")
	cmd.Stdout = &out
	if err := cmd.Run(); err == nil || len(out.Bytes()) > 16<<20 {
		t.Errorf("%v, after %d bytes", err, len(out.Bytes()))
	}
}
