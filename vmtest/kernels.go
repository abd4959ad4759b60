// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// kernel is one line of the support statement: what is promised there and what
// must be chosen there.
type kernel struct {
	name    string // as KERNELS and the results have it
	arch    string // GOARCH
	suites  []string
	pkg     string // depends on the newest kernel of those suites
	hz      int
	cpu     string // of the concurrent lane; a QEMU model
	accept  string // what must see accept() and TIME_WAIT: fexit (and fentry), or none (but timers)
	lacks   string // the doctor check that must fail; no rows are promised then
	preempt bool   // may preempt BPF programs: a few accepts under load are counted as not seen
	tw      int    // seconds of TIME_WAIT, if not 60
	promise string
}

// Names of what sees accept() and TIME_WAIT, for AFTERFIN_TEST_ACCEPT.
const (
	acceptFexit = "fexit"
	acceptNone  = "none"
)

// hooks are the words for them in the table of results.
var hooks = map[string]string{acceptFexit: "fexit, fentry", acceptNone: "timers"}

// kernels is the matrix: afterfin is tested on these.
//
// The CPU is old on purpose: with newer models the kernel patches itself more, and
// TCG sometimes trips over that. 6.12 double-faulted near cmpxchg16b in 3 of 35
// starts on two CPUs, so it goes without; from 7.x on the socket storage of BPF
// needs that instruction.
var kernels = []kernel{
	{"6.1", "amd64", []string{"bookworm", "bookworm-security"}, "linux-image-cloud-amd64", 250, "Nehalem,-cx16", acceptFexit, "", false, 0, "everything"},
	{"6.12", "amd64", []string{"trixie", "trixie-security"}, "linux-image-cloud-amd64", 250, "Nehalem,-cx16", acceptFexit, "", false, 0, "everything"},
	{"7.x", "amd64", []string{"trixie-backports"}, "linux-image-cloud-amd64", 250, "Nehalem", acceptFexit, "", true, 0, "everything"},
	{"6.1-arm64", "arm64", []string{"bookworm", "bookworm-security"}, "linux-image-cloud-arm64", 250, "cortex-a72", acceptNone, "", false, 0, "everything but who accepted, and restarts of 2MSL"},
	{"6.12-arm64", "arm64", []string{"trixie", "trixie-security"}, "linux-image-cloud-arm64", 250, "cortex-a72", acceptFexit, "", false, 0, "everything"},
	{"5.10", "amd64", []string{"bullseye", "bullseye-security"}, "linux-image-cloud-amd64", 250, "Nehalem,-cx16", acceptNone, "tp_btf", false, 0, "leaks, assert by polling, timewait and ports --sample 0, lab --no-bpf; for the rest doctor says which feature is missing, exit 5"},
}

// built are kernels that no distribution has, made by vmtest/linux/build (make kernels): to
// show that HZ and the length of TIME_WAIT are measured and not assumed.
var built = []kernel{
	{name: "hz100", arch: "amd64", hz: 100, cpu: "Nehalem,-cx16", accept: acceptFexit},
	{name: "hz1000", arch: "amd64", hz: 1000, cpu: "Nehalem,-cx16", accept: acceptFexit},
	{name: "tw15", arch: "amd64", hz: 250, cpu: "Nehalem,-cx16", accept: acceptFexit, tw: 15},
}

// lane is a way to run a guest.
type lane struct {
	name  string
	cpus  int
	boot  time.Duration // wall time until init speaks
	limit time.Duration // wall time that a guest may take
	skip  string        // -test.skip
}

// The two lanes. Virtual time skips what is idle and comes out the same every
// run, but has one CPU; the concurrent one has two that really run at once, and
// real time.
//
// What one lane skips the other runs: load wants two CPUs, and what is only about
// hooks, one process's ways to end, or waiting gains nothing from them. The limit is
// for a guest that hangs; one that shares two cores with others took 5 minutes. A
// kernel that starts at all gets to our init in some 5 seconds.
var lanes = []lane{
	{"virtual", 1, 3 * time.Minute, 15 * time.Minute, "^TestFlatOut"},
	{"concurrent", 2, 3 * time.Minute, 15 * time.Minute, "^(TestWithoutFexit|TestTimeWait.*|TestOverflow|TestScripts|TestNothingLeaks|" +
		"TestStopWithBacklog|TestBlockedReader|TestReaderGoesAway|TestInterrupted|TestPrivileges|TestFewPrivileges|TestMissingFeature|" +
		"TestUserNamespace|TestQuickACK.*|TestPeer.*|TestRun|TestAssert.*|TestLeakAges|TestMSL.*|TestLab.*|TestPorts.*|TestAdvise.*)$"},
}

