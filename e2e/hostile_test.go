package e2e

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// An image chooses what stands where the folder is to be mounted. Whatever it
// chooses, nothing outside the container's root is created, changed or mounted
// on, and the container has its folder inside its own root or does not start.

// hostileImages are root file systems. The folder is to be mounted at
// {parent}/terok; {outside} is a folder of the host and {up} leads from {parent}
// above the root file system. Paths of what is put into the image begin at its
// root.
var hostileImages = []struct {
	name  string
	image []string // what stands there: "path -> target", "path/", "path |" for a fifo, or "path" for a file
	// What comes of it where nothing but our code meets the image: the path that
	// is in the way, or none if the container gets its folder.
	inTheWay string
}{
	{name: "the parent is an absolute link to a folder of the host", image: []string{"{parent} -> {outside}"}, inTheWay: "{parent}"},
	{name: "the parent is a relative link to a folder of the host", image: []string{"{parent} -> {up}{outside}"}, inTheWay: "{parent}"},
	{name: "the parent is an absolute link to a folder of the image", image: []string{"/var/elsewhere/", "{parent} -> /var/elsewhere"}},
	{name: "the parent is a relative link to a folder of the image", image: []string{"/var/elsewhere/", "{parent} -> {up}/var/elsewhere"}},
	{name: "the parent is a link to itself", image: []string{"{parent} -> {parent}"}, inTheWay: "{parent}"},
	{name: "the parent is in a loop of links", image: []string{"{parent} -> {parent}2", "{parent}2 -> {parent}"}, inTheWay: "{parent}"},
	{name: "the parent is a file", image: []string{"{parent}"}, inTheWay: "{parent}"},
	{name: "the parent is a fifo", image: []string{"{parent} |"}, inTheWay: "{parent}"},
	{name: "the parent is a read-only folder", image: []string{"{parent}/ 0555"}},

	{name: "the folder is an absolute link to a folder of the host", image: []string{"{parent}/", "{parent}/terok -> {outside}"}, inTheWay: "{parent}/terok"},
	{name: "the folder is a relative link to a folder of the host", image: []string{"{parent}/", "{parent}/terok -> {up}{outside}"}, inTheWay: "{parent}/terok"},
	{name: "the folder is a link to a folder of the host by way of /proc", image: []string{"{parent}/", "{parent}/terok -> /proc/self/root{outside}"}, inTheWay: "{parent}/terok"},
	{name: "the folder is a link to a folder of the image", image: []string{"/var/elsewhere/", "{parent}/", "{parent}/terok -> {up}/var/elsewhere"}, inTheWay: "{parent}/terok"},
	{name: "the folder is a link to /proc, whose masks it would cover", image: []string{"{parent}/", "{parent}/terok -> /proc"}, inTheWay: "{parent}/terok"},
	{name: "the folder is a link to what does not exist", image: []string{"{parent}/", "{parent}/terok -> missing"}, inTheWay: "{parent}/terok"},
	{name: "the folder is in a loop of links", image: []string{"{parent}/", "{parent}/terok -> terok2", "{parent}/terok2 -> terok"}, inTheWay: "{parent}/terok"},
	{name: "the folder is a file", image: []string{"{parent}/", "{parent}/terok"}, inTheWay: "{parent}/terok"},
	{name: "the folder is a fifo", image: []string{"{parent}/", "{parent}/terok |"}, inTheWay: "{parent}/terok"},
	{name: "the folder is read-only", image: []string{"{parent}/", "{parent}/terok/ 0555"}},

	{name: "gate.env is an absolute link to a file of the host", image: []string{"{parent}/", "{parent}/terok/", "{parent}/terok/gate.env -> {outside}/file"}},
	{name: "gate.env is a relative link to a file of the host", image: []string{"{parent}/", "{parent}/terok/", "{parent}/terok/gate.env -> ../{up}{outside}/file"}},
	{name: "gate.env is in a loop of links", image: []string{"{parent}/", "{parent}/terok/", "{parent}/terok/gate.env -> gitconfig", "{parent}/terok/gitconfig -> gate.env"}},
	{name: "gate.env is a file", image: []string{"{parent}/", "{parent}/terok/", "{parent}/terok/gate.env"}},
	{name: "gate.env is a fifo", image: []string{"{parent}/", "{parent}/terok/", "{parent}/terok/gate.env |"}},
	{name: "gate.env is a read-only folder", image: []string{"{parent}/", "{parent}/terok/", "{parent}/terok/gate.env/ 0555"}},
}

