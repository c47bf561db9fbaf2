// Package hook does what the container runtime asks for at each stage of a
// container's life: at prestart (or createRuntime) it gives the container a token,
// at poststop it revokes the token.
//
// The promise: a token is valid exactly while its container lives. So prestart first
// puts the token into the container, and adds it to the token file last. After a crash
// or an error before that, the container never starts, and a token that is in it was
// never valid. Any failure is an error, so that the runtime never starts a container
// that expects a gate and has none.
//
// Facts about runtimes were seen with podman 4.3.1, crun 1.8.1 and runc 1.1.5 on
// Linux 6.18. The attacker is anyone who may annotate a container or decides what its
// file system holds. The runtime's state and the bundle's configuration are trusted
// but checked.
package hook

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"terok-gate-hook/store"
)

// Outcome describes what a stage did. After an error, it describes what was done before the error.
type Outcome struct {
	Container string        // the container id
	Grant     store.Grant   // what the annotations ask for
	Token     store.Token   // the token that was issued; empty if none was
	EnvFile   string        // the env file on the host; empty if it is in the container
	Lacks     error         // what the container starts without, for the log
	Revoked   []store.Entry // revoked tokens: of this container, and of dead processes
}

// Prestart reads the state of a container about to start. If its annotations ask
// for a token, it draws one, puts it into the container and makes it valid. A
// container without the annotations is left alone.
func (s Settings) Prestart(stdin io.Reader) (out Outcome, err error) {
	return s.start(stdin, false)
}

// CreateRuntime does what Prestart does, at the stage at which a device's hook runs (runtime-spec,
// config.md "createRuntime Hooks"). It refuses a container that already has a token in this
// life: otherwise, a container with two devices would get the project of the last one.
func (s Settings) CreateRuntime(stdin io.Reader) (out Outcome, err error) {
	return s.start(stdin, true)
}

// start gives a token to a container that is starting. If once is set, it refuses a container
// that already has a token in this life.
func (s Settings) start(stdin io.Reader, once bool) (out Outcome, err error) {
	defer func() { err = printableError(err) }()

	state, err := readState(stdin, stateLimit)
	if err != nil {
		return out, err
	}
	out.Container = state.ID

	annotations, err := ofContainer(state.Annotations, func() (string, error) {
		return nameInStorage(state.ID, filepath.Dir(filepath.Dir(state.Bundle))) // DIR/<id>/userdata
	})
	if err != nil {
		return out, err
	}
	if annotations, err = s.ofDevice(annotations, state.ID); err != nil {
		return out, err
	}
	want, asked, err := s.request(annotations)
	out.Grant = want.Grant
	if !asked || err != nil {
		return out, err
	}
	s.WithholdToken = s.WithholdToken && !s.sharesPod(annotations)

	token, err := store.NewToken()
	if err != nil {
		return out, err
	}
	entry := store.Entry{Token: token, Grant: want.Grant, Limits: want.Limits, Also: want.Also, Container: state.ID}
	if s.Hashed {
		entry.Token = store.Token(token.Key())
	}

	var process *store.Pinned
	if state.Pid != 0 {
		// Pinned once, so that a reused pid is never mistaken for the container.
		if process, err = store.Pin(state.Pid); err != nil {
			return out, because("container process", kernelTooOld(err))
		}
		defer process.Close()
		entry.Process = &process.Process
	}

	takeBack := func() {}
	if state.Pid == 0 || s.EnvDir != "" {
		out.EnvFile, err = s.injectOnHost(state.ID, envFile(s.variables(want, token, nil)))
		if err != nil {
			return out, because("inject on the host", err)
		}
		takeBack = func() { s.removeFromHost(state.ID) }
	} else {
		want.addresses, out.Lacks = s.addresses(want)
		in, err := s.readInjection(state, process, want, token)
		if err != nil {
			return out, err
		}
		if err := in.mount(); err != nil {
			return out, because("inject "+MountPath+" into the container", err)
		}
	}

	if s.GateSocket != "" {
		entry.Gate = &store.Attached{Listen: s.gateListen(), Withheld: s.WithholdToken, Services: s.listening(want.services)}
		if err := s.attachFirst(entry, process); err != nil {
			takeBack()
			if once && s.hasToken(entry) { // the gate refused because of that token
				err = errTwice()
			}
			return out, err
		}
	}

	switch {
	case process == nil:
		out.Revoked, err = s.Tokens.Issue(entry) // valid until it is revoked
	case once:
		out.Revoked, err = s.Tokens.IssueOnceTo(process, entry)
	default:
		out.Revoked, err = s.Tokens.IssueTo(process, entry)
	}
	if err != nil {
		takeBack()
		if errors.Is(err, store.ErrIssued) {
			return out, errTwice()
		}
		return out, s.ofTokens("issue the token", err)
	}
	out.Token = token
	return out, nil
}

// errTwice returns the refusal of a container that already has a token in this life.
func errTwice() error {
	return refused(instead(text(store.ErrIssued.Error())+": ask for one device terok.dev/project, and for other projects with the annotations terok.read and terok.write", store.ErrIssued))
}

// hasToken reports whether the container of the entry has a token in this life.
func (s Settings) hasToken(entry store.Entry) (has bool) {
	_ = s.Tokens.Each(func(e store.Entry) {
		has = has || e.Container == entry.Container && e.Process != nil && entry.Process != nil && *e.Process == *entry.Process
	})
	return has
}

// Poststop reads the state of a container that has stopped, and revokes the container's tokens. It may
// run twice, late, or with an empty environment, and needs no annotations.
func (s Settings) Poststop(stdin io.Reader) (out Outcome, err error) {
	defer func() { err = printableError(err) }()
	state, err := readStopped(stdin)
	if err != nil {
		return out, err
	}
	out.Container = state.ID

	var nextLife bool
	out.Revoked, nextLife, err = s.Tokens.RevokeContainer(state.ID)
	if err != nil {
		return out, s.ofTokens("revoke the container's tokens", err)
	}
	if nextLife {
		return out, nil // the env file belongs to the container's next life
	}

	if err := s.removeFromHost(state.ID); err != nil {
		return out, because("remove the env file", err)
	}
	if err := s.forget(state.ID); err != nil {
		return out, because("remove the record that the gate serves the container", err)
	}
	return out, nil
}

// ofTokens returns an error that says what failed, and names the token file.
func (s Settings) ofTokens(what text, err error) error {
	return instead(what+": token file "+text(s.Tokens.Path)+": "+reason(err), fmt.Errorf("%s: %w", what, err))
}
