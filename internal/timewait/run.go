// SPDX-License-Identifier: Apache-2.0

// Package timewait says what was seen of TIME_WAIT: how long it lasts, against what the
// kernel's timer wheel lets expect, and whether its number is steady. Pure.
package timewait

import (
	"cmp"
	"slices"
	"time"
)

// Sample is one TIME_WAIT that was made to be measured.
type Sample struct {
	// Phase is where in its bucket of the wheel the timer was due: from 0 to less than
	// Run.Bucket, in whole jiffies. The later, the shorter it is rounded up by.
	Phase     time.Duration
	Measured  time.Duration // both ends seen in the kernel
	Predicted time.Duration // by the wheel, from the same beginning
}

// Made is one TIME_WAIT as it was seen.
type Made struct {
	Entered, Ended time.Duration // CLOCK_MONOTONIC
	Expires        uint64        // jiffies: what its timer was set to
}

// NewRun puts what was seen next to what the wheel lets expect; at ties jiffies to the clock.
func NewRun(made []Made, at Tick, wheel Wheel) Run {
	ahead := commonest(made, at, wheel.Tick)
	r := Run{Nominal: time.Duration(ahead) * wheel.Tick}
	r.Bucket = wheel.Bucket(r.Nominal)
	for _, m := range made {
		r.Samples = append(r.Samples, Sample{
			Phase:     time.Duration(m.Expires%uint64(r.Bucket/wheel.Tick)) * wheel.Tick,
			Measured:  m.Ended - m.Entered,
			Predicted: at.Begin(Runs(m.Expires, ahead), wheel.Tick) - m.Entered,
		})
	}
	return r
}

// commonest gives how many jiffies ahead most timers were set. A tick may have come between a
// beginning and its timer, so a few seem to be one longer.
func commonest(made []Made, at Tick, tick time.Duration) (ahead uint64) {
	lengths := make(map[uint64]int)
	for _, m := range made {
		lengths[m.Expires-at.Jiffy(m.Entered, tick)]++
	}
	for length, n := range lengths {
		if n > lengths[ahead] || n == lengths[ahead] && length < ahead {
			ahead = length
		}
	}
	return ahead
}

// Late is how much later than predicted it ended; below 0: earlier.
func (s Sample) Late() time.Duration { return s.Measured - s.Predicted }

// Run is what was measured of one kernel.
type Run struct {
	Kernel  string        // uname -r
	Arch    string        // uname -m
	HZ      int           // ticks a second, counted
	Nominal time.Duration // what the timer is set to: TCP_TIMEWAIT_LEN, include/net/tcp.h
	Bucket  time.Duration // how fine the wheel is so far ahead; it always rounds up
	Samples []Sample      // in the order of their beginning
}

// PredictedMin is what no TIME_WAIT is shorter than: the wheel rounds up to the next bucket,
// by a jiffy at least, of which a part may have been over when the timer was set.
func (r *Run) PredictedMin() time.Duration { return r.Nominal }

// PredictedMax is what none is longer than.
func (r *Run) PredictedMax() time.Duration { return r.Nominal + r.Bucket }

// Lengths are the measured ones, sorted.
func (r *Run) Lengths() []time.Duration {
	lengths := make([]time.Duration, len(r.Samples))
	for i, s := range r.Samples {
		lengths[i] = s.Measured
	}
	slices.Sort(lengths)
	return lengths
}

// Median is that of lengths that are sorted, of which there is one at least.
func Median(sorted []time.Duration) time.Duration {
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// Worst is how much the sample is off that is the worst predicted; 0 without samples.
func (r *Run) Worst() time.Duration {
	if len(r.Samples) == 0 {
		return 0
	}
	return slices.MaxFunc(r.Samples, func(a, b Sample) int {
		return cmp.Compare(a.Late().Abs(), b.Late().Abs())
	}).Late()
}
