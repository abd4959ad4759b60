// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
)

// gates holds the medians against what afterfin is to reach: at the gate, and better at the aim.
func gates(w io.Writer, results map[string]*result, idle float64) {
	row := func(what string, value, gate, aim float64, format string, more bool) {
		verdict := "falls short"
		reaches := func(limit float64) bool { return value == limit || value > limit == more }
		if reaches(aim) {
			verdict = "reaches the aim"
		} else if reaches(gate) {
			verdict = "passes"
		}
		sign := "at most"
		if more {
			sign = "at least"
		}
		fmt.Fprintf(w, "| %s | "+format+" | %s "+format+" | "+format+" | %s |\n", what, value, sign, gate, aim, verdict)
	}
	measured := func(names ...string) bool {
		for _, name := range names {
			if r := results[name]; r == nil || len(r.kept) == 0 {
				return false
			}
		}
		return true
	}
	kept := func(name string) float64 { return summarize(results[name].kept).median }
	added := func(name string) float64 { return summarize(results[name].added).median }
	own := func(name string) float64 { return summarize(results[name].ownCPU).median }

	fmt.Fprintf(w, "\n### What is to be reached\n\n| | measured | gate | aim | |\n|---|---:|---:|---:|---|\n")
	if measured(nameWatch, nameTCPStates) {
		row(fmt.Sprintf("throughput kept, `watch` to tcpstates (a tracer without any cost: %.2f)", 1/kept(nameTCPStates)), kept(nameWatch)/kept(nameTCPStates), 4.5, 6.5, "%.2f", true)
		row("CPU added to a connection, tcpstates to `watch`", added(nameTCPStates)/added(nameWatch), 12, 40, "%.1f", true)
		row("own CPU, tcpstates to `watch`", own(nameTCPStates)/own(nameWatch), 8, 30, "%.1f", true)
	}
	if measured(nameWatch, namePerf) {
		row("own CPU, perf to `watch`", own(namePerf)/own(nameWatch), 8, 15, "%.1f", true)
		row("throughput kept, `watch` to perf record", kept(nameWatch)/kept(namePerf), 0.95, 1.05, "%.2f", true)
	}
	if measured(nameWatch, nameNoTimeWait, nameTimeWait) {
		row("throughput kept by `watch`", kept(nameWatch), 0.75, 0.90, "%.2f", true)
		row("throughput kept by `watch --no-timewait`", kept(nameNoTimeWait), 0.82, 0.95, "%.2f", true)
		row("throughput kept by `timewait`", kept(nameTimeWait), 0.90, 0.97, "%.2f", true)
		row("`watch` is ready after, ms", summarize(results[nameWatch].ready).median, 200, 80, "%.0f", false)
		row("RSS of `watch` flat out, MiB", summarize(results[nameWatch].rss).median, 48, 20, "%.0f", false)
	}
	row("`watch` idle, ms of CPU a second", idle, 2, 2, "%.1f", false)
}
