// SPDX-License-Identifier: Apache-2.0

package ports

import (
	"math"
	"time"
)

// Forecast is where that leads.
type Forecast struct {
	Rate float64 // connect() calls a second
	Peak float64

	// Sustainable is the rate above which ports run out: those that no open connection holds, over
	// how long each one that comes keeps its port. With a Share of 0 there is no such rate.
	Sustainable float64
	Hold        time.Duration // how long a TIME_WAIT keeps a port, in the middle
	Share       float64       // of the connections that leave one, 0 to 1

	// Exhausted is when the next connect() fails, from now, if all goes on as it did; 0: now;
	// below 0: that will not be.
	Exhausted time.Duration
	Level     float64 // where the number of ports in use settles, if it does

	// NextFree is when the first mini-socket gives its port back, and AllFree the last one's;
	// from now. Below 0: there is none.
	NextFree, AllFree time.Duration
}

// Forecast judges. mean is how long a TIME_WAIT lasts in the middle, as measured (2MSL and half
// a bucket of the timer wheel).
func (d *Destination) Forecast(rules *Rules, mean time.Duration) Forecast {
	f := &d.Flow
	out := Forecast{Peak: f.Peak, Hold: d.hold(rules, mean), Share: 1, Exhausted: -1, NextFree: -1, AllFree: -1}
	if n := len(d.Frees); n > 0 {
		out.NextFree, out.AllFree = max(d.Frees[0]-d.At, 0), max(d.Frees[n-1]-d.At, 0)
	}
	if ended := f.TimeWaits + f.Released; ended > 0 {
		out.Share = float64(f.TimeWaits) / float64(ended)
	}
	open := d.Used - len(d.Frees) // hold a port as long as they are open
	if kept := out.Share * out.Hold.Seconds(); kept > 0 {
		out.Sustainable = float64(max(d.Capacity-open, 0)) / kept
	}
	seconds := f.While.Seconds()
	if seconds > 0 {
		out.Rate = float64(f.Connects) / seconds
		out.Peak = max(out.Peak, out.Rate) // of a short sample it is the only window
	}
	if d.Free() <= 0 {
		out.Exhausted = 0
		return out
	}
	if seconds > 0 && f.Connects > f.Failures {
		enter := float64(f.TimeWaits) / seconds
		more := (float64(f.Connects) - float64(f.Failures+f.TimeWaits+f.Released)) / seconds // stay open
		if !significant(f) {
			more = 0
		}
		out.Level = float64(open) + enter*out.Hold.Seconds()
		out.Exhausted = d.exhausted(enter, more, out.Hold)
	}
	return out
}

// significant: do more stay open than chance makes of a look at a moment?
func significant(f *Flow) bool {
	stay := math.Abs(float64(f.Connects) - float64(f.Failures+f.TimeWaits+f.Released))
	return stay > 3*math.Sqrt(float64(f.Connects))
}

// hold: with tcp_tw_reuse in effect those with timestamps keep a port for its delay only.
func (d *Destination) hold(rules *Rules, mean time.Duration) time.Duration {
	stamped := d.Reusable + d.TooYoung
	if stamped == 0 || !d.ReuseApplies(rules) {
		return mean
	}
	part := float64(stamped) / float64(stamped+d.NoStamp)
	return time.Duration(part*float64(rules.Delay()) + (1-part)*float64(mean))
}

// exhausted finds when as many ports are in use as there are: enter TIME_WAIT come each second
// and keep a port for hold, more connections stay open, and those that are there end when they do.
func (d *Destination) exhausted(enter, more float64, hold time.Duration) time.Duration {
	grow := enter + more
	left := float64(d.Free())
	at, next := 0.0, 0
	for next < len(d.Frees) && d.Frees[next] <= d.At { // in effect free already
		next++
	}
	for {
		end := hold.Seconds()
		if next < len(d.Frees) {
			end = min(end, (d.Frees[next] - d.At).Seconds())
		}
		if grow > 0 && at+left/grow <= end {
			return time.Duration((at + left/grow) * float64(time.Second))
		}
		left -= grow * (end - at)
		at = end
		if at >= hold.Seconds() {
			break
		}
		left++
		next++
	}
	// From here on as many TIME_WAIT end as begin; those that were there are over.
	left += float64(len(d.Frees) - next)
	if more <= 0 {
		return -1
	}
	return time.Duration((at + max(left, 0)/more) * float64(time.Second))
}
