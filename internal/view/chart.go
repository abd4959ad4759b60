// SPDX-License-Identifier: Apache-2.0

package view

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"afterfin/internal/timewait"
)

// Blue and vermilion of Okabe and Ito are told apart by all; what is off is larger too.
const (
	chartInk    = "#222222"
	chartSoft   = "#555555"
	chartGrid   = "#e4e4e4"
	chartFrame  = "#999999"
	chartDot    = "#0072b2"
	chartDotOff = "#d55e00"
)

const (
	chartMargin = 20.0
	chartGap    = 26.0 // between two panels
)

// WriteChart draws how long TIME_WAIT lasted as one SVG, with a panel for each run. The same
// runs give the same bytes.
func WriteChart(w io.Writer, runs []timewait.Run) error {
	if len(runs) == 0 {
		return errors.New("no runs to draw")
	}
	size, columns := sizeOfPanels(len(runs)), chartColumns(len(runs))
	rows := (len(runs) + columns - 1) / columns
	anyOff := slices.ContainsFunc(runs, func(r timewait.Run) bool {
		return slices.ContainsFunc(r.Samples, func(s timewait.Sample) bool { return isOff(&r, s) })
	})
	header := 84.0
	if anyOff {
		header += 24 // the legend
	}
	width := 2*chartMargin + float64(columns)*(size.w+chartGap) - chartGap
	height := header + float64(rows)*(size.h+chartGap) - chartGap + chartMargin

	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f"`,
		width, height, width, height)
	fmt.Fprintf(&b, ` role="img" font-family="sans-serif" fill="%s">`+"\n", chartInk)
	writeChartHeader(&b, anyOff)
	for i := range runs {
		x := chartMargin + float64(i%columns)*(size.w+chartGap)
		y := header + float64(i/columns)*(size.h+chartGap)
		p := newPanel(&runs[i], size, x, y)
		p.up.lo, p.up.hi = lengthsShown(runs, runs[i].Nominal)
		p.write(&b)
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// chartColumns: four are a square, not three and one.
func chartColumns(runs int) int {
	if runs == 4 {
		return 2
	}
	return min(runs, 3)
}

func writeChartHeader(b *strings.Builder, anyOff bool) {
	const title = "How long TIME_WAIT lasts"
	fmt.Fprintf(b, "<title>%s</title>\n", title)
	b.WriteString(`<rect width="100%" height="100%" fill="#ffffff"/>` + "\n") // dark pages show through
	svgText(b, chartMargin, 37, ` font-size="22" font-weight="bold"`, title)
	svgText(b, chartMargin, 60, ` font-size="14"`, "Each dot is one connection; the line is what the timer wheel predicts.")
	if !anyOff {
		return
	}
	const y = 84
	fmt.Fprintf(b, `<circle class="key" cx="%.1f" cy="%.1f" r="4" fill="%s"/>`+"\n", chartMargin+5, y-4.5, chartDot)
	svgText(b, chartMargin+15, y, ` font-size="13"`, "as predicted")
	fmt.Fprintf(b, `<circle class="key" cx="%.1f" cy="%.1f" r="5.5" fill="%s"/>`+"\n", chartMargin+120, y-4.5, chartDotOff)
	svgText(b, chartMargin+131, y, ` font-size="13"`, "off by more than a jiffy and 1 ms (a jiffy: 1 s / HZ)")
}

// isOff says whether s is further from its prediction than can be: by a jiffy, as the timer is
// set anywhere in one, and by a millisecond until an interrupt is served.
func isOff(r *timewait.Run, s timewait.Sample) bool {
	return r.HZ > 0 && s.Late().Abs() > time.Second/time.Duration(r.HZ)+time.Millisecond
}

// panelSize is how large a panel is, and what depends on it. All are pixels if not said
// otherwise.
type panelSize struct {
	w, h           float64
	heading, small float64 // letters
	chars          int     // how many letters of the heading fit into w in a wide font
	left           float64 // of the plot: tick labels, and the title of the axis
	dot            float64
	xTicks, yTicks int // at most so many steps
	xTitle         []string
}

// sizeOfPanels: one run has room, several must still fit on a page.
func sizeOfPanels(runs int) panelSize {
	if runs == 1 {
		return panelSize{w: 860, h: 480, heading: 16, small: 13, chars: 78, left: 76, dot: 4, xTicks: 12, yTicks: 10,
			xTitle: []string{"where in its bucket of the timer wheel the timer is due, s"}}
	}
	return panelSize{w: 370, h: 320, heading: 13, small: 11, chars: 40, left: 66, dot: 3, xTicks: 7, yTicks: 8,
		xTitle: []string{"where in its bucket of the timer wheel", "the timer is due, s"}}
}

// panel is the picture of one run.
type panel struct {
	run        *timewait.Run
	size       panelSize
	x, y       float64 // of its corner
	left, top  float64 // of its plot, and so on
	right, low float64
	across, up axis // phase, length
}

func newPanel(r *timewait.Run, size panelSize, x, y float64) *panel {
	line := size.small + 4
	p := &panel{run: r, size: size, x: x, y: y,
		left: x + size.left, right: x + size.w - 4,
		top: y + size.heading + 2*line + 8, low: y + size.h - line*float64(1+len(size.xTitle)) - 8}
	p.across = axis{from: p.left + 8, to: p.right - 8}
	p.across.lo, p.across.hi = phasesShown(r)
	p.up = axis{from: p.low - size.small - 9, to: p.top + 8} // below the least: the label of the nominal
	return p
}

func (p *panel) write(b *strings.Builder) {
	fmt.Fprintf(b, `<g font-size="%.0f">`+"\n", p.size.small)
	p.writeHeading(b)
	p.writeX(b)
	p.writeY(b)
	p.writeExpected(b)
	p.writeDots(b)
	b.WriteString("</g>\n")
}

func (p *panel) writeHeading(b *strings.Builder) {
	r, line := p.run, p.size.small+4
	y := p.y + p.size.heading - 3
	svgText(b, p.x, y, fmt.Sprintf(` font-size="%.0f" font-weight="bold"`, p.size.heading), kernelText(r, p.size.chars))
	svgText(b, p.x, y+line+1, "", runText(r))
	if lengths := r.Lengths(); len(lengths) > 0 {
		n := len(lengths)
		svgText(b, p.x, y+2*line+1, fmt.Sprintf(` fill="%s"`, chartSoft), fmt.Sprintf("min %s s, median %s s, max %s s",
			seconds(lengths[0], 3), seconds(timewait.Median(lengths), 3), seconds(lengths[n-1], 3)))
	}
}

// kernelText leaves the arch whole: releases are long, and their end says least.
func kernelText(r *timewait.Run, most int) string {
	arch := shorten(r.Arch, 16)
	return shorten(r.Kernel, most-utf8.RuneCountInString(arch)-2) + ", " + arch
}

func runText(r *timewait.Run) string {
	text := fmt.Sprintf("HZ %d, %s", r.HZ, plural(len(r.Samples), "connection"))
	if len(r.Samples) > 0 {
		text += ", worst error " + string(appendDuration(nil, r.Worst().Abs(), 2))
	}
	return text
}

func (p *panel) writeX(b *strings.Builder) {
	at, decimals := p.across.ticks(p.size.xTicks)
	y := p.low + p.size.small + 4
	fmt.Fprintf(b, `<g text-anchor="middle">`+"\n")
	for _, t := range at {
		x := p.across.at(t)
		svgLine(b, x, p.top, x, p.low, fmt.Sprintf(`stroke="%s"`, chartGrid))
		svgText(b, x, y, "", seconds(t, decimals))
	}
	y += 2
	for _, title := range p.size.xTitle {
		y += p.size.small + 4
		svgText(b, (p.left+p.right)/2, y, "", title)
	}
	b.WriteString("</g>\n")
}

func (p *panel) writeY(b *strings.Builder) {
	at, decimals := p.up.ticks(p.size.yTicks)
	b.WriteString(`<g text-anchor="end">` + "\n")
	for _, t := range at {
		y := p.up.at(t)
		svgLine(b, p.left, y, p.right, y, fmt.Sprintf(`stroke="%s"`, chartGrid))
		svgText(b, p.left-6, y+p.size.small*0.36, "", seconds(t, decimals))
	}
	b.WriteString("</g>\n")
	x, y := p.x+p.size.small, (p.top+p.low)/2
	svgText(b, x, y, fmt.Sprintf(` text-anchor="middle" transform="rotate(-90 %.1f %.1f)"`, x, y), "TIME_WAIT, s")
	fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="none" stroke="%s"/>`+"\n",
		p.left, p.top, p.right-p.left, p.low-p.top, chartFrame)
}

// writeExpected draws what is known before anything is measured.
func (p *panel) writeExpected(b *strings.Builder) {
	r := p.run
	y := p.up.at(r.Nominal)
	svgLine(b, p.left, y, p.right, y, fmt.Sprintf(`class="nominal" stroke="%s" stroke-dasharray="6 4"`, chartSoft))
	svgText(b, p.across.from, y+p.size.small+3, fmt.Sprintf(` fill="%s"`, chartSoft),
		fmt.Sprintf("nominal %g s", r.Nominal.Seconds()))
	if r.Bucket > 0 {
		svgLine(b, p.across.at(0), p.up.at(r.PredictedMax()), p.across.at(r.Bucket), p.up.at(r.PredictedMin()),
			fmt.Sprintf(`class="predicted" stroke="%s" stroke-width="1.5"`, chartInk))
	}
}

// writeDots draws those that are off last: no other hides them.
func (p *panel) writeDots(b *strings.Builder) {
	if len(p.run.Samples) == 0 {
		svgText(b, (p.left+p.right)/2, p.top+(p.low-p.top)/4, ` text-anchor="middle"`, "no samples")
		return
	}
	p.writeDotsThat(b, false, fmt.Sprintf(`class="dots" fill="%s" fill-opacity="0.6"`, chartDot), p.size.dot)
	p.writeDotsThat(b, true, fmt.Sprintf(`class="off" fill="%s" fill-opacity="0.85"`, chartDotOff), p.size.dot+1)
}

func (p *panel) writeDotsThat(b *strings.Builder, areOff bool, attributes string, radius float64) {
	fmt.Fprintf(b, "<g %s>\n", attributes)
	for _, s := range p.run.Samples {
		if isOff(p.run, s) == areOff {
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="%g"/>`+"\n", p.across.at(s.Phase), p.up.at(s.Measured), radius)
		}
	}
	b.WriteString("</g>\n")
}

