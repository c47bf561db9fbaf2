// Package e2e holds the tests that run real containers: podman with crun and
// with runc, as root and rootless, with the hook definitions of hooks.d/ and a
// freshly built binary. It contains no code of the program. The gate that they talk
// to is in gate/, where it can be run by hand too.
//
// On a plain machine nothing has to be set up: install podman, crun, runc,
// uidmap and a static busybox, and run
//
//	go test ./e2e
//
// Run by root, the tests live in mount and pid namespaces of their own. There
// they have a throw-away user for the rootless engines and a system log of
// their own at /dev/log, and when the test process ends, in whatever way, the
// kernel ends everything that it started. What stays on the machine is what
// cgroups leave behind, an empty libpod_parent, and an empty /var/lib/cni and /var/log/terok-gate, as
// after other uses of podman and of ours. Where containers get a network, podman runs in a network namespace of
// the test's own (wired).
//
// Some tests boot a machine of their own, with a real systemd, in more namespaces
// (newMachine). It needs nothing but the packages of systemd.
//
// Run by anybody else, only the rootless engines are tested, with the caller's
// own user and storage apart from the caller's, and without the system log.
//
// `make test-engines` runs them with newer podman, crun, runc, git and systemd, in the
// root file systems of newer Debians (scripts/engines).
//
// A test whose engine cannot run here is skipped and says why. With
// TEROK_TEST_ALL=1 in the environment it fails instead.
package e2e
