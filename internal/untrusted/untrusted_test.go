package untrusted

import (
	"os/exec"
	"slices"
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
		t.Fatalf("the program says %q", said)
	}

	ours, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	if said[3] == "" || said[3] == strconv.Itoa(ours) {
		t.Errorf("the program is in session %s, and ours is %d", said[3], ours)
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

// Guards against: the shell that started us has a file open that is not marked to be closed, and
// the other user's program gets it.
func TestAnotherUsersProgramGetsNoFileThatWasOpenBefore(t *testing.T) {
	testenv.NeedRoot(t)
	secret, err := unix.Open("/etc/shadow", unix.O_RDONLY, 0) // without O_CLOEXEC
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(secret)

	cmd := exec.Command("sh", "-c", "ls /proc/self/fd")
	As(cmd, 1234, 5678)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(strings.Fields(string(out)), strconv.Itoa(secret)) {
		t.Errorf("it has descriptor %d: %s", secret, out)
	}
}
