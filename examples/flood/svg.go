package main

import (
	"errors"
	"fmt"
	"html"
	"io"
	"strings"
)

// pictureStyle is for light and dark pages. The picture has a background of its
// own, so that it can be read where the page and the browser disagree.
const pictureStyle = `
svg { --paper: #fff; --ink: #1b1f24; --soft: #57606a; --rule: #d8dde3; --band: #f3f5f8; --ours: #0b63b5; --bare: #c4490b; --offered: #8a939d;
  font: 13px system-ui, -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #12161b; --ink: #e8ecf0; --soft: #a0abb6; --rule: #333b45; --band: #1a2028; --ours: #5aaef5; --bare: #f28b4b; --offered: #8d98a4; }
}
.paper { fill: var(--paper); stroke: var(--rule); } .band { fill: var(--band); } .grid { stroke: var(--rule); fill: none; }
text { fill: var(--soft); font-size: 12px; } .head { fill: var(--ink); font-size: 17px; font-weight: 600; } .word { fill: var(--ink); font-size: 13px; }
.offered { --c: var(--offered); } .bare, .target { --c: var(--bare); } .spillway { --c: var(--ours); } .capacity { --c: var(--soft); }
.line { fill: none; stroke: var(--c); stroke-width: 2.5; stroke-linejoin: round; } .line.offered { stroke-width: 1.2; }
.line.capacity { stroke-width: 1; stroke-dasharray: 5 4; } .mark { stroke: var(--soft); stroke-dasharray: 1 3; fill: none; } .hint { fill: none; }
`

// writeSVG writes the first figure of the page as a picture that stands alone,
// for a README: with its key, what it is, and the command that makes it.
func (rep *report) writeSVG(w io.Writer) error {
	if len(rep.Sides) == 0 || len(rep.Sides[0].Bins) == 0 {
		return errors.New("flood: too little was measured to draw a picture of it")
	}
	const height, above, below = 400.0, 58.0, 26.0
	f, drawn := rep.goodput()
	p := drawn(picture, height-above-below)

	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0[1]f %.0[2]f" role="img">`, picture, height)
	fmt.Fprintf(&b, "\n<title>%s</title>\n<desc>%s</desc>\n<style>%s</style>\n", html.EscapeString(f.Title), html.EscapeString(strings.Join(rep.Verdict, " ")), pictureStyle)
	fmt.Fprintf(&b, `<rect class="paper" x="0.5" y="0.5" width="%.0f" height="%.0f" rx="6"/>`, picture-1, height-1)
	text := func(x, y float64, class, anchor, s string) {
		fmt.Fprintf(&b, `<text class="%s" x="%.0f" y="%.0f" text-anchor="%s">%s</text>`, class, x, y, anchor, html.EscapeString(s))
	}
	head := "The same shop twice, in the same flood"
	if rep.Target != "" {
		head = "A flood for " + cut(rep.Target, 50)
	}
	text(20, 29, "head", "start", head)
	text(20, 49, "word", "start", fmt.Sprintf("answered well within %s ms, per second", trim(rep.DeadlineMS)))
	x := picture - 20
	for i := len(f.Key) - 1; i >= 0; i-- { // from the right
		k := f.Key[i]
		text(x, 49, "word", "end", k.Text)
		x -= 7.2*float64(len(k.Text)) + 30
		fmt.Fprintf(&b, `<path class="line %s" d="M%.0f 44.5h22"/>`, k.Class, x)
		x -= 18
	}
	made := "go run -C examples/flood . -svg flood.svg"
	text(20, height-12, "foot", "start", made)
	text(picture-20, height-12, "foot", "end", fmt.Sprintf("measured %s, %s, seed %d", rep.Started.Format("2 January 2006"), rep.Machine, rep.Seed))
	fmt.Fprintf(&b, "\n%s\n</svg>\n", p.within(above))
	_, err := io.WriteString(w, b.String())
	return err
}

// within returns the plot as a part of another picture, from y down.
func (p *plot) within(y float64) string {
	return strings.Replace(p.svg(), "<svg ", fmt.Sprintf(`<svg y="%.0f" width="%.0f" height="%.0f" `, y, p.w, p.h), 1)
}
