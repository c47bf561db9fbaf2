// Draws the charts: measurements as SVG, in colours that follow the reader's colour scheme.

package main

import (
	"bytes"
	"fmt"
	"math"
)

// chartStyle makes the charts follow the reader's colour scheme.
const chartStyle = `<style>
  .ink { fill: #1f2328 } .faint { fill: #59636e } .grid { stroke: #d1d9e0 }
  .python { stroke: #9a6700; fill: #9a6700 } .nginx { stroke: #1a7f37; fill: #1a7f37 }
  .ours { stroke: #0969da; fill: #0969da } .floor { stroke: #59636e; fill: #59636e }
  polyline { fill: none !important; stroke-width: 2.5 } .floor polyline { stroke-dasharray: 5 4 } text { stroke: none }
  @media (prefers-color-scheme: dark) {
    .ink { fill: #f0f6fc } .faint { fill: #9198a1 } .grid { stroke: #3d444d }
    .python { stroke: #d29922; fill: #d29922 } .nginx { stroke: #3fb950; fill: #3fb950 }
    .ours { stroke: #4493f8; fill: #4493f8 } .floor { stroke: #9198a1; fill: #9198a1 }
  }
</style>`

// chart draws how long a container's start takes, by the number of tokens in the file. Both axes
// are logarithmic.
func (r results) chart() []byte {
	const (
		width, height            = 720, 400
		left, right, top, bottom = 70, 590, 50, 345
		fewest, most             = 10.0, 100_000.0 // tokens
		shortest, longest        = 1.0, 10_000.0   // ms
	)

	x := func(tokens float64) float64 {
		return left + (right-left)*math.Log10(tokens/fewest)/math.Log10(most/fewest)
	}
	y := func(ms float64) float64 {
		return bottom - (bottom-top)*math.Log10(ms/shortest)/math.Log10(longest/shortest)
	}

	var b bytes.Buffer
	p := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	p(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="13" role="img">`, width, height)
	p(`<title>Time of a start over the tokens in the file: the hook stays near the floor, Python does not</title>`)
	p("%s", chartStyle)
	p(`<text class="ink" x="%d" y="24" font-size="15" font-weight="600">How long a container's start takes, by the number of tokens in the file</text>`, left)

	for ms := shortest; ms <= longest; ms *= 10 {
		label := fmt.Sprintf("%g ms", ms)
		if ms >= 1000 {
			label = fmt.Sprintf("%g s", ms/1000)
		}
		p(`<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`, left, right, y(ms), y(ms))
		p(`<text class="faint" x="%d" y="%.1f" text-anchor="end">%s</text>`, left-10, y(ms)+4, label)
	}

	for tokens := fewest; tokens <= most; tokens *= 10 {
		p(`<text class="faint" x="%.1f" y="%d" text-anchor="middle">%s</text>`, x(tokens), bottom+22, thousands(int(tokens)))
	}
	p(`<text class="faint" x="%d" y="%d" text-anchor="middle">tokens</text>`, (left+right)/2, bottom+44)

	lines := []struct {
		class, program, name string
	}{{"python", "python prestart", "Python"}, {"floor", "floor", "the floor"}, {"ours", "prestart", "terok-gate-hook"}}
	below := math.Inf(-1) // where the last name was drawn, since names must not overlap
	for _, line := range lines {
		p(`<g class="%s">`, line.class)
		points := ""
		for _, s := range r.Stages {
			points += fmt.Sprintf("%.1f,%.1f ", x(float64(s.Tokens)), y(s.Took.median(line.program)))
		}
		p(`<polyline points="%s"/>`, points)
		for _, s := range r.Stages {
			p(`<circle cx="%.1f" cy="%.1f" r="3.5"/>`, x(float64(s.Tokens)), y(s.Took.median(line.program)))
		}

		if last := len(r.Stages) - 1; last >= 0 {
			at := math.Max(y(r.Stages[last].Took.median(line.program))+4, below+17)
			if line.class == "ours" {
				at = math.Max(at, y(r.Stages[last].Took.median("floor"))+21)
			}
			p(`<text x="%d" y="%.1f" font-weight="600">%s</text>`, right+12, at, line.name)
			below = at
		}
		p(`</g>`)
	}

	p(`</svg>`)
	return b.Bytes()
}

// chart draws how many requests a second each server answers, on a logarithmic axis.
func (r gateResults) chart() []byte {
	const (
		width, height            = 720, 340
		left, right, top, bottom = 170, 690, 80, 290
		fewest, most             = 30.0, 30_000.0 // a second
	)

	x := func(perSecond float64) float64 {
		return left + (right-left)*math.Log10(perSecond/fewest)/math.Log10(most/fewest)
	}

	var b bytes.Buffer
	p := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	p(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="13" role="img">`, width, height)
	p(`<title>Requests a second: with protocol 2 the gate answers without git, with protocol 0 it stays near git itself</title>`)
	p("%s", chartStyle)
	p(`<text class="ink" x="20" y="24" font-size="15" font-weight="600">Answered requests for a repository's refs, per second</text>`)

	names := map[string]struct {
		class, name string
		at          int
	}{"gate": {"ours", "terok-gate", 170}, "floor": {"floor", "git alone", 275}, "nginx": {"nginx", "nginx and fcgiwrap", 370}, "python": {"python", "Python", 525}}
	for _, server := range servers {
		p(`<g class="%s"><circle cx="%d" cy="46" r="5"/><text x="%d" y="51">%s</text></g>`, names[server].class, names[server].at, names[server].at+10, names[server].name)
	}

	for perSecond := 100.0; perSecond <= most; perSecond *= 10 {
		p(`<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`, x(perSecond), x(perSecond), top-10, bottom)
		p(`<text class="faint" x="%.1f" y="%d" text-anchor="middle">%s</text>`, x(perSecond), bottom+22, thousands(int(perSecond)))
	}

	for i, what := range asked {
		y := top + 20 + i*(bottom-top)/len(asked)
		p(`<text class="ink" x="20" y="%d">%s</text><line class="grid" x1="%d" x2="%d" y1="%d" y2="%d"/>`, y+5, what.name, left, right, y, y)
		for _, server := range servers {
			perSecond := r.Requests.PerSecond[what.name].median(server)
			if perSecond == 0 {
				continue
			}

			number := y + 20
			if server == "gate" { // its circle can be near another one, so its number is above
				number = y - 10
			}
			p(`<g class="%s"><circle cx="%.1f" cy="%d" r="5"/><text x="%.1f" y="%d" text-anchor="middle" font-size="11">%.0f</text></g>`,
				names[server].class, x(perSecond), y, x(perSecond), number, perSecond)
		}
	}

	p(`</svg>`)
	return b.Bytes()
}
