package main

import (
	"bytes"
	"fmt"
)

// benchstatVersion is pinned, as the linters are.
const benchstatVersion = "v0.0.0-20260908200009-22c9c6c9d4da"

// table is the results as results.md shows them.
func (r results) table() []byte {
	var b bytes.Buffer
	p := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	p("# What the hook costs")
	p("")
	p("Written by `make bench`; [README.md](README.md) says what is compared and why. Medians of whole processes, from start to end, in milliseconds; in brackets, how many times as long as the floor. %s. Load average %s before, %s after, much of which is our own.",
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
	p("`reap --watch` beside two writers a second, with %s tokens: %.1f %% of a core, %.0f MB at its peak.", thousands(r.Watch.Tokens), r.Watch.Core, r.Watch.MB)
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
	return b.Bytes()
}

// thousands writes a number with commas.
func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}