func TestAHostileImageReachesNothingOutsideItsRoot(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, e *engine) {
		// After all the containers: what one of them left on the host stays there.
		t.Cleanup(func() {
			if mounts := e.host(t, "cat", "/proc/self/mountinfo"); strings.Contains(mounts, " terok-gate ") {
				t.Errorf("on the host there is a mount of ours:\n%s", mounts)
			}
		})
		for _, place := range []struct {
			name, parent string
			ours         bool // nobody but us touches the parent
		}{
			{"at /run, where podman mounts too", "/run", false},
			{"at /gate", "/gate", true},
		} {
			folder := path.Join(place.parent, "terok")
			e := e.withHooks(t, hookFlags{prestart: []string{"--mount-path", folder}}, nil)
			for _, row := range hostileImages {
				// Below the parent nobody gets in our way, and at a parent of ours no
				// runtime does: once is enough.
				if place.ours && (e.runtime != "crun" || !strings.HasPrefix(row.name, "the parent")) {
					continue
				}
				t.Run(row.name+", "+place.name, func(t *testing.T) {
					t.Parallel()
					outside := e.outside(t)
					words := strings.NewReplacer("{parent}", place.parent, "{outside}", outside, "{up}", strings.Repeat("../", 20)+".")
					rootfs := e.rootfs(t)
					for _, what := range row.image {
						e.put(t, rootfs, words.Replace(what))
					}
					if !place.ours && row.name == "the parent is a fifo" {
						// Where podman mounts, crun (1.21) waits for somebody who writes to it.
						writer, err := os.OpenFile(filepath.Join(rootfs, place.parent), os.O_RDWR, 0)
						if err != nil {
							t.Fatal(err)
						}
						defer writer.Close()
					}
					before := listing(t, outside)
					out, failure, err := e.runsOnce(t, rootfs, "cat "+folder+"/gate.env; grep terok-gate /proc/self/mountinfo")
					if after := listing(t, outside); after != before {
						t.Errorf("outside the container's root there was\n%s\nand is\n%s", before, after)
					}
					if looksLikeToken.MatchString(fmt.Sprint(err)) {
						t.Errorf("podman's error shows a token: %v", err)
					}
					if !place.ours && err != nil && failure == "" && strings.HasPrefix(row.name, "the parent") {
						t.Log("podman or the runtime failed before us")
						return
					}
					switch inTheWay := words.Replace(row.inTheWay); {
					case inTheWay == "" || err == nil && !place.ours:
						if err != nil {
							t.Errorf("the container does not start: %v\n%s", err, failure)
						} else if !strings.HasPrefix(out, "TEROK_GATE_TOKEN=terok-g-") || !strings.Contains(out, " - tmpfs terok-gate ") {
							t.Errorf("the container does not have its folder inside its root: %q", out)
						}
					case err == nil:
						t.Errorf("the container starts, with %s in the way: %q", inTheWay, out)
					case systemLog.Listening() && !strings.Contains(failure, inTheWay+" in the container's root file system: "):
						t.Errorf("the system log does not say that %s is in the way: %q", inTheWay, failure)
					}
				})
			}
		}
	})
}

// runsOnce runs a container with the gate's annotations on a root file system. It
// returns what it wrote, and what the system log says if our hook failed.
func (e *engine) runsOnce(t *testing.T, rootfs, script string) (out, failure string, err error) {
	t.Helper()
	c := &container{engine: e, about: e.tempDir(t)}
	args := append([]string{"--log-opt", "path=" + filepath.Join(c.about, "log")}, annotations("demo", "hostile")...)
	id, _, err := e.runAndRemove(t, append(args, "--rootfs", rootfs, "sh", "-c", script)...)
	if err != nil && systemLog.Listening() {
		failure = strings.Join(systemLog.SoFar(t, with(id, ": failed ")), "\n")
	}
	// Not what podman passes on: on a busy machine it can lose it (4.3.1).
	return strings.Join(c.output(t), "\n"), failure, err
}

// outside makes a folder of the host that is worth an attack: the engine's user
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
	folder, mode, hasMode := strings.Cut(what, "/ ")
	fifo, isFifo := strings.CutSuffix(what, " |")
	script, args := "", []string(nil)
	switch {
	case isLink:
		script, args = `rm -rf "$0" && ln -s "$1" "$0"`, []string{name, target}
	case hasMode:
		script, args = `mkdir -p "$0" && chmod "$1" "$0"`, []string{folder, mode}
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
