// SPDX-License-Identifier: Apache-2.0

package timewait

import "time"

// Wheel is how a kernel's timers are late by design (kernel/time/timer.c, since 4.8): those
// that are due further ahead stand in coarser buckets, and run when all of their bucket is over.
type Wheel struct {
	Tick time.Duration // a jiffy, 1 s / CONFIG_HZ
}

// Nominal is TCP_TIMEWAIT_LEN of mainline kernels: how long a TIME_WAIT is set to last, where
// that could not be measured.
const Nominal = 60 * time.Second

// A level has 64 buckets (LVL_BITS 6), each of them 8 times as wide as those of the level
// below (LVL_CLK_SHIFT 3).
const (
	levelBuckets = 64
	levelShift   = 3
	levels       = 9
)

// shift gives the width of the bucket of a timer that far ahead, as a power of two of jiffies.
func shift(ahead uint64) (bits int) {
	for level := 1; level < levels; level++ {
		if ahead < (levelBuckets-1)<<((level-1)*levelShift) { // LVL_START
			return (level - 1) * levelShift
		}
	}
	return (levels - 1) * levelShift
}

// Bucket is the width of the bucket of a timer that is set to run after d.
func (w Wheel) Bucket(d time.Duration) time.Duration {
	return w.Tick << shift(uint64(d/w.Tick))
}

// Runs gives the jiffy at which a timer runs that is due at the jiffy expires and was set
// ahead jiffies before.
func Runs(expires, ahead uint64) uint64 {
	s := shift(ahead)
	return (expires>>s + 1) << s // calc_index(): rounded up even if it fits
}

// Mean is how long a timer set to d takes in the middle.
func (w Wheel) Mean(d time.Duration) time.Duration { return d + w.Bucket(d)/2 }
