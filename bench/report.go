// Writes results.md: the measurements as tables.

package main

import (
	"bytes"
	"fmt"
)

// benchstatVersion is pinned, as the linters are.
const benchstatVersion = "v0.0.0-20260908200009-22c9c6c9d4da"

// table returns the results as results.md shows them.
func (r results) table() []byte {
	var b bytes.Buffer
	p := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }

	p("# What the hook costs")
	p("")
	p("Written by `make bench`; [README.md](README.md) says what is compared and why. Medians of whole processes, from start to end, in milliseconds; in brackets, how many times as long as the floor. %s. Load average %s before, and %s after, which is mostly the bench itself.",
		r.Machine, r.Load[0], r.Load[1])
	p("")
	p("| tokens in the file | floor | `prestart` | `poststop` | Python, start | Python, end | shell, start | shell, end |")
	p("|---|---|---|---|---|---|---|---|")

	row := func(s stages, name string) {
		line := "| " + name
		for _, program := range compared {
			line += fmt.Sprintf(" | %.1f", s.Took.median(program))
			if program != "floor" {
				line += fmt.Sprintf(" (%.2f)", s.Took.median(program)/s.Took.median("floor"))
			}
		}
		p("%s |", line)
	}

	for _, s := range r.Stages {
		row(s, thousands(s.Tokens))
	}
	row(r.Living, thousands(r.Living.Tokens)+", each with a living process")

	p("")
	p("| %d hooks at once, %s tokens | floor | `prestart` | `poststop` | Python, start | Python, end |", r.Crowd.Hooks, thousands(r.Crowd.Tokens))
	p("|---|---|---|---|---|---|")
	for _, of := range []struct {
		name string
		took series
	}{{"until all are done", r.Crowd.UntilAll}, {"the slowest", r.Crowd.Slowest}} {
		line, floor := "| "+of.name, of.took.median("floor")
		for _, program := range inCrowds {
			line += fmt.Sprintf(" | %.0f", of.took.median(program))
			if program != "floor" {
				line += fmt.Sprintf(" (%.2f)", of.took.median(program)/floor)
			}
		}
		p("%s |", line)
	}

	p("")
	p("| `podman run --rm true` | with both hooks | with two that only read their input | with none | both / two that read | both / none |")
	p("|---|---|---|---|---|---|")
	for _, runtime := range []string{"crun", "runc"} {
		took := r.Podman[runtime]
		both, read, none := took.median("both hooks"), took.median("two that only read"), took.median("none")
		p("| %s | %.0f | %.0f | %.0f | %.3f | %.3f |", runtime, both, read, none, both/read, both/none)
	}

	p("")
	p("`reap --watch` while the token file is written twice a second, with %s tokens: %.1f %% of a core, %.0f MB at its peak.", thousands(r.Watch.Tokens), r.Watch.Core, r.Watch.MB)
	p("")
	p("| with 100,000 tokens | memory at its peak | times the file's size |")
	p("|---|---|---|")
	for _, m := range r.Memory {
		p("| `%s` | %.0f MB | %.2f |", m.Command, m.MB, m.OfFile)
	}

	p("")
	p("Functions, as benchstat has them:")
	p("")
	p("```")
	b.WriteString(r.Functions)
	p("```")

	p("")
	r.Gate.table(p)
	r.Sync.table(p)
	r.Gate.Services.table(p)
	r.Gate.Fleet.table(p)
	return b.Bytes()
}

