package doctor

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// A fresh image has no machine id. The remedy works with systemd and without.
func TestDoctorSaysWhatIsMissingWithoutAMachineID(t *testing.T) {
	testenv.NeedRoot(t)
	everything := os.Getenv("PATH")
	plain := t.TempDir()
	for _, program := range []string{"sh", "tr"} {
		must(t, os.Symlink(testenv.Tool(t, program), filepath.Join(plain, program)))
	}

	for _, row := range []struct {
		name  string
		make  func(path string) error
		path  string
		state State
		text  string
	}{
		{"there", func(path string) error {
			return os.WriteFile(path, []byte("0123456789abcdef0123456789abcdef\n"), 0o444)
		}, everything, OK, "is there"},
		{"missing", os.Remove, everything, Warning, "/etc/machine-id is missing: until the next reboot"},
		{"missing, and no systemd", os.Remove, plain, Warning, "/etc/machine-id is missing"},
		{"empty", func(path string) error { return os.Truncate(path, 0) }, plain, Warning, "/etc/machine-id is empty"},
		{"of a first boot", func(path string) error { return os.WriteFile(path, []byte("uninitialized\n"), 0o444) }, everything, Warning,
			`/etc/machine-id holds "uninitialized", which is not an id`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Setenv("PATH", row.path)
			onAThread(t, func() {
				ourOwn(t, "/etc")
				const path = "/etc/machine-id"
				noError(t, os.WriteFile(path, []byte("to be changed"), 0o444))
				noError(t, row.make(path))

				found := oneCheck("machine-id", Doctor{})
				finds(t, found, "machine-id", row.state, row.text)
				if row.state == OK {
					return
				}

				if out, err := exec.Command("sh", "-ec", found[0].Remedy).CombinedOutput(); err != nil {
					t.Errorf("%s: %v: %s", found[0].Remedy, err, out)
				}
				finds(t, oneCheck("machine-id", Doctor{}), "machine-id", OK, "is there")
			})
		})
	}
}
