// Puts a taint on a Kubernetes node where containers could start without a gate.

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// taint is the key of the taint.
const taint = "terok.dev/not-ready"

// cluster is Kubernetes' API, as a pod reaches it.
type cluster struct {
	url    string
	token  string // the path of the token's file, which Kubernetes renews
	client *http.Client
}

// inCluster returns the API of the cluster in which this pod runs.
func inCluster() (*cluster, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("--node: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: is this a pod?")
	}
	const account = "/var/run/secrets/kubernetes.io/serviceaccount"
	return newCluster("https://"+net.JoinHostPort(host, port), filepath.Join(account, "ca.crt"), filepath.Join(account, "token"))
}

func newCluster(url, ca, token string) (*cluster, error) {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", ca)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	return &cluster{url, token, &http.Client{Transport: transport, Timeout: 10 * time.Second}}, nil
}

// setTaint puts the taint on a node or takes it off, unless the node is as wanted. If another
// client changes the node meanwhile, setTaint changes nothing and returns an error.
func (c *cluster) setTaint(ctx context.Context, name string, want bool) error {
	var node struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Spec struct {
			Taints []map[string]any `json:"taints"`
		} `json:"spec"`
	}
	path := "/api/v1/nodes/" + url.PathEscape(name)
	if err := c.do(ctx, http.MethodGet, path, nil, &node); err != nil {
		return err
	}

	is := func(t map[string]any) bool { return t["key"] == taint }
	if slices.ContainsFunc(node.Spec.Taints, is) == want {
		return nil
	}
	taints := slices.DeleteFunc(node.Spec.Taints, is)
	if want {
		taints = append(taints, map[string]any{"key": taint, "effect": "NoSchedule"})
	}
	// The patch has the version, so it fails if the node has changed.
	patch := map[string]any{
		"metadata": map[string]any{"resourceVersion": node.Metadata.ResourceVersion},
		"spec":     map[string]any{"taints": taints},
	}
	return c.do(ctx, http.MethodPatch, path, patch, nil)
}

// do makes a request with body as JSON, and parses the answer into result, unless result is nil.
func (c *cluster) do(ctx context.Context, method, path string, body, result any) error {
	token, err := os.ReadFile(c.token)
	if err != nil {
		return err
	}
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(content))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	request.Header.Set("Content-Type", "application/merge-patch+json")

	response, err := c.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	switch {
	case err != nil:
		return err
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("%s %s: %s: %.200s", method, path, response.Status, answer)
	case result == nil:
		return nil
	}
	return json.Unmarshal(answer, result)
}
