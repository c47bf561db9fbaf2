// The flags of serve for gates on several machines.

package main

import (
	"github.com/urfave/cli/v2"

	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/mtls"
	"terok-gate-hook/internal/voucher"
)

// fleet is what a gate needs to know of gates on other machines.
type fleet struct {
	repositoryGate mtls.URL
	identity       *mtls.Identity
	vouching       *voucher.Hosts
}

// fleetOf returns what the command line says of other gates.
func fleetOf(c *cli.Context) (f fleet, err error) {
	elsewhere, listens := c.IsSet("repository-gate"), c.IsSet("tls-listen")
	switch {
	case elsewhere && c.IsSet("repos"):
		return f, misuse.Errorf("--repository-gate and --repos: the repositories are at one of the two")
	case elsewhere && listens:
		return f, misuse.Errorf("--repository-gate and --tls-listen: a gate has the repositories, or hands requests on")
	case !listens && (c.IsSet("vouch") || c.IsSet("vouch-file")):
		return f, misuse.Errorf("--vouch: needs --tls-listen")
	case listens && !c.IsSet("vouch") && !c.IsSet("vouch-file"):
		return f, misuse.Errorf("--tls-listen: needs --vouch or --vouch-file: no host would be served")
	}

	for _, name := range []string{"tls-cert", "tls-key", "tls-ca"} {
		switch needed := elsewhere || listens; {
		case needed && c.String(name) == "":
			return f, misuse.Errorf("--%s is missing: gates on other machines know this one by its certificate", name)
		case !needed && c.IsSet(name):
			return f, misuse.Errorf("--%s: needs --tls-listen or --repository-gate", name)
		}
	}
	if !elsewhere && !listens {
		return f, nil
	}

	if elsewhere {
		if f.repositoryGate, err = mtls.ParseURL(c.String("repository-gate")); err != nil {
			return f, misuse.Errorf("--repository-gate: %w", err)
		}
	}
	if f.vouching, err = voucher.NewHosts(c.StringSlice("vouch"), c.String("vouch-file")); err != nil {
		return f, misuse.Errorf("--vouch: %w", err)
	}
	f.identity, err = mtls.New(c.String("tls-cert"), c.String("tls-key"), c.String("tls-ca"))
	return f, err
}
