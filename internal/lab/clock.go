// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"time"

	"golang.org/x/sys/unix"
)

// Mono gives the time on CLOCK_MONOTONIC, the clock of every Step.
func Mono() time.Duration { return read(unix.CLOCK_MONOTONIC) }

// Ticked gives the time of the kernel's last tick, on Mono's clock (it is
// CLOCK_MONOTONIC_COARSE). What the kernel stamps in jiffies it stamps with a jiffy that
// began less than one before this, or later. That is long before Mono where a tick is late: a
// CPU of a virtual machine whose host is busy does not come to it, and jiffies stand still.
func Ticked() time.Duration { return read(unix.CLOCK_MONOTONIC_COARSE) }

func read(clock int32) time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(clock, &now); err != nil {
		panic(err) // every kernel has these clocks
	}
	return time.Duration(now.Nano())
}
