// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"errors"
	"time"

	"afterfin/internal/clock"
	"afterfin/internal/event"
	"afterfin/internal/lab"
	"afterfin/internal/sockdiag"
	"afterfin/internal/tcp"
)

// lengthStep is finer than any kernel counts it.
const lengthStep = time.Second / 10

// timeWaitLength finds what this kernel sets the timer of a TIME_WAIT to: 60 s, but for some
// vendors'. No file tells, so one is made, in a netns of its own, and is gone when this returns:
// a connect() from its port takes it, and leaves none itself. That takes CAP_SYS_ADMIN.
func timeWaitLength() (time.Duration, error) {
	ns, err := lab.NewNetNS()
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	for range 3 {
		var left, took time.Duration
		err := ns.Do(func() error {
			begin := clock.Mono()
			left, err = leftOfOne()
			took = clock.Mono() - begin
			return err
		})
		if err != nil {
			return 0, err
		}
		if took < lengthStep { // so little of it is over
			return (left + lengthStep - 1).Truncate(lengthStep), nil
		}
	}
	return 0, errors.New("the machine is held up")
}

// leftOfOne makes a TIME_WAIT in the netns of the calling thread, and gives what it still has.
func leftOfOne() (left time.Duration, err error) {
	c, err := lab.NewCloser()
	if err != nil {
		return 0, err
	}
	defer c.Close()
	from, err := c.Leave()
	if err != nil {
		return 0, err
	}
	for begin := clock.Mono(); left == 0; { // the last segment may still be in a softirq
		if clock.Mono()-begin > time.Second {
			return 0, errors.New("no TIME_WAIT came of a connection that was closed")
		}
		if err := sockdiag.Dump(1<<tcp.TimeWait, func(e *event.Existing) { left = e.Left }); err != nil {
			return 0, err
		}
	}
	// Fails in the first second after boot, for the kernel takes its time stamp of 0 s for none:
	// then this one ends with its netns, which may make a row.
	_ = c.Retake(from)
	return left, nil
}
