// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"

	"afterfin/internal/event"
)

// MaxArmed is how many processes can be armed at once.
const MaxArmed = 64

// SlicesASecond is how many slices are taken of one process at most.
const SlicesASecond = 100

// ErrNoRegisters says that this kernel has no way to the registers of a task, which
// Config.Deep takes.
var ErrNoRegisters = errors.New("bpf_task_pt_regs (Linux 5.15) is missing")

// siteFrames are what a stack has at most (AF_SITE_FRAMES).
const siteFrames = 60

// sliceRingBytes holds 62 slices of 16.7 kB: 0.6 s of one process.
const sliceRingBytes = 1 << 20

// ErrNotArmed says that the kernel side has no place for more processes.
var ErrNotArmed = errors.New("too many processes are looked at closely")

func (t *Tracer) readSite() {
	s, key, err := event.DecodeSite(t.record.RawSample)
	if err == nil {
		s.Stack, err = t.stack(key)
	}
	if err != nil {
		t.undecoded++
		return
	}
	t.sites = append(t.sites, s)
}

// stack reads one of the kernel side's, which change as little as their keys do.
func (t *Tracer) stack(key uint64) ([]uint64, error) {
	if known := t.stacks[key]; known != nil {
		return known, nil
	}
	var frames [siteFrames]uint64
	if err := t.coll.Maps["stacks"].Lookup(key, &frames); err != nil {
		return nil, fmt.Errorf("read stack: %w", err)
	}
	n := slices.Index(frames[:], 0)
	if n < 0 {
		n = len(frames)
	}
	if t.stacks == nil {
		t.stacks = make(map[uint64][]uint64)
	}
	t.stacks[key] = slices.Clone(frames[:n])
	return t.stacks[key], nil
}

// Sites gives those that came with the transitions read since the last call; the same one
// may come again. Call it from the goroutine that calls Read.
func (t *Tracer) Sites() []event.Site {
	sites := t.sites
	t.sites = nil
	return sites
}

// deep takes slices of the stacks of armed processes.
type deep struct {
	ring   *ringbuf.Reader
	record ringbuf.Record
	armed  map[uint32]bool

	accept *ebpf.Collection // nil where fexit sees accept() at no cost to others
	taxing link.Link        // its one program, attached while a process is armed
}

// canDeep gives ErrNoRegisters where Arm could not work.
func canDeep(types *Types) error {
	if has, err := types.hasHelper("BPF_FUNC_task_pt_regs"); err != nil {
		return fmt.Errorf("look for bpf_task_pt_regs: %w", err)
	} else if !has {
		return ErrNoRegisters
	}
	return nil
}

func (t *Tracer) openDeep(spec *ebpf.CollectionSpec, types *Types) error {
	d := &deep{armed: make(map[uint32]bool)}
	t.deep = d // closed with the tracer from here on
	var err error
	if d.ring, err = ringbuf.NewReader(t.coll.Maps["slices"]); err != nil {
		return plain("open ring of slices", err)
	}
	if t.accept != nil && !t.TaxesCalls() {
		return nil
	}
	if d.accept, err = t.loadMore(spec, types, "sys_exit_armed"); err != nil {
		return err
	}
	return nil
}

func (d *deep) close() error {
	var errs []error
	if d.taxing != nil {
		errs = append(errs, d.taxing.Close())
	}
	if d.accept != nil {
		d.accept.Close()
	}
	if d.ring != nil {
		errs = append(errs, d.ring.Close())
	}
	return errors.Join(errs...)
}

// Arm has slices taken of the stack of a process at its next connect() and accept(), 100 a
// second at most. Where fexit is refused a program is attached for the latter that costs
// every system call of the machine until Disarm: Taxing tells, CallCost measures it. The
// error is ErrNotArmed beyond MaxArmed, else the kernel's. Only with Config.Deep.
func (t *Tracer) Arm(pid uint32) error {
	d := t.deep
	if len(d.armed) >= MaxArmed && !d.armed[pid] {
		return ErrNotArmed
	}
	if err := t.coll.Maps["armed"].Put(pid, make([]byte, t.coll.Maps["armed"].ValueSize())); err != nil {
		return fmt.Errorf("arm: %w", err)
	}
	d.armed[pid] = true
	if d.accept == nil || d.taxing != nil {
		return nil
	}
	var err error
	if d.taxing, err = link.AttachTracing(link.TracingOptions{Program: d.accept.Programs["sys_exit_armed"]}); err != nil {
		d.taxing = nil
		return plain("arm: attach sys_exit", err)
	}
	return nil
}

// Taken is what the kernel side did with the sockets of one armed process.
type Taken struct {
	Slices uint64
	Passed uint64 // over: they came too fast, or the stack could not be read
}

// Disarm ends what Arm began, and tells what came of it.
func (t *Tracer) Disarm(pid uint32) (Taken, error) {
	d := t.deep
	if !d.armed[pid] {
		return Taken{}, nil
	}
	delete(d.armed, pid)
	var arming struct{ Next, Taken, Passed uint64 }
	err := t.coll.Maps["armed"].LookupAndDelete(pid, &arming)
	if len(d.armed) == 0 && d.taxing != nil {
		err = errors.Join(err, d.taxing.Close())
		d.taxing = nil
	}
	if err != nil {
		err = fmt.Errorf("disarm: %w", err)
	}
	return Taken{arming.Taken, arming.Passed}, err
}

// Taxing tells whether every system call of the host pays for Arm just now.
func (t *Tracer) Taxing() bool { return t.deep != nil && t.deep.taxing != nil }

// Slices calls fn with those that wait; it does not wait for more. Call it from the
// goroutine that calls Read. A record that cannot be decoded is counted in Lost.
func (t *Tracer) Slices(fn func(event.Slice)) error {
	if t.deep == nil {
		return nil
	}
	t.deep.ring.SetDeadline(time.Unix(1, 0)) // past: what is there, and no more
	for {
		err := t.deep.ring.ReadInto(&t.deep.record)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case errors.Is(err, ringbuf.ErrClosed):
			return ErrClosed
		case err != nil:
			return fmt.Errorf("read ring of slices: %w", err)
		}
		s, err := event.DecodeSlice(t.deep.record.RawSample)
		if err != nil {
			t.undecoded++
			continue
		}
		fn(s)
	}
}
