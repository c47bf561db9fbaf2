package main

import (
	"bytes"
	"fmt"
	"math"
)

// chart draws the time of a start over the tokens in the file, both in powers of ten. It
// follows the reader's colour scheme by itself.
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
	p(`<style>
  .ink { fill: #1f2328 } .faint { fill: #59636e } .grid { stroke: #d1d9e0 }
  .python { stroke: #9a6700; fill: #9a6700 } .hook { stroke: #0969da; fill: #0969da } .floor { stroke: #59636e; fill: #59636e }
  polyline { fill: none !important; stroke-width: 2.5 } .floor polyline { stroke-dasharray: 5 4 } text { stroke: none }
  @media (prefers-color-scheme: dark) {
    .ink { fill: #f0f6fc } .faint { fill: #9198a1 } .grid { stroke: #3d444d }
    .python { stroke: #d29922; fill: #d29922 } .hook { stroke: #4493f8; fill: #4493f8 } .floor { stroke: #9198a1; fill: #9198a1 }
  }
</style>`)
	p(`<text class="ink" x="%d" y="24" font-size="15" font-weight="600">What a container's start takes, by the tokens in the file</text>`, left)
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
	}{{"python", "python prestart", "Python"}, {"floor", "floor", "the floor"}, {"hook", "prestart", "terok-gate-hook"}}
	below := math.Inf(-1) // where the last name stands: two must not lie on one another
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
			if line.class == "hook" {
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
