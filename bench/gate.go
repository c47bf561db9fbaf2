// Measures the gate, part by part.

package main

import (
	"fmt"
	"time"
)

// gateResults are the gate's measurements.
type gateResults struct {
	Machine   string
	Load      [2]string
	Requests  requests
	Commands  commands
	Transfers transfers
	Clones    clones
	Attach    attached
	Cuts      cuts
	Revoking  revoking
	Several   several
	Services  services
	Fleet     fleet
}

// gate measures the parts that are wanted.
func (w *world) gate(r *gateResults, rounds int, wanted func(part string) bool) (err error) {
	r.Machine, r.Load[0] = machine(), load()
	defer func() { r.Load[1] = load() }()

	h, err := w.open()
	if err != nil {
		return err
	}
	defer h.close()

	for _, part := range gateParts {
		if !wanted(part) {
			continue
		}

		start := time.Now()
		var measured fmt.Stringer
		switch part {
		case "requests":
			r.Requests, err = h.requests(rounds/8, 500*time.Millisecond)
			measured = r.Requests
		case "commands":
			r.Commands, err = h.commands(rounds / 2)
			measured = r.Commands
		case "transfers":
			r.Transfers, err = h.transfers(rounds / 8)
			measured = r.Transfers
		case "clones":
			r.Clones, err = h.clones(100, max(1, rounds/16))
			measured = r.Clones
		case "attach":
			r.Attach, err = w.attach(h, rounds)
			measured = r.Attach
		case "cuts":
			r.Cuts, err = h.cuts(rounds)
			measured = r.Cuts
		case "revoking":
			r.Revoking, err = w.revoking(h, 20_000, max(1, rounds/8), 3*time.Second)
			measured = r.Revoking
		case "several":
			r.Several, err = w.several(h, 3*rounds)
			measured = r.Several
		case "services":
			r.Services, err = w.services(h, rounds)
			measured = r.Services
		case "fleet":
			r.Fleet, err = w.fleet(h, rounds)
			measured = r.Fleet
		}

		if err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
		fmt.Printf("-- %s, in %.0f s\n%s\n", part, time.Since(start).Seconds(), measured)
	}
	return nil
}