// table writes the gate's results, beside the goals.
func (r gateResults) table(p func(format string, a ...any)) {
	p("# What the gate costs")
	p("")
	p("All servers have the same repositories, in memory, and take turns. The figures are medians. The floor is git alone: for requests, a git process without a client; for commands, a `file://` URL. %s. Load average %s before, %s after.", r.Machine, r.Load[0], r.Load[1])

	p("")
	p("| requests a second for `info/refs` | floor | gate | nginx, fcgiwrap | Python | gate / floor | gate / nginx | gate / Python | goal |")
	p("|---|---|---|---|---|---|---|---|---|")
	for _, asked := range asked {
		s := r.Requests.PerSecond[asked.name]
		goal := "1.7 times nginx, 2.5 times Python"
		if asked.protocol == 2 {
			goal = "15 times nginx"
		}

		gate := s.median("gate")
		p("| %s | %.0f | %.0f | %.0f | %.0f | %.2f | %.1f | %.1f | %s |", asked.name, s.median("floor"), gate, s.median("nginx"), s.median("python"),
			gate/s.median("floor"), gate/s.median("nginx"), gate/s.median("python"), goal)
	}

	p("")
	p("The gate's own processor time with protocol 0: %.2f of git's with 1 client, %.2f with %d (goal: 0.5 at most). With protocol 2, the gate keeps the advertisement and does not start git.",
		median(r.Requests.OwnTime[1]), median(r.Requests.OwnTime[atOnce]), atOnce)

	p("")
	p("| whole command, ms | `file://` | gate | nginx, fcgiwrap | Python | gate / nginx | git processes: gate, nginx | goal |")
	p("|---|---|---|---|---|---|---|---|")
	for _, name := range []string{lsRemote, shallow} {
		s, processes := r.Commands.Took[name], r.Commands.Processes[name]
		p("| `%s` | %.1f | %.1f | %.1f | %.1f | %.2f | %d, %d | nginx's time, one process less |", name, s.median("floor"), s.median("gate"), s.median("nginx"), s.median("python"),
			s.median("gate")/s.median("nginx"), processes["gate"], processes["nginx"])
	}

	p("")
	p("| %d MiB, MiB/s | `file://` | gate | nginx, fcgiwrap | Python | gate / `file://` | goal |", largeMiB)
	p("|---|---|---|---|---|---|---|")
	for _, of := range []struct {
		name string
		took series
	}{{"clone", r.Transfers.Clone}, {"push", r.Transfers.Push}} {
		python := "refuses bodies in chunks"
		if took := of.took.median("python"); took > 0 {
			python = fmt.Sprintf("%.0f", perSecond(took))
		}
		p("| %s | %.0f | %.0f | %.0f | %s | %.2f | 0.95 |", of.name, perSecond(of.took.median("floor")), perSecond(of.took.median("gate")),
			perSecond(of.took.median("nginx")), python, of.took.median("floor")/of.took.median("gate"))
	}

	p("")
	p("| | measured | goal |")
	p("|---|---|---|")
	c := r.Clones
	p("| %d clones at once | %.1f s, %d failed (nginx %.1f s, %d; Python %.1f s, %d; `file://` %.1f s) | none fails |", c.Number, c.UntilAll.median("gate")/1000, c.Failed["gate"],
		c.UntilAll.median("nginx")/1000, c.Failed["nginx"], c.UntilAll.median("python")/1000, c.Failed["python"], c.UntilAll.median("floor")/1000)
	p("| the gate's memory at its peak | %.0f MB | under 40 MB |", c.GateMB)

	attach := series(r.Attach)
	p("| attach: from entering the container's network to the gate's yes | %.2f ms | 1 ms |", attach.median(alone))
	p("| a whole `prestart` with attach; without | %.1f ms; %.1f ms | |", attach.median(with), attach.median(without))
	cuts := series(r.Cuts)
	p("| from a process's death to the end of its fetch, for the client | %.0f ms; the longest %.0f, of %d | 50 ms, 100 at most |", cuts.median(toClient), largest(cuts[toClient]), len(cuts[toClient]))
	p("| from a process's death until the gate's git for it has ended | %.0f ms; the longest %.0f | 50 ms, 100 at most |", cuts.median(toGit), largest(cuts[toGit]))

	v := r.Revoking
	p("| %s tokens, one revoked every 100 ms: the slowest request of a round | %.0f ms; %.0f when nothing happens (%.1f times); the median request %.1f and %.1f ms | 2 times |", thousands(v.Tokens),
		v.Slowest.median(revoked), v.Slowest.median(quiet), v.Slowest.median(revoked)/v.Slowest.median(quiet), v.Median.median(revoked), v.Median.median(quiet))

	m := r.Several
	p("| a `prestart` with %s; with %s | %.1f ms; %.1f ms (%.2f times) | 1.1 times |", oneProject, manyProjects,
		m.Start.median(oneProject), m.Start.median(manyProjects), m.Start.median(manyProjects)/m.Start.median(oneProject))
	p("| `info/refs` a second by a token that is %s; %s; %s | %.0f; %.0f (%.2f); %.0f (%.2f) | no fewer |", unlimited, limited, forMany, m.PerSecond.median(unlimited),
		m.PerSecond.median(limited), m.PerSecond.median(limited)/m.PerSecond.median(unlimited),
		m.PerSecond.median(forMany), m.PerSecond.median(forMany)/m.PerSecond.median(unlimited))
}

// table writes what a sync with nothing new costs.
func (s synced) table(p func(format string, a ...any)) {
	p("")
	p("| nothing new upstream, %s branches | `git fetch` | `terok-gate sync` | times | git processes; git processes with 10 branches | goal |", thousands(s.Branches))
	p("|---|---|---|---|---|---|")
	fetch, sync := s.Took.median(fetching), s.Took.median(syncing)
	p("| whole command, ms | %.0f | %.0f | %.2f | %d; %d | 1.5 times; no more processes than with 10 |", fetch, sync, sync/fetch, s.Processes[s.Branches], s.Processes[10])
}

// table writes what a service of the host costs.
func (s services) table(p func(format string, a ...any)) {
	p("")
	p("| a service of the host | direct | `terok-gate forward` | times | `systemd-socket-proxyd` | times | goal |")
	p("|---|---|---|---|---|---|---|")
	for _, small := range smallRequests {
		took := s.Small[small.name]
		direct, forward, proxyd := took.median("direct"), took.median("forward"), took.median("proxyd")
		p("| %s, ms | %.3f | %.3f | %.2f | %.3f | %.2f | 1.3 times |", small.name, direct, forward, forward/direct, proxyd, proxyd/direct)
	}
	direct, forward, proxyd := s.Bulk.median("direct"), s.Bulk.median("forward"), s.Bulk.median("proxyd")
	p("| a file of %d MiB, MiB/s | %.0f | %.0f | %.2f | %.0f | %.2f | 0.9 |", bulkMiB, mibPerSecond(direct), mibPerSecond(forward), direct/forward, mibPerSecond(proxyd), direct/proxyd)

	p("")
	p("| | measured | goal |")
	p("|---|---|---|")
	for _, reason := range reasons {
		p("| from a container's %s to the cut of its connection | %.0f ms; the longest %.0f, of %d | 100 ms at most |", reason, s.Cuts.median(reason), largest(s.Cuts[reason]), len(s.Cuts[reason]))
	}
	f := s.Flood
	p("| a request while another container begins %.0f connections a second, and keeps connections that it does not read or use | %.2f ms; %.2f when the other container is quiet (%.1f times) | 2 times |", median(f.PerSecond),
		f.Took.median(flooded), f.Took.median(quiet), f.Took.median(flooded)/f.Took.median(quiet))
	p("| `terok-gate forward`'s memory at its peak | %.0f MB | under 30 MB |", f.ForwardMB)
}

// thousands returns a number with commas.
func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}
