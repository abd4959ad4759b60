// SPDX-License-Identifier: Apache-2.0

package ports

import (
	"slices"
	"time"

	"afterfin/internal/event"
)

// Flow is what became of the connect() calls of a destination in a while.
type Flow struct {
	event.Calls
	While time.Duration
	Peak  float64 // the most connects in a second
}

// Owner is a process that uses ports of a destination.
type Owner struct {
	event.Owner     // PID 0: the callers for whom the kernel side had no room
	Sockets     int // that it holds, open
	event.Calls     // in the sample
}

// call takes in what one process did.
func (d *Destination) call(c *event.Caller) {
	d.Flow.Calls.Add(&c.Calls)
	d.owner(c.Owner).Calls.Add(&c.Calls)
}

func (d *Destination) owner(o event.Owner) *Owner {
	i := slices.IndexFunc(d.Owners, func(other Owner) bool {
		return other.PID == o.PID && (other.Start-o.Start).Abs() <= time.Second // a pid is not used again that fast
	})
	if i < 0 {
		i = len(d.Owners)
		d.Owners = append(d.Owners, Owner{Owner: o})
	}
	return &d.Owners[i]
}

// peakWindow is what a peak is a rate over.
const peakWindow = time.Second

// Peaks keeps the highest rate of each destination. The zero value is ready.
type Peaks struct {
	at   time.Duration
	last map[Key]uint64
	most map[Key]float64
}

// Due tells whether it is time for See.
func (p *Peaks) Due(now time.Duration) bool { return now-p.at >= peakWindow }

// See takes in the counts as they stand; the first ones are where it begins.
func (p *Peaks) See(callers []event.Caller, now time.Duration) {
	counts := make(map[Key]uint64)
	for i := range callers {
		counts[keyOf(&callers[i])] += callers[i].Connects
	}
	if p.most == nil {
		p.most = make(map[Key]float64)
	}
	if took := (now - p.at).Seconds(); p.at != 0 && took > 0 {
		for k, n := range counts {
			p.most[k] = max(p.most[k], float64(n-p.last[k])/took)
		}
	}
	p.at, p.last = now, counts
}
