package e2e

import "testing"

// A frozen container is still frozen after a restart. A frozen project's later containers
// are frozen, too. Thawing ends both.
func TestAFrozenContainerIsStillFrozenAfterARestart(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		s := e.served(t)
		terokGate := func(args ...string) {
			t.Helper()
			binary, err := gateBinary()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.run(binary, append([]string{"--token-file", s.tokenFile}, args...)...); err != nil {
				t.Fatal(err)
			}
		}
		isFrozen := func(c *container) {
			t.Helper()
			const frozen = `out=$(git ls-remote http://127.0.0.1:9418/demo.git 2>&1) && exit 1; case $out in *"frozen by the operator"*) ;; *) exit 1;; esac`
			if err := c.inside(frozen); err != nil {
				t.Error(err)
			}
		}

		c := s.create(t, gitter(t, "one")...)
		c.start(t)
		terokGate("freeze", c.id)
		isFrozen(c)
		c.podman(t, "restart", "--time", "0", c.id)
		isFrozen(c)
		terokGate("thaw", c.id)
		s.worksIn(t, c, "thawed")

		terokGate("freeze", "--project", "demo")
		next := s.create(t, gitter(t, "two")...)
		next.start(t)
		isFrozen(next)
		terokGate("thaw", "--project", "demo")
		s.worksIn(t, next, "later")
	})
}
