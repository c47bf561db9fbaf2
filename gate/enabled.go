// Honours settings in a repository's configuration that upload-pack and receive-pack do not read:
// http.uploadpack and http.receivepack, which git's own HTTP server reads (git-http-backend(1)).
// Removes signed pushes from what git offers.

package gate

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// disabled caches, for each repository, which services its configuration disables.
type disabled struct {
	mu    sync.Mutex
	known map[string]switchedOff // by the repository's path
}

type switchedOff struct {
	version         advertisementVersion
	at              time.Time
	fetches, pushes bool
}

func disabledService(s service) *refusal {
	return &refusal{code: http.StatusForbidden, text: "the repository's configuration disables this: http." + strings.ReplaceAll(s.command(), "-", "") + " is false"}
}

// check returns a refusal if the repository's configuration disables the service with
// http.uploadpack or http.receivepack.
func (d *disabled) check(ctx context.Context, git *runner, repo repository, who caller, asked service) error {
	version, err := git.advertisementVersion(repo)
	if err != nil {
		return err
	}

	d.mu.Lock()
	known, ok := d.known[repo.path]
	d.mu.Unlock()
	if !ok || known.version != version || time.Since(known.at) > keptFor {
		known = switchedOff{version: version, at: time.Now()}
		if known.fetches, known.pushes, err = disabledIn(ctx, git, repo, who); err != nil {
			return err
		}
		d.mu.Lock()
		if d.known == nil {
			d.known = map[string]switchedOff{}
		}
		d.known[repo.path] = known
		d.mu.Unlock()
	}

	if asked == uploadPack && known.fetches || asked == receivePack && known.pushes {
		return disabledService(asked)
	}
	return nil
}

// disabledIn returns whether the configuration disables fetches and pushes. It starts git only if
// the repository's configuration file may set http.uploadpack or http.receivepack, itself or through
// another file.
func disabledIn(ctx context.Context, git *runner, repo repository, who caller) (fetches, pushes bool, err error) {
	text, err := os.ReadFile(filepath.Join(repo.path, "config"))
	if err != nil {
		return false, false, err
	}
	text = bytes.ToLower(text)
	mentions := func(word string) bool { return bytes.Contains(text, []byte(word)) }
	if !mentions("http") && !mentions("include") && !mentions("worktreeconfig") {
		return false, false, nil
	}

	isFalse := func(key string) (bool, error) {
		config, err := git.start(repo, who, "", "config", "--type=bool", "--get", key)
		if err != nil {
			return false, err
		}
		said, err := config.output(ctx)
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 1 {
			return false, nil // it is not set
		}
		return strings.TrimSpace(string(said)) == "false", err
	}
	if fetches, err = isFalse("http.uploadpack"); err == nil {
		pushes, err = isFalse("http.receivepack")
	}
	return fetches, pushes, err
}

// withoutSigning returns the advertisement of receive-pack without push-cert, since the gate does
// not accept signed pushes. git offers push-cert if a repository's configuration sets
// receive.certNonceSeed, and no other setting can prevent that.
func withoutSigning(out io.ReadCloser) io.ReadCloser {
	return &unsigned{ReadCloser: out}
}

// unsigned leaves push-cert out of the first packet with capabilities.
type unsigned struct {
	io.ReadCloser
	begun bool
	left  bytes.Buffer // what was read ahead and not yet returned
}

func (u *unsigned) Read(p []byte) (int, error) {
	if !u.begun {
		u.begun = true
		u.begin()
	}
	if u.left.Len() > 0 {
		return u.left.Read(p)
	}
	return u.ReadCloser.Read(p)
}

// begin reads packets until one has capabilities, and takes push-cert out of that one. At a flush
// packet, and where git's output is not packets, begin stops and changes nothing.
func (u *unsigned) begin() {
	for {
		var raw bytes.Buffer
		packet, err := readPacket(u.ReadCloser, &raw)
		line, capabilities, has := strings.Cut(string(packet), "\x00")
		if err != nil || packet == nil || !has {
			_, _ = raw.WriteTo(&u.left)
			if err != nil || packet == nil {
				return
			}
			continue
		}

		var kept []string
		for _, capability := range strings.Fields(capabilities) {
			if !strings.HasPrefix(capability, "push-cert=") {
				kept = append(kept, capability)
			}
		}
		writePacket(&u.left, line+"\x00"+strings.Join(kept, " ")+"\n")
		return
	}
}
