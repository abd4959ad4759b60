// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machine says what the figures are of.
func machine() string {
	var name unix.Utsname
	_ = unix.Uname(&name) // never fails with a place to write to
	release, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), "-")
	model := "unknown CPU"
	raw, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(raw)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			model = strings.TrimSpace(value)
		}
	}
	virtual := ""
	if strings.Contains(string(raw), " hypervisor") {
		virtual = ", virtual"
	}
	return fmt.Sprintf("\nLinux %s %s, %d CPUs (%s%s).", release, runtime.GOARCH, runtime.NumCPU(), model, virtual)
}

// costTable has a row for each subject: medians, and the least and the most.
func costTable(w io.Writer, results map[string]*result) {
	fmt.Fprintf(w, "\n### Beside a load that runs flat out\n\n"+
		"| beside the load | throughput kept | CPU that it adds to a connection, µs | own CPU for a million transitions, s | RSS, MiB | BPF maps, MiB | ready, ms | lines for each transition |\n"+
		"|---|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, s := range subjects("") { // in their order
		r := results[s.name]
		if r == nil {
			continue
		}
		if r.failed != nil || len(r.kept) == 0 {
			fmt.Fprintf(w, "| %s | does not run here | | | | | | |\n", s.name)
			continue
		}
		lines := "-"
		if s.lines {
			lines = summarize(r.lines).text("%.3f")
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %.0f | %.0f | %.0f | %s |\n", s.name, summarize(r.kept).text("%.2f"), summarize(r.added).text("%.1f"),
			summarize(r.ownCPU).text("%.2f"), summarize(r.rss).median, summarize(r.maps).median, summarize(r.ready).median, lines)
	}
}

// kindTable has other loads than that one, each with watch beside it.
func (o *options) kindTable(w, progress io.Writer, dir string) error {
	fmt.Fprintf(w, "\n### `watch`, text to a file, beside other loads\n\n"+
		"| connections | throughput kept | CPU added, µs | own CPU for a million transitions, s | lines for each transition |\n|---|---:|---:|---:|---:|\n")
	s := subjects(o.program)[0]
	for _, row := range []struct {
		name string
		plan plan
	}{
		{"IPv6, the client closes first", plan{Kind: "client", IPv6: true}},
		{"the server closes first", plan{Kind: "server"}},
		{"reset by the client", plan{Kind: "reset"}},
		{"never closed by the server", plan{Kind: "leak"}},
		{"5,000 a second", plan{Kind: "client", Rate: 5000}},
	} {
		fmt.Fprintf(progress, "watch beside: %s\n", row.name)
		row.plan.Connections = o.connections / 2
		if row.plan.Rate > 0 || row.plan.Kind == "leak" { // what is held is limited by descriptors, or by time
			row.plan.Connections = min(row.plan.Connections, 15_000)
		}
		r := result{subject: &s}
		for range min(o.rounds, 3) {
			if err := r.measure(dir, row.plan); err != nil {
				return err
			}
		}
		lines := summarize(r.lines).text("%.3f")
		if row.plan.Kind == "leak" {
			lines = "-" // its last transitions come when it is over
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s |\n", row.name, summarize(r.kept).text("%.2f"), summarize(r.added).text("%.1f"),
			summarize(r.ownCPU).text("%.2f"), lines)
	}
	return nil
}
