package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An image can have anything at the place where our directory, /run/terok, is to be mounted.
// Whatever it has there, nothing outside the container's root is created, changed or mounted on.
// Either the container has its directory inside its own root, or it does not start.

// hostileImages are root file systems. In their names, "the directory" is /run/terok.
// {outside} is a directory of the host, and {up} leads from /run to above the root file
// system. Paths begin at the root of the image.
var hostileImages = []struct {
	name  string
	image []string // what stands there: "path -> target", "path/", "path |" for a fifo, or "path" for a file
	// inTheWay is the path at which our code fails, empty if the container gets its
	// directory. (Podman or the runtime may fail before.)
	inTheWay string
}{
	{name: "/run is an absolute link to a directory of the host", image: []string{"/run -> {outside}"}, inTheWay: "/run"},
	{name: "/run is a relative link to a directory of the host", image: []string{"/run -> {up}{outside}"}, inTheWay: "/run"},
	{name: "/run is an absolute link to a directory of the image", image: []string{"/var/elsewhere/", "/run -> /var/elsewhere"}},
	{name: "/run is a relative link to a directory of the image", image: []string{"/var/elsewhere/", "/run -> {up}/var/elsewhere"}},
	{name: "/run is a link to itself", image: []string{"/run -> /run"}, inTheWay: "/run"},
	{name: "/run is in a loop of links", image: []string{"/run -> /run2", "/run2 -> /run"}, inTheWay: "/run"},
	{name: "/run is a file", image: []string{"/run"}, inTheWay: "/run"},
	{name: "/run is a fifo", image: []string{"/run |"}, inTheWay: "/run"},
	{name: "/run is a read-only directory", image: []string{"/run/ 0555"}},

	{name: "the directory is an absolute link to a directory of the host", image: []string{"/run/", "/run/terok -> {outside}"}, inTheWay: "/run/terok"},
	{name: "the directory is a relative link to a directory of the host", image: []string{"/run/", "/run/terok -> {up}{outside}"}, inTheWay: "/run/terok"},
	{name: "the directory is a link to a directory of the host by way of /proc", image: []string{"/run/", "/run/terok -> /proc/self/root{outside}"}, inTheWay: "/run/terok"},
	{name: "the directory is a link to a directory of the image", image: []string{"/var/elsewhere/", "/run/", "/run/terok -> {up}/var/elsewhere"}, inTheWay: "/run/terok"},
	{name: "the directory is a link to /proc, whose masks it would cover", image: []string{"/run/", "/run/terok -> /proc"}, inTheWay: "/run/terok"},
	{name: "the directory is a link to what does not exist", image: []string{"/run/", "/run/terok -> missing"}, inTheWay: "/run/terok"},
	{name: "the directory is in a loop of links", image: []string{"/run/", "/run/terok -> terok2", "/run/terok2 -> terok"}, inTheWay: "/run/terok"},
	{name: "the directory is a file", image: []string{"/run/", "/run/terok"}, inTheWay: "/run/terok"},
	{name: "the directory is a fifo", image: []string{"/run/", "/run/terok |"}, inTheWay: "/run/terok"},
	{name: "the directory is read-only", image: []string{"/run/", "/run/terok/ 0555"}},

	{name: "gate.env is an absolute link to a file of the host", image: []string{"/run/", "/run/terok/", "/run/terok/gate.env -> {outside}/file"}},
	{name: "gate.env is a relative link to a file of the host", image: []string{"/run/", "/run/terok/", "/run/terok/gate.env -> ../{up}{outside}/file"}},
	{name: "gate.env is in a loop of links", image: []string{"/run/", "/run/terok/", "/run/terok/gate.env -> gitconfig", "/run/terok/gitconfig -> gate.env"}},
	{name: "gate.env is a file", image: []string{"/run/", "/run/terok/", "/run/terok/gate.env"}},
	{name: "gate.env is a fifo", image: []string{"/run/", "/run/terok/", "/run/terok/gate.env |"}},
	{name: "gate.env is a read-only directory", image: []string{"/run/", "/run/terok/", "/run/terok/gate.env/ 0555"}},
}

