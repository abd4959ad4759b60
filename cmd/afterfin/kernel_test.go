// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What vmtest tells the tests about the kernel that they run on (vmtest/kernels.go
// is the one place that sets these). On any other machine all are empty.
const (
	wantAccept      = "AFTERFIN_TEST_ACCEPT"      // what must see accept() and TIME_WAIT: fexit (and fentry), or none
	lateTicks       = "AFTERFIN_TEST_LATE_TICKS"  // by how many jiffies the kernel's clock of timers may lag
	heldUp          = "AFTERFIN_TEST_HELD_UP"     // by how many ms a walk over all descriptors may delay what a close() does
	preempts        = "AFTERFIN_TEST_PREEMPTS"    // 1: programs may be preempted, and then skipped for others
	wantLacks       = "AFTERFIN_TEST_LACKS"       // the doctor check that must fail, with exit code 5
	noiseSize       = "AFTERFIN_TEST_NOISE"       // busy processes beside the scenes, 4 without
	loadConnections = "AFTERFIN_TEST_CONNECTIONS" // of each thread under load, 100,000 without
	virtualTime     = "AFTERFIN_TEST_VIRTUAL"     // 1: time goes on as instructions do, so nothing comes late
	timeWaitLength  = "AFTERFIN_TEST_TIMEWAIT"    // seconds of a kernel that was built with another TCP_TIMEWAIT_LEN
	specimenDir     = "AFTERFIN_TEST_SPECIMEN"    // where the C programs are already built; elsewhere a test builds them
)

const fentryTimeWait = "fentry/inet_twsk_kill"

// knob reads a number from the environment.
func knob(t *testing.T, name string, without int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return without
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// jiffy is the length of this kernel's tick.
func jiffy(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// checkHooks: a kernel that is known to allow a hook must get it, and one that is
// known to refuse it must be told so. want is as in AFTERFIN_TEST_ACCEPT; empty:
// nothing is known.
func checkHooks(t *testing.T, w *watcher, want string) {
	t.Helper()
	for _, hook := range []string{"fexit/inet_csk_accept", fentryTimeWait} {
		if want == "fexit" && !w.hooked(hook) || want == "none" && w.hooked(hook) {
			t.Fatalf("[%s] %s: want %s: %s", w.name, hook, want, w.stderr)
		}
	}
	if !w.hooked(fentryTimeWait) && !w.hooked("tp_btf/timer_start") {
		t.Fatalf("[%s] TIME_WAIT is not seen: %s", w.name, w.stderr)
	}
}

// TestKernelPromise: doctor and watch agree with what is promised for this kernel.
// A kernel without a promise must be good for everything necessary.
func TestKernelPromise(t *testing.T) {
	stdout, stderr, code := runAs(t, nil, "", "doctor")
	lacks := os.Getenv(wantLacks)
	if lacks == "" {
		if code != exitOK {
			t.Errorf("doctor exits %d: %s%s", code, stderr, stdout)
		}
		return
	}
	for _, command := range []string{"doctor", "watch"} {
		_, stderr, code := runAs(t, nil, "", command)
		if code != exitFeature || !strings.HasPrefix(stderr, "error: "+lacks+": ") || !strings.Contains(stderr, "\nhint: ") {
			t.Errorf("%s exits %d, want %d and the name of %s: %s", command, code, exitFeature, lacks, stderr)
		}
	}
}
