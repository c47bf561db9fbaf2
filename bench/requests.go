// Measures how many requests a second each server answers.

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// atOnce is the number of clients in measurements of many clients.
const atOnce = 16

// requests is how many times a second each server lists a repository's refs. That is the first request of
// every clone, fetch and push. A client keeps its connection, as git does, and asks again when it has
// the answer.
type requests struct {
	PerSecond map[string]series // by what is asked
	// The ratio of the gate's own processor time to git's, for each number of clients. This is for protocol
	// 0, with which the gate starts git for each request.
	OwnTime map[int][]float64
}

// asked are the kinds of requests.
var asked = []struct {
	name     string
	protocol int
	clients  int
}{
	{"protocol 0, 1 client", 0, 1}, {"protocol 0, 16 clients", 0, atOnce},
	{"protocol 2, 1 client", 2, 1}, {"protocol 2, 16 clients", 2, atOnce},
}

func (h *house) requests(rounds int, length time.Duration) (requests, error) {
	r := requests{map[string]series{}, map[int][]float64{}}
	for range rounds {
		for _, asked := range asked {
			if r.PerSecond[asked.name] == nil {
				r.PerSecond[asked.name] = series{}
			}
			for _, server := range servers {
				own, gits := processorTime(h.gate.Process.Pid)
				perSecond, err := h.ask(server, asked.protocol, asked.clients, length)
				if err != nil {
					return r, fmt.Errorf("%s, %s: %w", server, asked.name, err)
				}
				r.PerSecond[asked.name][server] = append(r.PerSecond[asked.name][server], perSecond)
				if server == "gate" && asked.protocol == 0 {
					ownNow, gitsNow := processorTime(h.gate.Process.Pid)
					r.OwnTime[asked.clients] = append(r.OwnTime[asked.clients], (ownNow-own)/(gitsNow-gits))
				}
			}
		}
	}
	return r, nil
}

// ask makes clients ask a server as often as they can for the given time, and returns how many
// answers a second they got.
func (h *house) ask(server string, protocol, clients int, length time.Duration) (perSecond float64, err error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients, DisableCompression: true}}
	defer client.CloseIdleConnections()
	one := func() error { return h.askOnce(client, server, protocol) }
	if err := one(); err != nil { // not measured, since it fills the caches
		return 0, err
	}

	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	var answers atomic.Int64
	errs := make([]error, clients)
	var all sync.WaitGroup

	start := time.Now()
	for i := range clients {
		all.Go(func() {
			for ctx.Err() == nil && errs[i] == nil {
				errs[i] = one()
				answers.Add(1)
			}
		})
	}
	all.Wait()
	took := time.Since(start)

	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return float64(answers.Load()) / took.Seconds(), nil
}

// askOnce asks for the refs of the small repository. For the floor, it only runs git.
func (h *house) askOnce(client *http.Client, server string, protocol int) error {
	var answer []byte
	if server == "floor" {
		cmd := exec.Command("git", "upload-pack", "--stateless-rpc", "--http-backend-info-refs", filepath.Join(h.repos, small+".git"))
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GIT_CONFIG_NOSYSTEM=1", fmt.Sprintf("GIT_PROTOCOL=version=%d", protocol)}
		var err error
		if answer, err = cmd.Output(); err != nil {
			return err
		}
	} else {
		request, err := http.NewRequest("GET", "http://"+h.addresses[server]+"/"+small+".git/info/refs?service=git-upload-pack", nil)
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", basic(h.token))
		if protocol > 0 {
			request.Header.Set("Git-Protocol", fmt.Sprintf("version=%d", protocol))
		}

		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if answer, err = io.ReadAll(response.Body); err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", response.Status, answer)
		}
	}

	// Every answer ends like this, in both versions of the protocol.
	if !bytes.HasSuffix(answer, []byte("\n0000")) || bytes.Contains(answer, []byte("version 2")) != (protocol == 2) {
		return fmt.Errorf("unexpected answer %.200q", answer)
	}
	return nil
}

func (r requests) String() (text string) {
	for _, asked := range asked {
		perSecond := r.PerSecond[asked.name]
		text += asked.name + ":"
		for _, server := range servers {
			text += fmt.Sprintf(" %s %.0f/s (%.2f);", server, perSecond.median(server), perSecond.median("gate")/perSecond.median(server))
		}
		text += "\n"
	}
	return text + fmt.Sprintf("the gate's own processor time is %.2f of git's with 1 client, %.2f with %d", median(r.OwnTime[1]), median(r.OwnTime[atOnce]), atOnce)
}
