// Reads the container state that a runtime writes to a hook's standard input, and the part
// of the bundle's configuration that an injection needs.

package hook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Real states have a few kilobytes, real configurations about ten.
const (
	stateLimit = 1 << 20
	// Podman writes poststop's state, and escapes more than crun does: one byte of an
	// annotation may become six. Poststop must accept every state that prestart accepted.
	stoppedLimit = 16 << 20
	configLimit  = 16 << 20
)

// readState reads and checks the state of a container that starts (runtime-spec 1.3,
// runtime.md "State").
func readState(r io.Reader, limit int64) (specs.State, error) {
	state, err := readStateOf(r, limit)
	if err == nil && state.Pid < 0 {
		err = because("container state", instead("the pid is negative"+otherKernel, fmt.Errorf("pid %d is negative%s", state.Pid, otherKernel)))
	}
	return state, err
}

// readStopped reads and checks the state of a container that has stopped. The container has no
// process, so the pid in the state means nothing: gVisor's runsc writes -1.
func readStopped(r io.Reader) (specs.State, error) { return readStateOf(r, stoppedLimit) }

// otherKernel is the likely reason if a container has no process of this kernel.
const otherKernel = " (runtimes such as runsc of gVisor and Kata, which run containers on another kernel, are not supported: use runc or crun)"

func readStateOf(r io.Reader, limit int64) (specs.State, error) {
	var state specs.State
	content, err := readLimited(r, limit)
	if err != nil {
		return state, because("read the container state from standard input", err)
	}
	if len(content) == 0 {
		return state, failure("read the container state from standard input: there is none: " +
			"a container runtime writes it; to try it by hand, use < testdata/crun/prestart.json")
	}
	if err := json.Unmarshal(content, &state); err != nil {
		return specs.State{}, because("container state", notJSON(err))
	}

	if err := checkContainerID(state.ID); err != nil {
		return specs.State{}, because("container state", err)
	}
	return state, nil
}

// notJSON prints a fixed text in place of an error of encoding/json, which quotes the input. Only the
// log has that error.
func notJSON(err error) error { return instead("not the JSON that it should be", err) }

// checkContainerID admits the ids that crun and runc admit, if they are short enough for
// files to be named after them.
func checkContainerID(id string) error {
	const most = 200
	switch {
	case id == "":
		return failure("id is missing")
	case len(id) > most:
		return instead("id is refused: longer than 200 bytes", fmt.Errorf("id %.32q... is refused: longer than %d bytes", id, most))
	case !plain(id, "_.-+") || strings.IndexByte(".-+", id[0]) >= 0:
		const use = "is refused: use letters, digits, '_', '.', '-' and '+', a letter, digit or '_' first"
		return instead("id "+use, fmt.Errorf("id %q "+use, id))
	}
	return nil
}

// configuration is the part of config.json that an injection needs.
type configuration struct {
	Process *struct {
		User specs.User `json:"user"`
		Env  []string   `json:"env"`
	} `json:"process"`
	Root  *specs.Root `json:"root"`
	Linux *struct {
		MountLabel string                 `json:"mountLabel"`
		Namespaces []specs.LinuxNamespace `json:"namespaces"`
	} `json:"linux"`
}

// readConfiguration reads config.json and returns it with the path of the root
// file system made absolute.
func readConfiguration(bundle string) (configuration, error) {
	var config configuration
	if bundle == "" {
		return config, failure("container state: bundle is missing")
	}
	if !filepath.IsAbs(bundle) {
		return config, because("container state", instead("bundle is not an absolute path", fmt.Errorf("bundle %q is not an absolute path", bundle)))
	}

	path := filepath.Join(bundle, "config.json")
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		// Podman starts crun in the bundle, but some engines do not.
		const hint = " (crun 1.27 to 1.29.1 names the directory that it was started in)"
		return config, instead("bundle: the directory that the state names has no config.json"+hint, fmt.Errorf("bundle: %w%s", err, hint))
	}
	if err != nil {
		return config, because("bundle: config.json", err)
	}
	defer file.Close()

	content, err := readLimited(file, configLimit)
	if err == nil {
		if err = json.Unmarshal(content, &config); err != nil {
			err = notJSON(err)
		}
	}
	if err == nil && (config.Process == nil || config.Root == nil || config.Root.Path == "") {
		err = failure("has no process or no root path")
	}
	if err != nil {
		return config, instead("bundle: config.json: "+reason(err), fmt.Errorf("bundle: %s: %w", path, full(err)))
	}

	if !filepath.IsAbs(config.Root.Path) {
		config.Root.Path = filepath.Join(bundle, config.Root.Path)
	}
	return config, nil
}

// readLimited is io.ReadAll with an error for more than limit bytes.
func readLimited(r io.Reader, limit int64) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = failure(text(fmt.Sprintf("more than %d bytes", limit)))
	}
	return content, err
}
