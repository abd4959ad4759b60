// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"afterfin/internal/event"
)

const (
	// PollInterval is how long an event may wait in the ring. The kernel wakes us before,
	// when a quarter of the ring is full. A poll costs about 0.2 ms of CPU, a wake-up per event
	// would cost 7.5 µs each.
	PollInterval = 50 * time.Millisecond

	// RestInterval is the same when nothing has come for a second. Then the next event does
	// wake us, so it waits no time at all, and a host where little happens pays little.
	RestInterval = 200 * time.Millisecond

	restAfter = int(time.Second / PollInterval) // reads

	// RingBytes holds 131,072 transitions: 0.2 s of the 600,000 a second that two cores can
	// make, more than four polls long, and the end of a netns with 100,000 TIME_WAIT, which takes
	// the kernel some 50 ms.
	RingBytes = 16 << 20

	// RingRecords is how many that are.
	RingRecords = RingBytes / recordBytes

	recordBytes = 128 // a transition of 120 bytes and the kernel's header of 8
)

// Read fills dst with the transitions that wait, and waits PollInterval for the
// first, or RestInterval. It returns how many it read, 0 on a quiet host, and ErrClosed after
// Close. A record that cannot be decoded is counted in Lost.
func (t *Tracer) Read(dst []event.Transition) (int, error) {
	wait, err := t.patience()
	if err != nil {
		return 0, err
	}
	t.ring.SetDeadline(time.Now().Add(wait))
	n, err := t.read(dst)
	t.empty++
	if n > 0 {
		t.empty = 0
	}
	return n, err
}

// patience is how long to wait for the first record. Who rests is woken for it.
func (t *Tracer) patience() (time.Duration, error) {
	if t.empty < restAfter || t.busy.Load() {
		return PollInterval, nil
	}
	if err := t.coll.Variables["resting"].Set(true); err != nil {
		return 0, fmt.Errorf("set resting: %w", err)
	}
	return RestInterval, nil
}

func (t *Tracer) read(dst []event.Transition) (int, error) {
	n := 0
	for n < len(dst) {
		err := t.ring.ReadInto(&t.record)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return n, nil
		case errors.Is(err, ringbuf.ErrClosed):
			return n, ErrClosed
		case err != nil:
			return n, fmt.Errorf("read ring: %w", err)
		}
		t.records++
		if event.IsSite(t.record.RawSample) {
			t.readSite()
			continue
		}
		if err := event.DecodeTransition(t.record.RawSample, &dst[n]); err != nil {
			t.undecoded++
			continue
		}
		n++
	}
	return n, nil
}
