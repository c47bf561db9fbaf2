// Package faults holds the tests that break things: the hook is killed at every
// system call, every one of its system calls fails in turn, file systems are full,
// two hundred containers come and go at once, and processes die under `reap --watch`.
// It contains no code of the program.
//
// What must hold each time: nothing is lost (the token file is whole, and every
// token that should be valid is), and nothing lingers (a token whose container is
// dead goes with the next sweep, and no debris stays).
//
// The containers are processes in mount namespaces of their own. Run the tests as
// root:
//
//	go test -v ./faults
//
// With -v each test prints its numbers: how many points it tried, what was lost. A point is a
// system call at which the hook is killed, or which fails.
//
// The hook runs under a tracer that is part of the tests (ptrace(2)). strace(1) would not do, since
// its --inject counts the calls of each thread separately: chance decides which thread of a Go
// program makes a call, so a test that tried one count after another would miss some calls. The
// tracer tells points apart by the system call, its object (such as a path), and how often the call
// has been made on that object before. A test ends when every point that any run has passed has
// been tried. The tracer works only on amd64; elsewhere the tests that need it are left out.
//
// The tests live in mount and pid namespaces of their own, with a /dev of their own for the system
// log. No matter how the test process ends, the kernel then ends all processes that it started, and
// nothing is left on the machine.
//
// A test that cannot run here is skipped and says why. With TEROK_TEST_ALL=1 in the
// environment it fails instead.
package faults