// packages have their tests run in every guest.
var packages = []string{
	"cmd/afterfin", "internal/tracer", "internal/sockdiag", "internal/netns", "internal/lab", "internal/feed", "internal/doctor",
	"internal/owner", "internal/survey",
}

// withoutTracing are those of them that need no BPF programs, for kernels that
// lack what the programs need.
var withoutTracing = []string{"cmd/afterfin", "internal/sockdiag", "internal/netns", "internal/lab", "internal/feed", "internal/owner", "internal/survey"}

// specimenDir is where a guest has the C programs of internal/specimen.
const specimenDir = "/specimen"

// guestEnv is what the tests are told about the guest.
func (k *kernel) guestEnv(l *lane) []string {
	env := []string{
		"AFTERFIN_TEST_ACCEPT=" + k.accept,
		// A guest has 1 GB and runs many times slower than its host: the load is
		// made of this many connections for each of two threads, 100,000 elsewhere.
		"AFTERFIN_TEST_CONNECTIONS=3000",
		"AFTERFIN_TEST_SPECIMEN=" + specimenDir,
	}
	// One CPU is kept busy, and none in virtual time: that would leave no idle time to skip.
	env = append(env, fmt.Sprintf("AFTERFIN_TEST_NOISE=%d", l.cpus-1))
	if l.cpus > 1 { // in real time an emulated CPU may come late to its tick, and jiffies stand still
		env = append(env, "AFTERFIN_TEST_LATE_TICKS=3")
		// Nor is it held up only between its programs: one that walks all descriptors holds a file
		// meanwhile, whose close() then takes effect when it goes on.
		env = append(env, "AFTERFIN_TEST_HELD_UP=50")
	}
	if l.cpus == 1 {
		env = append(env, "AFTERFIN_TEST_VIRTUAL=1")
	}
	if k.preempt {
		env = append(env, "AFTERFIN_TEST_PREEMPTS=1")
	}
	if k.tw != 0 {
		env = append(env, fmt.Sprintf("AFTERFIN_TEST_TIMEWAIT=%d", k.tw))
	}
	if k.lacks != "" {
		env = append(env, "AFTERFIN_TEST_LACKS="+k.lacks)
	}
	return env
}

// tested are the packages of a kernel, and the tests of cmd/afterfin if not all.
func (k *kernel) tested() []string {
	if k.lacks != "" {
		return withoutTracing
	}
	return packages
}

// only gives a pattern for the tests of a package that make sense without
// tracing; empty for all.
func (k *kernel) only(pkg string) string {
	if k.lacks != "" && pkg == "cmd/afterfin" {
		return "^(TestKernelPromise|TestLeaks|TestLeaksFailOver|TestLeaksUnprivileged|TestAssertPolling|TestAssertUnprivileged|TestTimeWaitNow|TestPortsNow|TestLab)$"
	}
	return ""
}

// aboutUs are tests of what a command does with its output, its children, signals and words, the controls of
// lab, and two of us side by side. To run them on one kernel is enough: on the first of the matrix.
const aboutUs = "^(TestScripts|TestAssert.*|TestStopWithBacklog|TestBlockedReader|TestReaderGoesAway|TestInterrupted|TestTimeWaitCountedFromBefore|TestAdviseCommand|TestLabControl|TestLabInterrupted|TestFlatOutBesideAnother)$"

// skip gives what this guest leaves to others. A test that was asked for by name (pattern)
// runs wherever it can.
func (j *job) skip(pattern string) string {
	if pattern != "" || j.kernel.lacks != "" || j.kernel.name == kernels[0].name {
		return j.lane.skip
	}
	return j.lane.skip + "|" + aboutUs
}

// choose picks kernels by their names, separated by commas; the whole matrix without names.
// A name without an architecture stands for amd64.
func choose(names string) ([]kernel, error) {
	if names == "" {
		return kernels, nil
	}
	var chosen []kernel
	for name := range strings.SplitSeq(names, ",") {
		found := false
		for _, k := range slices.Concat(kernels, built) {
			if k.name == strings.TrimSpace(name) {
				chosen, found = append(chosen, k), true
			}
		}
		if !found {
			return nil, fmt.Errorf("kernel %q is not in the matrix: %s; nor built by make kernels: %s", name,
				strings.Join(namesOf(kernels), ", "), strings.Join(namesOf(built), ", "))
		}
	}
	return chosen, nil
}

func namesOf(kernels []kernel) []string {
	var names []string
	for _, k := range kernels {
		names = append(names, k.name)
	}
	return names
}
