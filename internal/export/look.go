// SPDX-License-Identifier: Apache-2.0

package export

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"afterfin/internal/leak"
	"afterfin/internal/ports"
	"afterfin/internal/timewait"
)

func (o sink) timeWait(now *timewait.Now) {
	live, halfway := now.Live()
	o.gauge(twSockets, float64(live))
	o.gauge(twOrphans, float64(halfway))
	fill, known := 0.0, false
	for i := range now.Spaces {
		if s := &now.Spaces[i]; s.Max > 0 {
			fill, known = max(fill, float64(s.Live+s.Halfway)/float64(s.Max)), true
		}
	}
	if known {
		o.gauge(twFill, fill)
	}
}

// ageBounds are the classic buckets of an age, in seconds.
var ageBounds = []float64{1, 10, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600}

// closeWait tells what is in CLOSE_WAIT. An age that is not known counts as 0: that is what is proven.
func (o sink) closeWait(l *Look) {
	o.gauge(cwSockets, float64(len(l.Waiting)))
	sum, buckets := 0.0, make(map[float64]uint64, len(ageBounds))
	for _, bound := range ageBounds {
		buckets[bound] = 0
	}
	for _, a := range l.Waiting {
		age := a.Min.Seconds()
		sum += age
		for _, bound := range ageBounds {
			if age <= bound {
				buckets[bound]++
			}
		}
	}
	o.to <- prometheus.MustNewConstHistogram(cwAge, uint64(len(l.Waiting)), sum, buckets)

	by := make(map[string]*workloadLeaks)
	for i := range l.Leaks.Groups {
		g := &l.Leaks.Groups[i]
		name := workload(g.Process)
		if by[name] == nil {
			by[name] = &workloadLeaks{name: name, verdicts: make(map[leak.Verdict]int)}
		}
		by[name].add(g)
	}
	for _, w := range capped(by) {
		o.workload(w)
	}
}

func (o sink) workload(w *workloadLeaks) {
	for verdict, n := range w.verdicts {
		o.gauge(leaked, float64(n), w.name, verdict.String())
	}
	if len(w.verdicts) > 0 {
		o.gauge(oldest, w.oldest.Seconds(), w.name)
	}
	if w.pooled > 0 {
		o.gauge(pooled, float64(w.pooled), w.name)
	}
	if w.dead > 0 {
		o.gauge(deadFDs, float64(w.dead), w.name)
	}
	if w.ends {
		o.gauge(emfile, w.emfile.Seconds(), w.name)
	}
}

// place is a destination and where it is.
type place struct {
	space *ports.Space
	*ports.Destination
}

// ports tells of the fullest, as ports.Space.Destinations is sorted in each netns.
func (o sink) ports(l *Look, options Options) {
	var all []place
	for _, s := range l.Ports {
		for _, d := range s.Destinations {
			all = append(all, place{s, d})
		}
	}
	slices.SortStableFunc(all, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.Free()*max(b.Capacity, 1), b.Free()*max(a.Capacity, 1)), cmp.Compare(b.Used, a.Used))
	})
	told := all[:min(len(all), options.Top)]
	o.gauge(destinations, float64(len(all)))
	o.gauge(omitted, float64(len(all)-len(told)))
	for i, p := range told {
		o.destination(i, p, l, options)
	}
}

func (o sink) destination(i int, p place, l *Look, options Options) {
	names, values := []string{"rank"}, []string{strconv.Itoa(i + 1)}
	if options.Destinations {
		to := "bound"
		if !p.Bound {
			to = p.Remote.String()
		}
		names, values = []string{"netns", "source", "destination"}, []string{strconv.FormatUint(uint64(p.space.NetNS), 10), p.Source.String(), to}
	}
	f := p.Forecast(&p.space.Rules, l.Mean)
	o.gauge(family(portsUsed, "Ports that one of the fullest destinations has in use.", names...), float64(p.Used), values...)
	o.gauge(family(portsCapacity, "Ports that there are for it.", names...), float64(p.Capacity), values...)
	o.gauge(family(portsRate, "Its connect() calls, since the look before.", names...), f.Rate, values...)
	if f.Share > 0 {
		o.gauge(family(portsMost, "Above so many its ports run out: ports over 2MSL. Absent if its connections leave no TIME_WAIT.", names...), f.Sustainable, values...)
	}
	if f.Exhausted >= 0 {
		o.gauge(family(portsExhausted, "When its connect() will fail, as it goes on now. Absent if it will not.", names...), f.Exhausted.Seconds(), values...)
	}
}