// lengthsShown is what the y axis spans: the same for all kernels that set their timer to the
// same, so that panels can be compared by eye. What is measured is in it, however far off.
func lengthsShown(runs []timewait.Run, nominal time.Duration) (lo, hi time.Duration) {
	lo, hi = nominal, nominal
	for i := range runs {
		if r := &runs[i]; r.Nominal == nominal {
			hi = max(hi, r.PredictedMax())
			for _, s := range r.Samples {
				lo, hi = min(lo, s.Measured), max(hi, s.Measured)
			}
		}
	}
	return widened(lo, hi)
}

// phasesShown is what the x axis spans.
func phasesShown(r *timewait.Run) (lo, hi time.Duration) {
	hi = r.Bucket
	for _, s := range r.Samples {
		lo, hi = min(lo, s.Phase), max(hi, s.Phase)
	}
	return widened(lo, hi)
}

// widened: nothing can be drawn to a scale that spans nothing, and on one that spans less than
// this the ticks have more digits than there is room for.
func widened(lo, hi time.Duration) (_, _ time.Duration) { return lo, max(hi, lo+20*time.Millisecond) }

// axis maps durations to pixels.
type axis struct {
	lo, hi   time.Duration
	from, to float64 // where lo and hi are drawn
}

func (a *axis) at(d time.Duration) float64 {
	return a.from + (a.to-a.from)*float64(d-a.lo)/float64(a.hi-a.lo)
}

