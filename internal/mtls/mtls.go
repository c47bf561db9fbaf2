// Package mtls authenticates gates on different machines to each other. They use TLS 1.3, and the
// same authority has signed the certificates of both sides. The files are read again when they
// change, so certificates may be short-lived. If new files cannot be used, the old certificates stay
// in force.
package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"terok-gate-hook/internal/follow"
)

// Identity is a gate's certificate with its key, and the authority of other gates' certificates.
// Make one with [New].
type Identity struct {
	mu            sync.Mutex
	cert, key, ca follow.File
	now           loaded
	problem       string // of the last load; empty for none
}

// loaded is what was read from the files.
type loaded struct {
	certificate tls.Certificate
	authority   *x509.CertPool
	sessions    tls.ClientSessionCache
}

// New reads a gate's certificate, its key, and the authority's certificate, all in PEM. The first
// file may also have the certificates between the gate's and the authority's.
func New(cert, key, ca string) (*Identity, error) {
	i := &Identity{cert: follow.File{Path: cert}, key: follow.File{Path: key}, ca: follow.File{Path: ca}}
	return i, i.load()
}

// load reads the files if one of them has changed.
func (i *Identity) load() error {
	cert, changedCert, errCert := i.cert.Read()
	key, changedKey, errKey := i.key.Read()
	ca, changedCA, errCA := i.ca.Read()
	if !changedCert && !changedKey && !changedCA {
		return nil
	}
	if err := errors.Join(errCert, errKey, errCA); err != nil {
		return err
	}

	certificate, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", i.cert.Path, i.key.Path, err)
	}
	authority := x509.NewCertPool()
	if !authority.AppendCertsFromPEM(ca) {
		return fmt.Errorf("authority %s: no certificate is in it", i.ca.Path)
	}
	i.now = loaded{certificate, authority, tls.NewLRUClientSessionCache(64)}
	return nil
}

// current returns what the files have now. If that cannot be used, it returns what they had before.
func (i *Identity) current() loaded {
	i.mu.Lock()
	defer i.mu.Unlock()
	problem := ""
	if err := i.load(); err != nil {
		problem = err.Error()
	}
	if problem != i.problem && problem != "" {
		slog.Error("the new certificates cannot be used: the old ones stay in force", "error", problem)
	}
	i.problem = problem
	return i.now
}

// Server returns the configuration of a server that requires from each client a certificate that
// the authority has signed, and speaks HTTP/1.1 alone.
func (i *Identity) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			now := i.current()
			return &tls.Config{
				MinVersion:   tls.VersionTLS13,
				Certificates: []tls.Certificate{now.certificate},
				ClientAuth:   tls.RequireAndVerifyClientCert,
				ClientCAs:    now.authority,
				NextProtos:   []string{"http/1.1"},
			}, nil
		},
	}
}

// Client returns the configuration of a client that connects to the server of this name or
// address.
func (i *Identity) Client(server string) *tls.Config {
	now := i.current()
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		ServerName:         server,
		Certificates:       []tls.Certificate{now.certificate},
		RootCAs:            now.authority,
		NextProtos:         []string{"http/1.1"},
		ClientSessionCache: now.sessions,
	}
}
