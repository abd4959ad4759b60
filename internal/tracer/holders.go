// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf/link"

	"afterfin/internal/event"
)

// Holders walks the descriptors of every process this pid namespace can see, in
// the kernel (iter/task_file: no /proc, no netns to enter), and calls fn for
// each that is a TCP socket. On the way it gives an owner to each socket that has
// none, or only its listener's: later rows carry it. fn must not keep h.
func (t *Tracer) Holders(fn func(h *event.Holder)) error {
	return walk(t.holders, event.HolderSize, func(raw []byte) error {
		var h event.Holder
		if err := event.DecodeHolder(raw, &h); err != nil {
			return err
		}
		fn(&h)
		return nil
	})
}

// Seed is Holders for the start, after every netns was dumped: it reaches the
// sockets under MPTCP too, whose owners SeedSockets then passes on.
func (t *Tracer) Seed(fn func(h *event.Holder)) error {
	seeding := t.coll.Variables["seeding"]
	if err := seeding.Set(true); err != nil {
		return fmt.Errorf("set seeding: %w", err)
	}
	defer seeding.Set(false)
	return t.Holders(fn)
}

// SeedSockets gives their owners to the MPTCP listeners of the calling thread's
// netns, and notes its mini-sockets. Call it after Seed.
func (t *Tracer) SeedSockets() error {
	return walk(t.sockets, 1, func([]byte) error { return nil })
}

// walk runs an iterator, which calls fn with each of its records, of that many bytes.
func walk(it *link.Iter, size int, fn func(raw []byte) error) error {
	stream, err := it.Open()
	if err != nil {
		return plain("open iterator", err)
	}
	defer stream.Close()
	in := bufio.NewReaderSize(stream, 64<<10)
	raw := make([]byte, size)
	for {
		if _, err := io.ReadFull(in, raw); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read iterator: %w", err)
		}
		if err := fn(raw); err != nil {
			return fmt.Errorf("read iterator: %w", err)
		}
	}
}
