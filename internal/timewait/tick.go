// SPDX-License-Identifier: Apache-2.0

package timewait

import "time"

// Tick is a moment right after a jiffy began: it ties the kernel's jiffies, by which timers
// run, to CLOCK_MONOTONIC, by which events are dated. Between the two there is no drift: the
// kernel makes its ticks by that clock.
type Tick struct {
	Jiffies uint64
	Mono    time.Duration
}

// Rate counts the ticks a second since an earlier one.
func (t Tick) Rate(since Tick) float64 {
	return float64(t.Jiffies-since.Jiffies) / (t.Mono - since.Mono).Seconds()
}

// Begin gives when a jiffy begins, each of them being length long.
func (t Tick) Begin(jiffy uint64, length time.Duration) time.Duration {
	return t.Mono + time.Duration(int64(jiffy-t.Jiffies))*length
}

// Jiffy gives the one that a moment is in.
func (t Tick) Jiffy(at, length time.Duration) uint64 {
	ahead := at - t.Mono
	if ahead < 0 {
		ahead -= length - 1
	}
	return t.Jiffies + uint64(int64(ahead/length))
}

// Earlier is the one of two that was seen sooner after its jiffy began.
func (t Tick) Earlier(o Tick, length time.Duration) Tick {
	if o.Begin(t.Jiffies, length) < t.Mono {
		return o
	}
	return t
}
