package main

import (
	"bufio"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	owners "terok-gate-hook/internal/owner"
	"terok-gate-hook/internal/testenv"
)

// The stories in testdata/script use these beside testscript's own commands:
//
//	syslog regexp             the system log has a message that matches
//	mode 0600 file            the file has this mode
//	nobody stdin command...   runs the command as another user, if root runs the tests;
//	                          stdin is a file or -
//	container name sample     starts a container's process and writes name.json, its
//	                          state made from the sample
//	end name                  ends it
//
// and the conditions [root], [containers], [strace] and [machine-id]. If a condition does not
// hold, the part of a story that needs it is left out: see testenv.LeaveOut.
func TestStories(t *testing.T) {
	// Another user has to reach the files.
	work := t.TempDir()
	must(t, os.Chmod(filepath.Dir(work), 0o755))
	certificates := issueCertificates(t)

	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		WorkdirRoot:         work,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			hook, err := exec.LookPath("terok-gate-hook")
			if err != nil {
				return err
			}

			// For commands that run without a PATH.
			env.Setenv("HOOK", hook)
			env.Setenv("GATE", filepath.Join(filepath.Dir(hook), "terok-gate"))
			env.Setenv("SAMPLES", filepath.Join(repository, "testdata"))
			env.Setenv("CERTIFICATES", certificates)
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			env.Values["endings"] = endings{}
			return os.Chmod(env.WorkDir, 0o755)
		},

		Condition: func(condition string) (bool, error) {
			var holds bool
			var otherwise string // why a part of the story is left out

			switch condition {
			case "root":
				holds, otherwise = os.Geteuid() == 0, testenv.OnlyRoot
			case "containers":
				holds, otherwise = os.Geteuid() == 0 && testenv.Alone, testenv.OnlyRoot
			case "strace":
				_, err := exec.LookPath("strace")
				holds, otherwise = err == nil, "strace is not installed"
			case "machine-id":
				_, err := os.Stat("/etc/machine-id")
				holds, otherwise = err == nil, "this machine has no id (machine-id(5))"
			default:
				return false, fmt.Errorf("unknown condition %s", condition)
			}

			if !holds {
				return false, testenv.LeaveOut(t.Name(), otherwise)
			}
			return true, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"syslog":    scriptSyslog,
			"mode":      scriptMode,
			"nobody":    scriptNobody,
			"container": scriptContainer,
			"end":       scriptEnd,
		},
	})
}

// issueCertificates fills a directory with certificates and keys: of host-a and repos, of two
// authorities, and some that install must refuse for host-a.
func issueCertificates(t *testing.T) (directory string) {
	t.Helper()
	directory = t.TempDir()
	authority := testenv.NewAuthority(t, directory)
	authority.Issue(t, "host-a", nil, "host-a")
	authority.Issue(t, "repos", nil, "repos")
	authority.Issue(t, "nameless", nil)
	authority.Issue(t, "ended", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, "host-a")
	authority.Issue(t, "server", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, "host-a")

	elsewhere := filepath.Join(directory, "other")
	must(t, os.Mkdir(elsewhere, 0o755))
	testenv.NewAuthority(t, elsewhere)
	return directory
}

func scriptSyslog(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: syslog regexp")
	}
	if !systemLog.Listening() {
		ts.Check(testenv.LeaveOut("TestStories", "there is no system log of our own"))
		return // the rest of the story can be told
	}
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	if _, ok := systemLog.Wait(pattern.MatchString); !ok {
		ts.Fatalf("the system log has no message that matches %s", pattern)
	}
}

func scriptMode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode 0600 file")
	}
	info, err := os.Lstat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("the mode of %s is %s", args[1], got)
	}
}

// scriptNobody runs a command without any rights and without a PATH: the hook
// needs neither root nor podman nor any other program.
func scriptNobody(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: nobody stdin command...")
	}
	stdin, args := args[0], args[1:]
	path, err := exec.LookPath(args[0])
	ts.Check(err)

	cmd := exec.Command(path, args[1:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{"GORACE=" + os.Getenv("GORACE")}
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "TEROK_SANDBOX_STATE_DIR"} {
		if value := ts.Getenv(name); value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}

	if stdin != "-" {
		file, err := os.Open(ts.MkAbs(stdin))
		ts.Check(err)
		defer file.Close()
		cmd.Stdin = file
	}

	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owners.OverflowID, Gid: owners.OverflowID}}
		ts.Check(filepath.WalkDir(cmd.Dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, owners.OverflowID, owners.OverflowID)
		}))
	}

	cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
	if err := cmd.Run(); (err != nil) != neg {
		ts.Fatalf("%v: %v", args, err)
	}
}

// scriptContainer makes what a runtime has made by the time it runs its hooks.
func scriptContainer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: container name sample")
	}
	name, sample := args[0], args[1]
	rootfs, bundle := ts.MkAbs(name+".rootfs"), ts.MkAbs(name+".bundle")
	ts.Check(os.MkdirAll(rootfs, 0o755))
	ts.Check(os.MkdirAll(bundle, 0o755))

	cmd := exec.Command("wait-as-container", rootfs)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	stdin, err := cmd.StdinPipe()
	ts.Check(err)
	stdout, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	end := sync.OnceFunc(func() {
		stdin.Close()
		cmd.Wait()
	})
	ts.Defer(end)
	ts.Value("endings").(endings)[name] = end
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		ts.Fatalf("the container's process says %q, %v", line, err)
	}

	edit := func(from, to string, edit func(map[string]any)) {
		content, err := os.ReadFile(filepath.Join(repository, "testdata", filepath.Dir(sample), from))
		ts.Check(err)
		var value map[string]any
		ts.Check(json.Unmarshal(content, &value))
		edit(value)
		content, err = json.Marshal(value)
		ts.Check(err)
		ts.Check(os.WriteFile(to, content, 0o644))
	}
	edit("bundle/config.json", filepath.Join(bundle, "config.json"), func(config map[string]any) {
		config["root"] = map[string]any{"path": rootfs}
	})
	edit(filepath.Base(sample), ts.MkAbs(name+".json"), func(state map[string]any) {
		state["id"], state["pid"], state["bundle"] = name, cmd.Process.Pid, bundle
	})
	ts.Setenv(name, fmt.Sprintf("/proc/%d/root%s", cmd.Process.Pid, rootfs))
}

// endings are what ends each container of a script.
type endings map[string]func()

func scriptEnd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: end name")
	}
	ts.Value("endings").(endings)[args[0]]()
}

// waitAsContainer is the process of a container: in a mount namespace of its own,
// before pivot_root(2).
func waitAsContainer() {
	rootfs := os.Args[1]
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		fmt.Println("make mounts private:", err)
		os.Exit(1)
	}
	if err := unix.Mount(rootfs, rootfs, "", unix.MS_BIND, ""); err != nil {
		fmt.Println("bind the root file system:", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
}
