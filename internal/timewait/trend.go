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
	Settles float64 // how many there are in the end, if In stays: In × how long each lasts
	Trend   Trend
}

// How far from its settled number one may be that is called steady: by a tenth, or as much as
// chance makes it.
const (
	steadyPart   = 0.1
	steadySigmas = 3
)

// NewFlow judges from what entered and ended in a while, and how many there are after it.
// lasts is how long each one lasts in the middle. Ends come in bursts, for all of a bucket of
// the wheel run at once: in a few seconds In and Out need not be alike, so it is the number
// itself that is compared with the rate.
func NewFlow(entered, ended uint64, live int, while, lasts time.Duration) Flow {
	f := Flow{In: float64(entered) / while.Seconds(), Out: float64(ended) / while.Seconds()}
	f.Settles = f.In * lasts.Seconds()
	chance := steadySigmas * math.Sqrt(float64(entered)) / while.Seconds() * lasts.Seconds()
	switch off := float64(live) - f.Settles; {
	case entered == 0 && ended == 0:
		f.Trend = Idle
	case math.Abs(off) <= max(steadyPart*f.Settles, chance):
		f.Trend = Steady
	case off < 0:
		f.Trend = Growing
	default:
		f.Trend = Falling
	}
	return f
}
