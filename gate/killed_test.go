package gate_test

const gateVar = "GATE_TEST_GATE"

func gateOfItsOwn() int { return 1 }
