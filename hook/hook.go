// Package hook does what the container runtime asks for at each stage of a
// container's life: at prestart (or createRuntime) it gives the container a token,
// at poststop it takes the token back.
//
// The promise: a token is valid exactly while its container lives. To keep it,
// prestart injects first and commits last. Before the commit a crash or an error
// leaves the token file untouched, and a token that was never valid in a container
// that never starts. Any failure is an error, so that the runtime starts no
// container that believes to have a gate and has none.
//
// Facts about runtimes were seen with podman 4.3.1, crun 1.8.1 and runc 1.1.5 on
// Linux 6.18. Whoever may annotate a container, and the container's file system,
// are the attacker. The runtime's state and the bundle's configuration are trusted
// but checked.
package hook

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"terok-gate-hook/store"
)

// Names and places, unless told otherwise.
const (
	ProjectAnnotation = "terok.project"
	TaskAnnotation    = "terok.task"
	EnvModeAnnotation = "terok.env-mode"
	MountPath         = "/run/terok"
	EnvMode           = fs.FileMode(0o400)
)

// ErrRefused is in the chain of errors that say that the container may not have
// what its annotations ask for.
var ErrRefused = errors.New("refused")

// Hook is how this hook was registered. The zero value of a field that has a
// default means the default.
type Hook struct {
	Tokens            store.File
	ProjectAnnotation string      // default [ProjectAnnotation]
	TaskAnnotation    string      // default [TaskAnnotation]
	AllowProjects     []string    // shell patterns (path.Match), one of which admits a project; none admits all
	MountPath         string      // the folder in the container; default [MountPath]
	EnvMode           fs.FileMode // of the files in it; default [EnvMode]
	GateURL           string      // as the container reaches the gate; empty if not known
	EnvDir            string      // inject on the host, into this folder, even if there is a container process
}

// Check reports which setting makes no sense, in the words of the command line.
func (h Hook) Check() error {
	for _, pattern := range h.AllowProjects {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("--allow-project %q: %w", pattern, err)
		}
	}
	if err := checkMountPath(h.mountPath()); err != nil {
		return fmt.Errorf("--mount-path %q: %w", h.MountPath, err)
	}
	if h.EnvMode != 0 {
		if err := checkEnvMode(h.EnvMode); err != nil {
			return fmt.Errorf("--env-mode %04o: %w", h.EnvMode, err)
		}
	}
	if h.GateURL != "" {
		if err := checkGateURL(h.GateURL); err != nil {
			shown := h.GateURL
			if _, host, ok := strings.Cut(shown, "@"); ok {
				shown = "...@" + host // before it may be a token
			}
			return fmt.Errorf("--gate-url %q: %w", shown, err)
		}
	}
	if h.EnvDir != "" && !filepath.IsAbs(h.EnvDir) {
		return fmt.Errorf("--env-dir %q: is not an absolute path", h.EnvDir)
	}
	return nil
}

// Outcome is what a stage did, as far as it came: it is filled in on errors too.
type Outcome struct {
	Container string        // the container id
	Grant     store.Grant   // what the annotations ask for
	Token     store.Token   // the token that was issued; empty if none was
	EnvFile   string        // the env file on the host; empty if it is in the container
	Revoked   []store.Entry // tokens of this container and, swept, of dead processes
}

// Prestart reads the state of a container about to start. If its annotations ask
// for a token, it draws one, puts it into the container and makes it valid. A
// container without the annotations is left alone.
func (h Hook) Prestart(stdin io.Reader) (Outcome, error) {
	var out Outcome
	state, err := readState(stdin, stateLimit)
	if err != nil {
		return out, err
	}
	out.Container = state.ID
	grant, asked, err := h.grant(state.Annotations)
	out.Grant = grant
	if !asked || err != nil {
		return out, err
	}
	token, err := store.NewToken()
	if err != nil {
		return out, err
	}
	entry := store.Entry{Token: token, Grant: grant, Container: state.ID}
	if state.Pid != 0 {
		// Described before the injection, which fails if the process is gone by then:
		// a pid that was used again in between is not mistaken for the container.
		if entry.Process, err = store.ProcessOf(state.Pid); err != nil {
			return out, fmt.Errorf("container process: %w", err)
		}
	}
	takeBack := func() {}
	if state.Pid == 0 || h.EnvDir != "" {
		out.EnvFile, err = h.injectOnHost(state.ID, files(h.GateURL, "", token, grant, 0))
		if err != nil {
			return out, fmt.Errorf("inject on the host: %w", err)
		}
		takeBack = func() { h.removeFromHost(state.ID) }
	} else if err := h.injectIntoContainer(state, token, grant); err != nil {
		return out, fmt.Errorf("inject %s into the container: %w", h.mountPath(), err)
	}
	out.Revoked, err = h.Tokens.Issue(entry)
	if err != nil {
		takeBack()
		return out, fmt.Errorf("issue the token: %w", err)
	}
	out.Token = token
	return out, nil
}

// Poststop reads the state of a container that stopped and revokes its tokens. It
// can run twice, late, and with an empty environment, and needs no annotations.
func (h Hook) Poststop(stdin io.Reader) (Outcome, error) {
	var out Outcome
	state, err := readState(stdin, stoppedLimit)
	if err != nil {
		return out, err
	}
	out.Container = state.ID
	out.Revoked, err = h.Tokens.RevokeContainer(state.ID)
	if err != nil {
		return out, fmt.Errorf("revoke the container's tokens: %w", err)
	}
	// A token that was spared belongs to the container's next life, and so does the
	// env file.
	left, err := h.Tokens.Entries()
	if err != nil {
		return out, fmt.Errorf("look for the container's next life: %w", err)
	}
	if slices.ContainsFunc(left, func(e store.Entry) bool { return e.Container == state.ID }) {
		return out, nil
	}
	if err := h.removeFromHost(state.ID); err != nil {
		return out, fmt.Errorf("remove the env file: %w", err)
	}
	return out, nil
}

func (h Hook) mountPath() string { return cmp.Or(h.MountPath, MountPath) }
