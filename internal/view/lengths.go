// SPDX-License-Identifier: Apache-2.0

package view

import (
	"fmt"
	"strings"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/timewait"
)

// histogramWidth is how many columns the picture of a distribution has at most.
const histogramWidth = 48

// lengthsOf says how long those lasted that ended, and whether that is known or a bound.
func lengthsOf(c *event.Counts, exact, bound event.Measure) (h *event.Histogram, quality string) {
	e, b := &c.Histograms[exact], &c.Histograms[bound]
	switch {
	case e.Count == 0 && b.Count == 0:
		return e, ""
	case b.Count == 0:
		return e, "exact"
	case e.Count == 0:
		return b, "bound"
	}
	return timewait.Merge(e, b), "mixed"
}

func writeLengths(b *strings.Builder, s *TimeWaitSample) {
	for _, l := range []struct {
		name, what   string
		exact, bound event.Measure
	}{
		{"length", "by their timer", event.ExpiredExact, event.ExpiredBound},
		{"cut", "by something else", event.CutExact, event.CutBound},
	} {
		h, quality := lengthsOf(s.Counts, l.exact, l.bound)
		if h.Count == 0 {
			continue
		}
		fmt.Fprintf(b, "%-7s min %s   p50 %s   p99 %s   max %s   of %s that ended %s%s\n", l.name,
			micros(h.Least), micros(timewait.Quantile(h, 0.5)), micros(timewait.Quantile(h, 0.99)), micros(h.Most),
			Thousands(h.Count), l.what, boundText(s.Counts, l.bound, quality))
		if l.exact == event.ExpiredExact {
			fmt.Fprintf(b, "        %s %s %s\n", micros(h.Least), bars(h), micros(h.Most))
		}
	}
}

func boundText(c *event.Counts, bound event.Measure, quality string) string {
	switch quality {
	case "bound":
		return " (they began before afterfin: at least so long, by their timers)"
	case "mixed":
		return fmt.Sprintf(" (%s began before afterfin: at least so long)", Thousands(c.Histograms[bound].Count))
	}
	return ""
}

func micros(n uint64) string { return Duration(time.Duration(n) * time.Microsecond) }

// bars draws the distribution on one line.
func bars(h *event.Histogram) string {
	bins := timewait.Bins(h, histogramWidth)
	var most uint64
	for _, bin := range bins {
		most = max(most, bin.Count)
	}
	levels := []rune(" ▁▂▃▄▅▆▇█")
	var out []rune
	for _, bin := range bins {
		level := 0
		if bin.Count > 0 { // one is not none
			level = max(1, int(bin.Count*uint64(len(levels)-1)/most))
		}
		out = append(out, levels[level])
	}
	return string(out)
}

// writeLives says why there are so many: connections that are closed as soon as they are used.
func writeLives(b *strings.Builder, c *event.Counts) {
	lives, exchanges := &c.Histograms[event.Lives], &c.Histograms[event.Exchanges]
	if exchanges.Count == 0 {
		return
	}
	parts := []string{plural(int(exchanges.Count), "connection") + " closed from this side first"}
	if lives.Count > 0 {
		parts = append(parts, "median life "+micros(timewait.Quantile(lives, 0.5)))
	}
	switch n := timewait.Quantile(exchanges, 0.5); n {
	case 0:
		parts = append(parts, "half of them without any exchange")
	case 1:
		parts = append(parts, "one exchange each: no connection reuse")
	default:
		parts = append(parts, fmt.Sprintf("at most %s exchanges each in the middle", Thousands(n)))
	}
	fmt.Fprintf(b, "why     %s\n", strings.Join(parts, ", "))
}
