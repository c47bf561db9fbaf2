// Finds the annotations that apply to one container of a pod. All containers of a pod share
// its annotations, so podman kube generate writes terok.project/NAME for the container NAME,
// and podman kube play gives this annotation to every container (seen with podman 4.3.1).

package hook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ofContainer returns the annotations that apply to one container. Of our annotations, one that names
// the container overrides one for the whole pod, and one that names another container is left out.
// ofContainer calls findName for the container's name only if an annotation of ours names a container.
func ofContainer(annotations map[string]string, findName func() (string, error)) (map[string]string, error) {
	var names []string // of containers, in annotations
	for annotation := range annotations {
		if base, name, has := strings.Cut(annotation, "/"); has && IsOurs(base) {
			names = append(names, name)
		}
	}
	if names == nil {
		return annotations, nil
	}

	called, err := findName()
	if err != nil {
		return nil, because("an annotation terok.NAME/CONTAINER is for one container of a pod, and the name of this one is not known", err)
	}
	own, is := nameInPod(called, names)

	meant := map[string]string{}
	for annotation, value := range annotations {
		base, name, has := strings.Cut(annotation, "/")
		switch {
		case !has || !IsOurs(base):
			if _, said := meant[annotation]; !said {
				meant[annotation] = value
			}
		case is && name == own:
			meant[base] = value
		}
	}
	return meant, nil
}

// nameInPod returns the longest of names that matches called. called is the container's name, and
// names come from the annotations.
//
// Podman calls the container NAME of a pod POD-NAME. The match is not exact, since the pod's name
// may have dashes too: POD-b-a can be the container b-a of POD or the container a of POD-b. An
// annotation for "a" applies to both, unless there is one for "b-a". An inexact match is of no use to an
// attacker: the pod's author writes the annotations and names the containers.
//
// The hook cannot learn the pod's name: podman's storage does not have it, and the annotation
// io.kubernetes.cri-o.SandboxID leads only to the infra container, which is named after the pod's
// id (podman's pkg/specgen/generate).
func nameInPod(called string, names []string) (name string, is bool) {
	for _, n := range names {
		if len(n) >= len(name) && (called == n || strings.HasSuffix(called, "-"+n)) {
			name, is = n, true
		}
	}
	return name, is
}

// nameInStorage looks up a container's name in podman's storage, which may be in any of dirs: a
// hook cannot ask podman, which holds the container's lock.
func nameInStorage(id string, dirs ...string) (string, error) {
	for _, dir := range dirs {
		for _, file := range []string{"containers.json", "volatile-containers.json"} { // the latter for podman run --rm
			name, err := nameIn(filepath.Join(dir, file), id)
			if err == nil || !errors.Is(err, fs.ErrNotExist) {
				return name, err
			}
		}
	}
	return "", instead("podman's storage does not have it", fmt.Errorf("container %.64q is not in podman's storage, looked for in %q", id, dirs))
}

// nameIn reads a container's name from a file of podman's storage. It returns
// [fs.ErrNotExist] if the container is not in the file. The attacker is a user who made the
// root file system and put a fifo beside it, to block the hook.
func nameIn(path, id string) (string, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil {
		return "", err
	} else if !info.Mode().IsRegular() {
		return "", instead("podman's storage is not a regular file", fmt.Errorf("%s is not a regular file", path))
	}

	content, err := readLimited(file, configLimit)
	if err != nil {
		return "", err
	}
	var containers []struct {
		ID    string   `json:"id"`
		Names []string `json:"names"`
	}
	if err := json.Unmarshal(content, &containers); err != nil {
		return "", notJSON(fmt.Errorf("%s: %w", path, err))
	}
	for _, c := range containers {
		if c.ID == id && len(c.Names) > 0 {
			return c.Names[0], nil
		}
	}
	return "", fs.ErrNotExist
}

// storageOf returns the directories in which podman's storage may describe the container
// with this root file system: for each directory DRIVER above root, DRIVER-containers beside it.
func storageOf(root string) (dirs []string) {
	for dir := filepath.Dir(root); dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		if containers := dir + "-containers"; isDirectory(containers) {
			dirs = append(dirs, containers)
		}
	}
	return dirs
}

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
