// Package e2e holds the tests that run real containers: podman with crun and with runc, as root and
// rootless, with freshly built binaries and the hook definitions that terok-gate install writes. It
// contains no code of the program. The gate in these tests is terok-gate serve.
//
// On a plain machine, install podman, crun, runc, uidmap and a static busybox, and run
//
//	go test ./e2e
//
// Run by root, the tests live in mount and pid namespaces of their own. There they have a
// throw-away user for the rootless engines, and a system log at /dev/log. No matter how the test
// process ends, the kernel ends all processes that it started. What remains on the machine is an
// empty cgroup libpod_parent, and the empty directories /etc/cdi, /var/lib/cni and
// /var/log/terok-gate. If a test gives its containers a network, podman runs in a network namespace
// of the test's own (wired).
//
// Some tests boot a machine with a real systemd, in more namespaces (newMachine). That needs only
// the packages of systemd.
//
// Run by another user, the tests cover only the rootless engines, as that user, with
// a storage of their own and without the system log.
//
// `make test-engines` runs the tests with newer podman, crun, runc, git and systemd, in the root
// file systems of newer Debians (scripts/engines).
//
// A test whose engine cannot run here is skipped and says why. With
// TEROK_TEST_ALL=1 in the environment it fails instead.
package e2e
