// SPDX-License-Identifier: Apache-2.0

package timewait

import (
	"math"
	"time"
)

// Trend says where the number of TIME_WAIT goes.
type Trend uint8

// Steady: as many come as go, and as many are there as that rate keeps alive. Growing and
// Falling: it is on its way to Flow.Settles. Idle: none came and none went.
const (
	Idle Trend = iota
	Steady
	Growing
	Falling
)

var trends = [...]string{"idle", "steady", "growing", "falling"}

// String is the word used in every view.
func (t Trend) String() string { return trends[t] }

// Flow is what came and went in a while.
type Flow struct {
	In, Out float64 // a second
	// Settles is how many there are in the end, if In stays: In × how long each lasts. -1: that
	// is not known, for something else ends many of them before their time is over.
	Settles float64
	Trend   Trend
}

// Sampled is what NewFlow judges from.
type Sampled struct {
	Entered, Ended, Expired uint64        // Expired of those that Ended: by their timer
	Live                    int           // after it
	While                   time.Duration // it took
}

const (
	steadyPart = 0.1  // so far from its settled number one may be
	byTimer    = 0.95 // of the ends, for In alone to tell where it settles
	sigmas     = 3    // what chance makes of a count
)

// NewFlow judges a sample. A TIME_WAIT set to nominal ends by the wheel.
func NewFlow(s Sampled, wheel Wheel, nominal time.Duration) Flow {
	seconds := s.While.Seconds()
	f := Flow{In: float64(s.Entered) / seconds, Out: float64(s.Ended) / seconds, Settles: -1}
	if float64(s.Expired) >= byTimer*float64(s.Ended) {
		f.Settles = f.In * wheel.Mean(nominal).Seconds()
	}
	switch {
	case s.Entered == 0 && s.Ended == 0:
		f.Trend = Idle
	case s.Entered == 0:
		f.Trend = Falling
	case f.Settles >= 0:
		// All of a bucket end at once, so In and Out need not be alike in a few seconds: the
		// number itself tells more.
		chance := sigmas * math.Sqrt(float64(s.Entered)) / seconds * wheel.Mean(nominal).Seconds()
		f.Trend = trend(float64(s.Live)-f.Settles, max(steadyPart*f.Settles, chance))
	default:
		inBucket := f.In * wheel.Bucket(nominal).Seconds()
		f.Trend = trend(float64(s.Ended)-float64(s.Entered), inBucket+sigmas*math.Sqrt(float64(s.Entered+s.Ended)))
	}
	return f
}

// trend of a number that is off so much from where it stays.
func trend(off, allowed float64) Trend {
	switch {
	case math.Abs(off) <= allowed:
		return Steady
	case off < 0:
		return Growing
	}
	return Falling
}
