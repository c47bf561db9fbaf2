// The flags of serve and install for gates on several machines.

package main

import (
	"path/filepath"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/mtls"
	"terok-gate-hook/internal/voucher"
)

// fleetFlags returns the flags that serve and install share.
func fleetFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "repository-gate", Usage: "hand requests on to the gate at `URL`, https://HOST:PORT, which has the repositories; {project} in HOST stands for the project"},
		&cli.StringFlag{Name: "tls-listen", Usage: "serve, at `ADDR`, host:port, the gates of other machines that have --repository-gate"},
		&cli.StringFlag{Name: "tls-cert", TakesFile: true, Usage: "read the gate's certificate for other gates, in PEM, from `FILE`; this file and those of the key and the authority are read again when they change"},
		&cli.StringFlag{Name: "tls-key", TakesFile: true, Usage: "read the certificate's key from `FILE`"},
		&cli.StringFlag{Name: "tls-ca", TakesFile: true, Usage: "read from `FILE` the certificate of the authority that signs all gates' certificates"},
		&cli.StringFlag{Name: "vouch-file", TakesFile: true, Usage: "serve the gates of hosts that `FILE` names; each line is HOST=PATTERN, as for serve --vouch; the file is read again when it changes"},
	}
}

// fleet is what a gate needs to know about gates on other machines.
type fleet struct {
	repositoryGate mtls.URL
	identity       *mtls.Identity
	vouching       *voucher.Hosts
}

// fleetOf returns what the command line says about other gates.
func fleetOf(c *cli.Context) (f fleet, err error) {
	given := engines.Fleet{}
	for _, flag := range given.Flags() {
		*flag.Value = c.String(flag.Name)
		if c.IsSet(flag.Name) && *flag.Value == "" {
			return f, misuse.Errorf("--%s: is empty", flag.Name)
		}
	}

	if given.RepositoryGate != "" && c.IsSet("repos") {
		return f, misuse.Errorf("--repository-gate and --repos: the repositories are either at that gate or in that directory")
	}
	if err := checkFleet(given, c.IsSet("vouch"), "--vouch or --vouch-file"); err != nil || given == (engines.Fleet{}) {
		return f, err
	}

	f.repositoryGate, _ = mtls.ParseURL(given.RepositoryGate) // checkFleet has checked it
	if f.vouching, err = voucher.NewHosts(c.StringSlice("vouch"), given.VouchFile); err != nil {
		return f, misuse.Errorf("--vouch or --vouch-file: %w", err)
	}
	f.identity, err = mtls.New(given.Cert, given.Key, given.CA)
	return f, err
}

// changedFleet returns the gate's settings for other gates, as the flags of install change them. An
// empty value resets a setting. Settings that are then of no use are reset, too.
func changedFleet(c *cli.Context, f engines.Fleet) (engines.Fleet, error) {
	was := f
	for _, flag := range f.Flags() {
		if !c.IsSet(flag.Name) {
			continue
		}
		*flag.Value = c.String(flag.Name)
		if flag.Path && *flag.Value != "" {
			var err error
			if *flag.Value, err = filepath.Abs(*flag.Value); err != nil {
				return f, err
			}
		}
	}

	if was.Listen != "" && f.Listen == "" && !c.IsSet("vouch-file") {
		f.VouchFile = ""
	}
	if !was.IsNone() && f.IsNone() {
		for _, flag := range f.Flags() {
			if !c.IsSet(flag.Name) {
				*flag.Value = ""
			}
		}
	}
	return f, checkFleet(f, false, "--vouch-file")
}

// checkFleet returns a usage error if the flags do not make sense together. vouches means that
// --vouch is given. The last parameter names the command's flags that say which hosts are served.
func checkFleet(f engines.Fleet, vouches bool, needs string) error {
	elsewhere, listens := f.RepositoryGate != "", f.Listen != ""
	vouches = vouches || f.VouchFile != ""
	switch {
	case elsewhere && listens:
		return misuse.Errorf("--repository-gate and --tls-listen: a gate either hands requests on or has the repositories")
	case !listens && vouches:
		return misuse.Errorf("%s: needs --tls-listen", needs)
	case listens && !vouches:
		return misuse.Errorf("--tls-listen: needs %s: no host would be served", needs)
	}

	for _, file := range []struct{ flag, path string }{{"tls-cert", f.Cert}, {"tls-key", f.Key}, {"tls-ca", f.CA}} {
		switch needed := elsewhere || listens; {
		case needed && file.path == "":
			return misuse.Errorf("--%s is missing: gates on other machines know this one by its certificate", file.flag)
		case !needed && file.path != "":
			return misuse.Errorf("--%s: needs --tls-listen or --repository-gate", file.flag)
		}
	}

	if elsewhere {
		if _, err := mtls.ParseURL(f.RepositoryGate); err != nil {
			return misuse.Errorf("--repository-gate: %w", err)
		}
	}
	return nil
}
