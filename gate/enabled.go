// What a repository's configuration says to git's own HTTP server, git-http-backend(1), and
// git itself does not read.

package gate

import (
	"bytes"
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

// disabled are the services that the configurations of repositories take back, by path.
type disabled struct {
	mu    sync.Mutex
	known map[string]services
}

type services struct {
	version       advertisementVersion
	at            time.Time
	fetch, pushes bool // are disabled
}

func disabledService(s service) *refusal {
	return &refusal{code: http.StatusForbidden, text: "the repository does not allow it: http." + strings.ReplaceAll(s.command(), "-", "") + " is false"}
}

// checkEnabled refuses a service that the repository's configuration takes back by
// http.uploadpack or http.receivepack.
func (v *visit) checkEnabled() error {
	version, err := v.advertisementVersion(v.repo)
	if err != nil {
		return err
	}
	v.disabled.mu.Lock()
	known, ok := v.disabled.known[v.repo.path]
	v.disabled.mu.Unlock()
	if !ok || known.version != version || time.Since(known.at) > keptFor {
		known = services{version: version, at: time.Now()}
		if known.fetch, known.pushes, err = v.disabledIn(v.repo); err != nil {
			return err
		}
		v.disabled.mu.Lock()
		if v.disabled.known == nil {
			v.disabled.known = map[string]services{}
		}
		v.disabled.known[v.repo.path] = known
		v.disabled.mu.Unlock()
	}
	if v.asked.service == uploadPack && known.fetch || v.asked.service == receivePack && known.pushes {
		return disabledService(v.asked.service)
	}
	return nil
}

// disabledIn asks git, if the configuration may say anything of it at all.
func (v *visit) disabledIn(repo repository) (fetch, pushes bool, err error) {
	text, err := os.ReadFile(filepath.Join(repo.path, "config"))
	if err != nil {
		return false, false, err
	}
	text = bytes.ToLower(text)
	mentions := func(word string) bool { return bytes.Contains(text, []byte(word)) }
	if !mentions("http") && !mentions("include") && !mentions("worktreeconfig") {
		return false, false, nil
	}

	is := func(key string) (bool, error) {
		git, err := v.start(repo, v.who, "", "config", "--type=bool", "--get", key)
		if err != nil {
			return false, err
		}
		said, err := git.output(v.r.Context())
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 1 {
			return false, nil // it is not set
		}
		return strings.TrimSpace(string(said)) == "false", err
	}
	if fetch, err = is("http.uploadpack"); err == nil {
		pushes, err = is("http.receivepack")
	}
	return fetch, pushes, err
}

// withoutSigning is the advertisement of receive-pack without push-cert, which the gate
// does not take. No configuration takes back what receive.certNonceSeed of a repository
// has git offer.
func withoutSigning(out io.ReadCloser) io.ReadCloser {
	return &unsigned{ReadCloser: out}
}

// unsigned leaves push-cert out of the first packet with capabilities.
type unsigned struct {
	io.ReadCloser
	begun bool
	left  bytes.Buffer // of what was read ahead
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

// begin reads up to the capabilities. What is no packet stays as it is.
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