func TestAHostileImageReachesNothingOutsideItsRoot(t *testing.T) {
	onCrunAndRunc(t, func(t *testing.T, e *engine) {
		// One look after all the containers is enough: a mount that one of them has left on
		// the host stays there.
		t.Cleanup(func() {
			if mounts := e.host(t, "cat", "/proc/self/mountinfo"); strings.Contains(mounts, " terok-gate ") {
				t.Errorf("on the host there is a mount of ours:\n%s", mounts)
			}
		})

		for _, row := range hostileImages {
			t.Run(row.name, func(t *testing.T) {
				t.Parallel()
				outside := e.outside(t)
				words := strings.NewReplacer("{outside}", outside, "{up}", strings.Repeat("../", 20)+".")
				rootfs := e.rootfs(t)
				for _, what := range row.image {
					e.put(t, rootfs, words.Replace(what))
				}

				if row.name == "/run is a fifo" {
					// Podman mounts something below /run, and crun (1.21) waits there for a writer.
					writer, err := os.OpenFile(filepath.Join(rootfs, "/run"), os.O_RDWR, 0)
					if err != nil {
						t.Fatal(err)
					}
					defer writer.Close()
				}

				before := listing(t, outside)
				out, failure, err := e.runsOnce(t, rootfs, "cat /run/terok/gate.env; grep terok-gate /proc/self/mountinfo")
				if after := listing(t, outside); after != before {
					t.Errorf("outside the container's root there was\n%s\nand is\n%s", before, after)
				}
				if looksLikeToken.MatchString(fmt.Sprint(err)) {
					t.Errorf("podman's error shows a token: %v", err)
				}

				switch {
				case err == nil:
					if !strings.HasPrefix(out, "TEROK_GATE_TOKEN=terok-g-") || !strings.Contains(out, " - tmpfs terok-gate ") {
						t.Errorf("the container does not have its directory inside its root: %q", out)
					}
				case failure == "" && strings.HasPrefix(row.name, "/run is "):
					t.Log("podman or the runtime failed before us")
				case row.inTheWay == "":
					t.Errorf("the container does not start: %v\n%s", err, failure)
				case systemLog.Listening() && !strings.Contains(failure, row.inTheWay+" in the container's root file system: "):
					t.Errorf("the system log does not say that %s is in the way: %q", row.inTheWay, failure)
				}
			})
		}
	})
}

// runsOnce runs a container with the gate's annotations on a root file system. It returns
// what the container wrote, and what the system log says if our hook failed.
func (e *engine) runsOnce(t *testing.T, rootfs, script string) (out, failure string, err error) {
	t.Helper()
	c := &container{engine: e, about: e.tempDir(t)}
	args := append([]string{"--log-opt", "path=" + filepath.Join(c.about, "log")}, annotations("demo", "hostile")...)
	id, _, err := e.runAndRemove(t, append(args, "--rootfs", rootfs, "sh", "-c", script)...)
	if err != nil && systemLog.Listening() {
		failure = strings.Join(systemLog.SoFar(t, with(id, ": failed ")), "\n")
	}
	// On a busy machine, podman can lose output of the container (4.3.1), so this reads
	// the container's log.
	return strings.Join(c.output(t), "\n"), failure, err
}

// outside makes a directory of the host that is worth an attack: the engine's user
// may write to all of it.
func (e *engine) outside(t *testing.T) string {
	t.Helper()
	dir := e.tempDir(t)
	if _, err := e.run("sh", "-c", `cd "$0" && echo victim >file && cp file gate.env && chmod 0666 * && chmod 0777 .`, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// put puts one thing of a hostile image into a root file system.
func (e *engine) put(t *testing.T, rootfs, what string) {
	t.Helper()
	name, target, isLink := strings.Cut(what, " -> ")
	directory, mode, hasMode := strings.Cut(what, "/ ")
	fifo, isFifo := strings.CutSuffix(what, " |")

	script, args := "", []string(nil)
	switch {
	case isLink:
		script, args = `rm -rf "$0" && ln -s "$1" "$0"`, []string{name, target}
	case hasMode:
		script, args = `mkdir -p "$0" && chmod "$1" "$0"`, []string{directory, mode}
	case isFifo:
		script, args = `rm -rf "$0" && mkfifo "$0"`, []string{fifo}
	case strings.HasSuffix(what, "/"):
		script, args = `mkdir -p "$0"`, []string{what}
	default:
		script, args = `rm -rf "$0" && echo image >"$0"`, []string{what}
	}

	args[0] = filepath.Join(rootfs, args[0])
	if _, err := e.run("sh", append([]string{"-c", script}, args...)...); err != nil {
		t.Fatal(err)
	}
}
