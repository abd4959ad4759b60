// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// What vmtest tells the tests about the kernel that they run on (vmtest/kernels.go
// is the one place that sets these). On any other machine all are empty.
const (
	wantAccept      = "AFTERFIN_TEST_ACCEPT"      // what must see accept(): fexit, or none
	preempts        = "AFTERFIN_TEST_PREEMPTS"    // 1: programs may be preempted, and then skipped for others
	wantLacks       = "AFTERFIN_TEST_LACKS"       // the doctor check that must fail, with exit code 5
	noiseSize       = "AFTERFIN_TEST_NOISE"       // busy processes beside the scenes, 4 without
	loadConnections = "AFTERFIN_TEST_CONNECTIONS" // of each thread under load, 100,000 without
)

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

// checkHooks: a kernel that is known to allow a hook must get it, and one that is
// known to refuse it must be told so. want is as in AFTERFIN_TEST_ACCEPT; empty:
// nothing is known.
func checkHooks(t *testing.T, w *watcher, want string) {
	t.Helper()
	const fexit = "fexit/inet_csk_accept"
	if want == "fexit" && !w.hooked(fexit) || want == "none" && w.hooked(fexit) {
		t.Fatalf("[%s] accept must be seen by %s: %s", w.name, want, w.stderr)
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
