// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// occupyAccept makes this kernel refuse fexit on inet_csk_accept until the test's
// end, as others do on their own: a function takes a limited number of programs
// (BPF_MAX_TRAMP_LINKS, 38), and so many that do nothing are attached. It gives
// false where fexit is refused anyway.
func occupyAccept(t *testing.T) bool {
	t.Helper()
	for n := 0; n < 64; n++ {
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name:         "occupant",
			Type:         ebpf.Tracing,
			AttachType:   ebpf.AttachTraceFEntry,
			AttachTo:     "inet_csk_accept",
			License:      "Dual MIT/GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		})
		var l link.Link
		if err == nil {
			t.Cleanup(func() { prog.Close() })
			l, err = link.AttachTracing(link.TracingOptions{Program: prog})
		}
		switch {
		case errors.Is(err, unix.E2BIG):
			return true
		case err != nil && n == 0:
			t.Logf("fexit is refused here anyway: %v", err)
			return false
		case err != nil:
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	t.Fatal("64 programs on one function")
	return false
}

// TestEndsWithoutFexit: the same rows by the other hooks. What these cannot know
// is who accepted, and only until the descriptor is seen or somebody closes;
// --exact-owner knows it all the same.
func TestEndsWithoutFexit(t *testing.T) { playWithoutFexit(t, ends) }

func TestOwnersWithoutFexit(t *testing.T) { playWithoutFexit(t, owners) }

func playWithoutFexit(t *testing.T, scenes map[string]func(*scene)) {
	if !occupyAccept(t) {
		return // then the other tests ran without
	}
	play(t, scenes, "none")
}
