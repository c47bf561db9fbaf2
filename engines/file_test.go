package engines

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

// Install names a file of another program's that is in the place of ours, and uninstall
// leaves it alone. Neither blocks on it or reads it to its end.
func TestAFileThatIsNotOursIsLeftAlone(t *testing.T) {
	for _, row := range []struct {
		name string
		make func(path string) error
	}{
		{"a fifo", func(path string) error { return unix.Mkfifo(path, 0o644) }},
		{"a file of 200 GB without content", func(path string) error {
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				return err
			}
			return os.Truncate(path, 200<<30)
		}},
		{"200 GB that begin as our files do", func(path string) error {
			if err := os.WriteFile(path, []byte(mark), 0o644); err != nil {
				return err
			}
			return os.Truncate(path, 200<<30)
		}},
		{"a directory", func(path string) error { return os.Mkdir(path, 0o755) }},
		{"a socket", func(path string) error {
			socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			if err == nil {
				socket.SetUnlinkOnClose(false)
				socket.Close()
			}
			return err
		}},
		{"another program's definition", func(path string) error { return os.WriteFile(path, []byte(`{"hook": {"args": ["true"]}}`), 0o644) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "terok-") // short enough for a socket's name
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })

			place := Place{Hooks: dir, DropIn: filepath.Join(dir, "drop-in"), Units: dir}
			paths := []string{filepath.Join(dir, "99-terok-gate-prestart.json"), place.DropIn, place.unit(WatchUnitName), place.unit(ForwardUnitName), place.unit(GateUnitName)}
			for _, path := range paths {
				if err := row.make(path); err != nil {
					t.Fatal(err)
				}
			}

			inTime(t, func() {
				for _, path := range paths {
					if ours, err := isOurs(path); err != nil || ours {
						t.Errorf("install takes %s for ours: %v, %v", path, ours, err)
					}
				}
				if plan, err := place.Removal(); err != nil || len(plan.Remove) != 0 {
					t.Errorf("uninstall takes for ours: %q, %v", plan.Remove, err)
				}
				if ours := DefinitionsIn([]string{dir}); len(ours) != 0 {
					t.Errorf("doctor takes for ours: %v", ours)
				}
			})
		})
	}
}

// inTime fails the test if do takes too long.
func inTime(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		do()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(testenv.AWhile):
		t.Fatal("reading the files hangs")
	}
}

// A power cut leaves the old file or the new one. With half a definition, podman would start no
// container.
func TestAFileIsOnDiskBeforeItIsInPlace(t *testing.T) {
	const inside = "TEROK_TEST_WRITES"
	if path := os.Getenv(inside); path != "" {
		if err := (File{Path: path, Content: []byte("content")}).Write(); err != nil {
			t.Fatal(err)
		}
		return
	}

	testenv.Need(t, "strace")
	dir, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	ctx, cancel := context.WithTimeout(t.Context(), testenv.AWhile)
	defer cancel()

	cmd := exec.CommandContext(ctx, "strace", "-f", "-y", "-o", log, "-e", "trace=write,fchmod,fsync,rename,renameat,renameat2",
		os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), inside+"="+filepath.Join(dir, "file"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	calls, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}

	var got []string
	call := regexp.MustCompile(`(write|fchmod|fsync|rename).*?` + regexp.QuoteMeta(dir) + `(/\.terok-gate-)?`)
	for _, match := range call.FindAllStringSubmatch(string(calls), -1) {
		what := match[1] + " directory"
		if match[2] != "" {
			what = match[1] + " file"
		}
		got = append(got, what)
	}

	if want := "write file, fchmod file, fsync file, rename file, fsync directory"; strings.Join(got, ", ") != want {
		t.Errorf("the calls are %q, not %s:\n%s", got, want, calls)
	}
}
