//go:build race

package gate_test

import "terok-gate-hook/gate"

// A test binary with the race detector takes long to start, and git starts three hooks or more in a
// push. So the hooks are the ordinary program.
func init() { gate.LinkHooksTo(terokGate) }
