// The container state that a runtime writes to a hook's standard input, and the
// part of the bundle's configuration that an injection needs.

package hook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Real states are a few kilobytes; a configuration is tens.
const (
	stateLimit = 1 << 20
	// podman writes poststop's state, and escapes what crun does not: one byte of an
	// annotation may be six. A state that prestart took, poststop must take.
	stoppedLimit = 16 << 20
	configLimit  = 16 << 20
)

// readState reads and checks a state (runtime-spec 1.3, runtime.md "State").
func readState(r io.Reader, limit int64) (specs.State, error) {
	var state specs.State
	content, err := readLimited(r, limit)
	if err != nil {
		return state, fmt.Errorf("read the container state from standard input: %w", err)
	}
	if len(content) == 0 {
		return state, errors.New("read the container state from standard input: there is none: " +
			"a container runtime writes it; to try it by hand, use < testdata/crun/prestart.json")
	}
	if err := json.Unmarshal(content, &state); err != nil {
		return specs.State{}, fmt.Errorf("container state: %w", err)
	}
	if err := checkContainerID(state.ID); err != nil {
		return specs.State{}, fmt.Errorf("container state: id %w", err)
	}
	if state.Pid < 0 {
		return state, fmt.Errorf("container state: pid %d is negative", state.Pid)
	}
	return state, nil
}

// checkContainerID admits what crun and runc do, up to a length that leaves room
// for a file to be named after it. Its errors quote the id safely.
func checkContainerID(id string) error {
	if id == "" {
		return errors.New("is missing")
	}
	const most = 200
	if len(id) > most {
		return fmt.Errorf("%.32q... is refused: longer than %d bytes", id, most)
	}
	if !plain(id, "_.-+") || strings.IndexByte(".-+", id[0]) >= 0 {
		return fmt.Errorf("%q is refused: use letters, digits, '_', '.', '-' and '+', a letter, digit or '_' first", id)
	}
	return nil
}

// configuration is what an injection needs of config.json.
type configuration struct {
	Process *struct {
		User specs.User `json:"user"`
		Env  []string   `json:"env"`
	} `json:"process"`
	Root  *specs.Root `json:"root"`
	Linux *struct {
		MountLabel string `json:"mountLabel"`
	} `json:"linux"`
}

// readConfiguration reads config.json and returns it with the path of the root
// file system made absolute.
func readConfiguration(bundle string) (configuration, error) {
	var config configuration
	if bundle == "" {
		return config, errors.New("container state: bundle is missing")
	}
	if !filepath.IsAbs(bundle) {
		return config, fmt.Errorf("container state: bundle %q is not an absolute path", bundle)
	}
	path := filepath.Join(bundle, "config.json")
	file, err := os.Open(path)
	if err != nil {
		return config, fmt.Errorf("bundle: %w", err)
	}
	defer file.Close()
	content, err := readLimited(file, configLimit)
	if err == nil {
		err = json.Unmarshal(content, &config)
	}
	if err != nil {
		return config, fmt.Errorf("bundle: %s: %w", path, err)
	}
	if config.Process == nil || config.Root == nil || config.Root.Path == "" {
		return config, fmt.Errorf("bundle: %s has no process or no root path", path)
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
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return content, err
}
