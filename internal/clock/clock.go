// SPDX-License-Identifier: Apache-2.0

// Package clock reads the kernel's clocks.
package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// Mono reads CLOCK_MONOTONIC, the clock of the events.
func Mono() time.Duration { return read(unix.CLOCK_MONOTONIC) }

// Boot reads CLOCK_BOOTTIME, by which processes begin: Mono and the time that the
// machine was suspended.
func Boot() time.Duration { return read(unix.CLOCK_BOOTTIME) }

// Real reads CLOCK_REALTIME, the time of day since 1970.
func Real() time.Duration { return read(unix.CLOCK_REALTIME) }

func read(id int32) time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(id, &ts) // cannot fail for these clocks
	return time.Duration(ts.Nano())
}

// Jiffy is the kernel's tick, 1/CONFIG_HZ: the resolution of its coarse clocks.
func Jiffy() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &ts) // cannot fail for this clock
	return time.Duration(ts.Nano())
}
