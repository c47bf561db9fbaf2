// Defines where the gate's control socket and repositories are, for installed hooks, the gate and
// its command line. (The gate's address in containers' networks is hook.GateListen.)

package control

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"terok-gate-hook/store"
)

// DefaultSocket returns the path of the control socket of this user's gate.
func DefaultSocket() string {
	if os.Geteuid() == 0 {
		return "/run/terok-gate/control"
	}
	runtime := os.Getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(runtime) { // after su and sudo it is not set
		runtime = fmt.Sprintf("/run/user/%d", os.Getuid())
	}
	return filepath.Join(runtime, "terok-gate/control")
}

// HandedOver returns the directory in which hooks note what they hand over at a control
// socket. It is beside the socket's directory, which belongs to the gate and is removed when
// systemd stops the gate.
func HandedOver(socket string) string { return filepath.Dir(socket) + "-hook" }

// ForwardSocket returns the path of terok-gate forward's control socket. gate is the path of the
// gate's control socket.
func ForwardSocket(gate string) string {
	return filepath.Join(filepath.Dir(gate)+"-forward", filepath.Base(gate))
}

// DefaultRepos returns the directory of repositories of this user's gate.
func DefaultRepos() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/terok-gate/repos", nil
	}

	data, err := store.UserData()
	if err != nil {
		return "", err
	}
	return filepath.Join(data, "terok-gate/repos"), nil
}

// Projects returns the projects that have a repository in a directory, sorted.
func Projects(repos string) (projects []string, err error) {
	entries, err := os.ReadDir(repos)
	for _, entry := range entries {
		project, isRepository := strings.CutSuffix(entry.Name(), ".git")
		if isRepository && store.CheckName(project) == nil {
			projects = append(projects, project)
		}
	}
	return projects, err
}
