// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// hooked gives the names of the programs that this process has attached, by the
// descriptors of its links.
func hooked(t *testing.T) (names []string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, _ := os.Readlink("/proc/self/fd/" + fd.Name()); target != "anon_inode:bpf_link" {
			continue
		}
		info, err := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
		if err != nil {
			t.Fatal(err)
		}
		var id ebpf.ProgramID
		_, rest, _ := strings.Cut(string(info), "prog_id:")
		if _, err := fmt.Sscan(rest, &id); err != nil {
			t.Fatalf("%v: %s", err, info)
		}
		prog, err := ebpf.NewProgramFromID(id)
		if err != nil {
			t.Fatal(err)
		}
		described, err := prog.Info()
		prog.Close()
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, described.Name)
	}
	return names
}

func aboutTimeWait(names []string) (n int) {
	for _, name := range names {
		if strings.HasPrefix(name, "timer_") || strings.HasPrefix(name, "twsk_") {
			n++
		}
	}
	return n
}

// TestNoTimeWait: with --no-timewait nothing is attached to timers or mini-sockets,
// and a connection's rows end where its socket does.
func TestNoTimeWait(t *testing.T) {
	ns := newNetNS(t)
	w := startWatch(t, "--netns", ns.Path())
	if names := hooked(t); aboutTimeWait(names) != 3 {
		t.Fatalf("attached for TIME_WAIT: %v", names)
	}
	w.stop(t)
	w = startWatch(t, "--netns", ns.Path(), "--no-timewait")
	if names := hooked(t); aboutTimeWait(names) != 0 || len(names) < 2 {
		t.Fatalf("attached with --no-timewait: %v", names)
	}
	if err := ns.Do(func() error { return connections(1, 1) }); err != nil {
		t.Fatal(err)
	}
	closed := false
	for _, r := range w.wait(t, 12, func(*row) bool { return true }) {
		if r.From == "TIME_WAIT" || r.To == "TIME_WAIT" {
			t.Errorf("row %s", r.change())
		}
		if r.change() == "FIN_WAIT2→CLOSE" {
			closed = r.Cause == nil && r.InState != nil
		}
	}
	if !closed {
		t.Error("no FIN_WAIT2→CLOSE without a cause")
	}
}
