package store

import (
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// The directory need not be synced for a token that the next boot proves dead. That proof
// needs the machine's id, and must be about this machine: otherwise a power cut could bring
// back a revoked token that is then valid.
func TestWhichChangesMustOutliveAPowerCut(t *testing.T) {
	ours := ourselves(t)
	if ours.Machine == "" {
		testenv.Cannot(t, "needs a machine id: systemd-machine-id-setup makes one")
	}

	of := func(change func(p *Process)) Entry {
		p := *ours
		change(&p)
		return Entry{Container: "c", Process: &p}
	}

	tied := of(func(*Process) {})
	before := of(func(p *Process) { p.Boot = "b" })
	withoutID := of(func(p *Process) { p.Machine = "" })
	elsewhere := of(func(p *Process) { p.Machine, p.Boot = strings.Repeat("0", 32), "b" })
	noBoot := of(func(p *Process) { p.Boot = "" })

	for _, row := range []struct {
		name string
		add  *Entry
		gone []Entry
		want bool
	}{
		{"a container's token comes and one goes", &tied, []Entry{tied}, false},
		{"a token of an earlier boot goes", nil, []Entry{before}, false},
		{"an operator's token comes", &Entry{}, nil, true},
		{"an operator's token goes, among others", nil, []Entry{tied, {}}, true},
		{"a container's token goes, on a machine without an id", nil, []Entry{tied, withoutID}, true},
		{"a container's token comes, on a machine without an id", &withoutID, nil, true},
		{"a token of another machine's container goes", nil, []Entry{elsewhere}, true},
		{"a token without a boot in its description goes", nil, []Entry{noBoot}, true},
	} {
		if got := (edit{add: row.add}).outlivesBoot(row.gone); got != row.want {
			t.Errorf("%s: %t, not %t", row.name, got, row.want)
		}
	}
}
