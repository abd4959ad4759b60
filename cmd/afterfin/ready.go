// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"afterfin/internal/feed"
	"afterfin/internal/tcp"
	"afterfin/internal/tracer"
	"afterfin/internal/view"
)

// hookNotices tell what the rows of a stream lack on this kernel.
func hookNotices(s feed.Start) []string {
	var lines []string
	for _, h := range s.Hooks {
		if h.Why != "" {
			lines = append(lines, "notice: "+h.Gives+": "+hookNotice(h))
		}
	}
	return lines
}

// readyLines tell what was chosen and what was there. The line that begins with
// "ready" is the last: from it on nothing is missed.
func readyLines(s feed.Start) []string {
	var lines []string
	if s.CallAfter > 0 {
		lines = append(lines, fmt.Sprintf("notice: --exact-owner: one system call (getppid) takes %s, was %s, for every process until afterfin ends",
			view.Duration(s.CallAfter), view.Duration(s.CallBefore)))
	}
	if s.LengthUnknown != nil {
		lines = append(lines, fmt.Sprintf("notice: TIME_WAIT: how long it is on this kernel could not be measured (%v): of those older than afterfin only the time since is told", s.LengthUnknown))
	}
	if s.Unreadable > 0 {
		lines = append(lines, fmt.Sprintf("notice: %d processes or network namespaces could not be entered (that takes CAP_SYS_ADMIN, CAP_SYS_PTRACE and all that such a process may): their existing sockets are not known", s.Unreadable))
	}
	var hooks []string
	for _, h := range s.Hooks {
		if h.Program != "" {
			hooks = append(hooks, h.Program)
		}
	}
	return append(lines, fmt.Sprintf("ready in %s: %s; found %s in %d netns",
		view.Duration(s.Took), strings.Join(hooks, ", "), sockets(s), s.NetNS))
}

func hookNotice(h tracer.Hook) string {
	switch {
	case h.Gives == tracer.GivesTimeWait && h.Program != "":
		return "by " + h.Program + " (" + h.Why + "), some 50 ns for each kernel timer; restarts are not counted"
	case h.Program != "":
		return "by " + h.Program + " (" + h.Why + ")"
	case h.Gives == tracer.GivesTimeWait:
		return "not seen (" + h.Why + "); rows end with FIN_WAIT2→CLOSE where the kernel hands over to a mini-socket"
	}
	return "not seen (" + h.Why + "); rows say listen until the descriptor or the close tells, or use --exact-owner"
}

func sockets(s feed.Start) string {
	var parts []string
	for _, state := range slices.Sorted(maps.Keys(s.States)) {
		part := fmt.Sprintf("%s %s", state, view.Thousands(uint64(s.States[state])))
		if state == tcp.TimeWait {
			part += fmt.Sprintf(" (%d s to go)", int(s.TimeWaitLeft.Seconds()))
		}
		parts = append(parts, part)
	}
	if parts == nil {
		return "no sockets"
	}
	return strings.Join(parts, ", ")
}
