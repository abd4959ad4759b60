// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// occupy makes this kernel refuse fentry and fexit on a function until the test's
// end, as others do on their own: a function takes a limited number of programs
// (BPF_MAX_TRAMP_LINKS, 38), and so many that do nothing are attached. It gives
// false where they are refused anyway.
func occupy(t *testing.T, function string) bool {
	t.Helper()
	const more = 39
	occupants := &ebpf.CollectionSpec{Programs: make(map[string]*ebpf.ProgramSpec)}
	for n := range more {
		occupants.Programs[fmt.Sprintf("occupant_%d", n)] = &ebpf.ProgramSpec{
			Type:         ebpf.Tracing,
			AttachType:   ebpf.AttachTraceFEntry,
			AttachTo:     function,
			License:      "Dual MIT/GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		}
	}
	coll, err := ebpf.NewCollection(occupants)
	if err != nil {
		return refusedAnyway(t, err)
	}
	t.Cleanup(coll.Close)
	attached := 0
	for _, prog := range coll.Programs {
		l, err := link.AttachTracing(link.TracingOptions{Program: prog})
		switch {
		case errors.Is(err, unix.E2BIG):
			return true
		case err != nil && attached == 0:
			return refusedAnyway(t, err)
		case err != nil:
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		attached++
	}
	t.Fatalf("%d programs on one function", attached)
	return false
}

func refusedAnyway(t *testing.T, err error) bool {
	t.Helper()
	if os.Getenv(wantAccept) == "fexit" {
		t.Fatalf("this kernel is known to allow fexit: %v", err)
	}
	t.Logf("fexit is refused here anyway: %v", err)
	return false
}

// TestWithoutFexit: the same rows by the other hooks. What these cannot know is
// who accepted, and only until the descriptor is seen or somebody closes
// (--exact-owner knows it all the same), and how often TIME_WAIT began anew.
func TestWithoutFexit(t *testing.T) {
	if !occupy(t, "inet_csk_accept") || !occupy(t, "inet_twsk_kill") {
		return // then the other tests ran without
	}
	all := maps.Clone(ends)
	maps.Copy(all, owners)
	play(t, all, families[:1], "none") // no hook is about a family, but the stacks of the next ones
	for _, scenes := range []map[string]func(*scene){timeWaits, overflows, expiring} {
		play(t, scenes, peerFamilies, "none")
	}
}
