// Measures the time from a process's death to the end of its transfer.

package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"terok-gate-hook/store"
)

// cuts has two times in milliseconds. While the large repository is fetched with a process's token,
// the process dies: cuts has the time from there until the client's connection ends, and until no git
// process is left. Only the gate sweeps: no reap --watch runs beside it.
type cuts series

const (
	toClient = "the client's connection"
	toGit    = "the last git process"
)

func (h *house) cuts(rounds int) (cuts, error) {
	took := series{}
	repo := filepath.Join(h.repos, large+".git")
	tip, err := git(repo, "rev-parse", "main").Output()
	if err != nil {
		return nil, err
	}
	fetch := packet("command=fetch\n") + "0001" + packet("want "+string(tip)) + packet("done\n") + "0000"
	for range rounds {
		if err := h.cut(took, repo, fetch); err != nil {
			return nil, err
		}
	}
	return cuts(took), nil
}

func (h *house) cut(took series, repo, fetch string) error {
	container := exec.Command("sleep", "infinity")
	if err := container.Start(); err != nil {
		return err
	}
	defer func() {
		_ = container.Process.Kill()
		_ = container.Wait()
	}()

	process, err := store.ProcessOf(container.Process.Pid)
	if err != nil {
		return err
	}
	token, err := h.issue(store.Entry{Grant: store.Grant{Project: large, Task: "cut"}, Container: "c0ffee", Process: process})
	if err != nil {
		return err
	}

	request, err := http.NewRequest("POST", "http://"+h.addresses["gate"]+"/"+large+".git/git-upload-pack", strings.NewReader(fetch))
	if err != nil {
		return err
	}
	for name, value := range map[string]string{
		"Authorization": basic(token), "Git-Protocol": "version=2", "Content-Type": "application/x-git-upload-pack-request",
	} {
		request.Header.Set(name, value)
	}

	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.CopyN(io.Discard, response.Body, 10<<20); err != nil {
		return fmt.Errorf("fetch: %s: %w", response.Status, err)
	}

	start := time.Now()
	if err := container.Process.Kill(); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, response.Body); err == nil {
		return fmt.Errorf("the fetch was done before it was cut")
	}
	took.add(toClient, time.Since(start))

	for busy(repo) {
		if time.Since(start) > 10*time.Second {
			return fmt.Errorf("git still runs after 10 seconds")
		}
	}
	took.add(toGit, time.Since(start))
	return nil
}

// busy reports whether any process has this working directory.
func busy(directory string) bool {
	all, _ := filepath.Glob("/proc/[0-9]*/cwd")
	return slices.ContainsFunc(all, func(link string) bool {
		at, err := os.Readlink(link)
		return err == nil && at == directory
	})
}

func (c cuts) String() string {
	var all []string
	for _, name := range []string{toClient, toGit} {
		all = append(all, fmt.Sprintf("%s ends after %.0f ms, %.0f at most", name, series(c).median(name), largest(c[name])))
	}
	return strings.Join(all, ", ")
}
