package engines

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// A gate that works with other machines has a network, and can write only to directories that it
// needs.
func TestTheUnitOfAGateOfSeveralMachinesHasANetwork(t *testing.T) {
	dir := t.TempDir()
	r := Registration{
		Binary: filepath.Join(dir, binary), Gate: true, Repos: "/srv/repos",
		Settings: hook.Settings{Tokens: store.File{Path: "/var/lib/terok/gate/tokens.json"}, GateSocket: "/run/terok-gate/control"},
	}
	for _, program := range []string{r.Binary, r.GateBinary()} {
		testenv.Must(t, os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755))
	}

	const network, addresses = "\nPrivateNetwork=no\n", "\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n"
	for _, row := range []struct {
		fleet  Fleet
		want   []string
		system []string // only in the system's unit
	}{
		{Fleet{}, []string{"\nRestrictAddressFamilies=AF_UNIX\n"}, []string{"\nPrivateNetwork=yes\n", "\nReadWritePaths=\"/var/lib\" \"/srv\"\n", "\nProtectHome=no\n"}},
		{Fleet{RepositoryGate: "https://{project}.example:9419", Cert: "/etc/a/c 100%.pem", Key: "/etc/a/k", CA: "/etc/a/ca"}, []string{
			`"serve" "--repository-gate" "https://{project}.example:9419" "--tls-cert" "/etc/a/c 100%%.pem" "--tls-key" "/etc/a/k" "--tls-ca" "/etc/a/ca" "--control" "/run/terok-gate/control"` + "\n",
			addresses,
		}, []string{network, "\nReadWritePaths=\"/var/lib\"\n", "\nProtectHome=yes\n", "\nPrivateTmp=yes\n"}},
		{Fleet{Listen: ":9419", VouchFile: "/tmp/vouch", Cert: "/root/c", Key: "/etc/a/k", CA: "/etc/a/ca"}, []string{
			`"serve" "--repos" "/srv/repos" "--tls-listen" ":9419" "--vouch-file" "/tmp/vouch" "--tls-cert" "/root/c" "--tls-key" "/etc/a/k" "--tls-ca" "/etc/a/ca" "--control" `,
			addresses,
		}, []string{network, "\nReadWritePaths=\"/var/lib\" \"/srv\"\n", "\nProtectHome=no\n", "\nPrivateTmp=no\n"}},
	} {
		r.Fleet = row.fleet
		for _, place := range []Place{{Units: t.TempDir()}, {Units: t.TempDir(), User: true}} {
			content, err := r.unit(GateUnitName, place)
			testenv.Must(t, err)
			unit := string(content)
			want := row.want
			if !place.User {
				want = slices.Concat(want, row.system)
			}
			for _, part := range want {
				if !strings.Contains(unit, part) {
					t.Errorf("the unit has no %q:\n%s", part, unit)
				}
			}
			verifyUnit(t, place, GateUnitName, unit)

			var back Fleet
			for _, flag := range back.Flags() {
				*flag.Value = valueInUnit(unit, flag.Name)
			}
			if back != row.fleet {
				t.Errorf("of %+v, %+v is read back", row.fleet, back)
			}
		}
	}
}

// Once the command that the error names has run, the gate can use the file.
func TestTheGatesCertificateAndKeyMustBeItsOwn(t *testing.T) {
	testenv.NeedRoot(t)
	for _, row := range []struct {
		name, make string // of the file "tls/key", in a directory of root's
		want       string // empty: it can be used
	}{
		{"the gate's", "touch tls/key; chmod 600 tls/key; chown 1234:1234 tls/key", ""},
		{"root's, for the gate's group", "touch tls/key; chmod 640 tls/key; chgrp 1234 tls/key", ""},
		{"by a link", "touch key; chmod 600 key; chown 1234 key; ln -s ../key tls/key", ""},
		{"root's", "touch tls/key; chmod 600 tls/key", "the gate, which runs as user gates, cannot read it: chown -h gates: DIR/tls/key"},
		{"for another group", "touch tls/key; chmod 640 tls/key; chown 1234:4321 tls/key", "others than the gate can read the key: chmod go-rwx DIR/tls/key"},
		{"for all", "touch tls/key; chmod 644 tls/key; chown 1234:1234 tls/key", "others than the gate can read the key: chmod go-rwx DIR/tls/key"},
		{"another user's", "touch tls/key; chmod 600 tls/key; chown 4321 tls/key", "another user can replace it, by way of DIR/tls/key"},
		{"in another user's directory", "touch tls/key; chmod 600 tls/key; chown 1234 tls/key; chown 4321 tls", "another user can replace it, by way of DIR/tls"},
		{"where all can write", "touch tls/key; chmod 600 tls/key; chown 1234 tls/key; chmod 777 tls", "another user can replace it, by way of DIR/tls"},
		{"in a closed directory", "touch tls/key; chmod 600 tls/key; chown 1234 tls/key; chmod 700 tls", "directory DIR/tls is closed to the gate, which runs as user gates: have the file in another directory, such as /etc/terok-gate"},
		{"none", "", "no such file or directory"},
		{"a fifo", "mkfifo tls/key", "DIR/tls/key is not a regular file"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := openDir(t)
			sh(t, dir, "mkdir tls; "+row.make)
			key := filepath.Join(dir, "tls/key")
			err := gates.checkReads(key, true)
			want := strings.ReplaceAll(row.want, "DIR", dir)
			if got := fmt.Sprint(err); row.want == "" && err != nil || !strings.HasSuffix(got, want) && row.want != "" {
				t.Errorf("%s, want %s", got, want)
			}
			if _, command, is := strings.Cut(want, ": ch"); is {
				sh(t, dir, strings.ReplaceAll("ch"+command, "gates:", "1234:1234"))
				if err := gates.checkReads(key, true); err != nil {
					t.Errorf("after ch%s: %v", command, err)
				}
			}
		})
	}
}

// This host does not know which repositories there are. So the projects that --allow-project names,
// other than by a pattern, are devices.
func TestWithoutRepositoriesTheAdmittedProjectsAreDevices(t *testing.T) {
	place, r := deviceWorld(t, "left-over")
	r.Fleet.RepositoryGate = "https://repos:9419"
	r.Settings.AllowProjects = []string{"demo", "web-*", "a?", "[b]", "lib"}
	projects, err := r.projects()
	if want := []string{"demo", "lib"}; err != nil || !slices.Equal(projects, want) {
		t.Errorf("devices of %q, %v; want %q", projects, err, want)
	}

	files, err := r.files(place, nil)
	testenv.Must(t, err)
	for _, f := range files {
		testenv.Must(t, f.Write())
	}
	file, _, err := r.devices(place, projects)
	testenv.Must(t, err)
	testenv.Must(t, file.Write())
	if _, err := inject(t, place, "lib"); err != nil {
		t.Error(err)
	}
	if devices, _, err := place.ReadDevices(); err != nil || len(devices) != 3 {
		t.Errorf("devices %v, %v", devices, err)
	}
	if missing, err := place.NoDevices(map[string]hook.Settings{"demo": {}}); err != nil || !slices.Equal(missing, []string{"lib"}) {
		t.Errorf("without a device: %q, %v", missing, err)
	}
}
