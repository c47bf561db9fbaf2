package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// pathHelper prints TokenFilePath.
func pathHelper([]string) error {
	path, err := store.TokenFilePath()
	if err != nil {
		return err
	}
	fmt.Println(path)
	return nil
}

func TestTheDefaultTokenFileIsTheOneOfThePythonPrograms(t *testing.T) {
	const root, user = "0", "65534"
	cwd := openDirectory(t)

	for _, row := range []struct {
		name string
		uid  string
		env  string
		want string
	}{
		{"root", root, "", "/var/lib/terok/sandbox/gate/tokens.json"},
		{"root, with a home", root, "HOME=/root XDG_DATA_HOME=/data", "/var/lib/terok/sandbox/gate/tokens.json"},
		{"root with TEROK_SANDBOX_STATE_DIR", root, "TEROK_SANDBOX_STATE_DIR=/srv/terok", "/srv/terok/gate/tokens.json"},
		{"root with an empty TEROK_SANDBOX_STATE_DIR", root, "TEROK_SANDBOX_STATE_DIR=", "/var/lib/terok/sandbox/gate/tokens.json"},
		{"a user", user, "HOME=/home/u", "/home/u/.local/share/terok/sandbox/gate/tokens.json"},
		{"a user with a data directory", user, "HOME=/home/u XDG_DATA_HOME=/data", "/data/terok/sandbox/gate/tokens.json"},
		{"a user with a data directory and no home", user, "XDG_DATA_HOME=/data", "/data/terok/sandbox/gate/tokens.json"},
		{"a user with an empty data directory", user, "HOME=/home/u XDG_DATA_HOME=", "/home/u/.local/share/terok/sandbox/gate/tokens.json"},
		{"a user with a relative data directory, which XDG says to ignore", user, "HOME=/home/u XDG_DATA_HOME=data", "/home/u/.local/share/terok/sandbox/gate/tokens.json"},
		{"a user with TEROK_SANDBOX_STATE_DIR", user, "HOME=/home/u XDG_DATA_HOME=/data TEROK_SANDBOX_STATE_DIR=/srv/terok/", "/srv/terok/gate/tokens.json"},
		{"a user with TEROK_SANDBOX_STATE_DIR and no home", user, "TEROK_SANDBOX_STATE_DIR=/srv/terok", "/srv/terok/gate/tokens.json"},
		{"a relative TEROK_SANDBOX_STATE_DIR", user, "TEROK_SANDBOX_STATE_DIR=state", cwd + "/state/gate/tokens.json"},
	} {
		t.Run(row.name, func(t *testing.T) {
			cmd := helper(t, "path")
			cmd.Env = append(strings.Fields(row.env), helperVar+"=path", testenv.PromptExit)
			cmd.Dir = cwd
			if uid := fmt.Sprint(os.Geteuid()); uid != row.uid && (uid == root || row.uid == root) {
				testenv.NeedRoot(t)
				cmd.Env = append(cmd.Env, uidVar+"="+row.uid)
			}

			if got := strings.TrimSuffix(string(output(t, cmd)), "\n"); got != row.want {
				t.Errorf("%s, want %s", got, row.want)
			}
		})
	}
}

func TestAUserWithoutAHomeHasNoDefaultTokenFile(t *testing.T) {
	cmd := helper(t, "path")
	cmd.Env = []string{helperVar + "=path", testenv.PromptExit}
	if os.Geteuid() == 0 {
		cmd.Env = append(cmd.Env, uidVar+"=65534")
	}
	if out, err := cmd.Output(); err == nil {
		t.Errorf("the path is %s", out)
	}
	for _, part := range []string{"no default token file", "HOME"} {
		if !strings.Contains(fmt.Sprint(cmd.Stderr), part) {
			t.Errorf("error %q does not contain %q", cmd.Stderr, part)
		}
	}
}

func TestThereIsNoDefaultTokenFileInAUserNamespace(t *testing.T) {
	me := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	group := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	for _, row := range []struct{ name, env string }{
		{"where HOME is unset", ""},
		{"where HOME belongs to another user", "HOME=/root XDG_DATA_HOME=/data"},
		{"with TEROK_SANDBOX_STATE_DIR", "TEROK_SANDBOX_STATE_DIR=/srv/terok"},
	} {
		t.Run(row.name, func(t *testing.T) {
			cmd := helper(t, "path")
			cmd.Env = append(strings.Fields(row.env), helperVar+"=path", testenv.PromptExit)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: me, GidMappings: group}
			read, err := cmd.Output()
			if err == nil {
				t.Fatalf("the file is %s", read)
			}
			if cmd.ProcessState == nil {
				testenv.Cannot(t, "needs user namespaces: %v", err)
			}
			for _, part := range []string{"no default token file", "user namespace"} {
				if !strings.Contains(fmt.Sprint(cmd.Stderr), part) {
					t.Errorf("error %q does not contain %q", cmd.Stderr, part)
				}
			}
		})
	}
}

func TestARelativePathOfATokenFileStartsInTheCurrentDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, path := range []string{"tokens.json", "gate/tokens.json"} {
		f := store.File{Path: path}
		issue(t, f, store.Entry{Token: tokenNamed("a"), Grant: store.Grant{Project: "demo", Task: "1"}})
		if _, err := os.Stat(filepath.Join(".", path)); err != nil {
			t.Error(err)
		}
	}
}