// ticks are round values on the axis, and how many decimals of a second tell them apart.
func (a *axis) ticks(most int) (at []time.Duration, decimals int) {
	step := roundStep(a.hi-a.lo, most)
	for t := a.lo / step * step; t <= a.hi; t += step {
		if t >= a.lo {
			at = append(at, t)
		}
	}
	for unit := time.Second; unit > 1 && step%unit != 0; unit /= 10 {
		decimals++
	}
	return at, decimals
}

// roundStep is the smallest of 1, 2, 5, 10, 20, 50 … that fits into span at most so often.
func roundStep(span time.Duration, most int) time.Duration {
	for unit := time.Duration(1); ; unit *= 10 {
		for _, step := range []time.Duration{unit, 2 * unit, 5 * unit} {
			if span/step <= time.Duration(most) {
				return step
			}
		}
	}
}

func seconds(d time.Duration, decimals int) string {
	return strconv.FormatFloat(d.Seconds(), 'f', decimals, 64)
}

// svgText writes text that may have come from anywhere.
func svgText(b *strings.Builder, x, y float64, attributes, text string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f"%s>`, x, y, attributes)
	_ = xml.EscapeText(b, []byte(printable(text))) // a Builder takes all
	b.WriteString("</text>\n")
}

func svgLine(b *strings.Builder, x1, y1, x2, y2 float64, attributes string) {
	fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %s/>`+"\n", x1, y1, x2, y2, attributes)
}
