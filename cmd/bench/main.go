// SPDX-License-Identifier: Apache-2.0

// Command bench measures what tracing costs: afterfin and its rivals beside the same load, in rounds that alternate, so
// that each figure is a ratio of neighbours in time. It needs root. make bench runs it.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
)

func main() {
	lab.Main()
	if len(os.Args) == 3 && os.Args[1] == "load" {
		n, err := strconv.Atoi(os.Args[2])
		if err == nil {
			err = loadProcess(n)
		}
		exit(err)
	}
	exit(run(os.Stdout, os.Stderr, os.Args[1:]))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// result is what was measured of a subject, a value for each round.
type result struct {
	subject *subject
	rate    []float64 // connections a second
	loadCPU []float64 // µs for each connection
	ownCPU  []float64 // s for each million transitions
	ready   []float64 // ms
	rss     []float64 // MB
	maps    []float64 // MB
	lines   []float64 // for each connection
	failed  error
}

func run(stdout, stderr io.Writer, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	program := flags.String("program", "bin/afterfin", "our own program")
	rounds := flags.Int("rounds", 5, "rounds")
	connections := flags.Int("connections", 100_000, "connections in each")
	only := flags.String("only", "", "only subjects whose name has this in it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("tracing needs root: sudo make bench")
	}
	results := []*result{{subject: &bare}}
	for _, s := range subjects(*program) {
		if strings.Contains(s.name, *only) {
			results = append(results, &result{subject: &s})
		}
	}
	dir, err := os.MkdirTemp("", "afterfin-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for round := range *rounds {
		for _, r := range results {
			if r.failed != nil {
				continue
			}
			fmt.Fprintf(stderr, "round %d of %d: %s\n", round+1, *rounds, r.subject.name)
			if err := r.measure(dir, *connections); err != nil {
				if r.subject.pkg == "" {
					return err
				}
				r.failed = err
				fmt.Fprintf(stderr, "%s is left out: %v\n", r.subject.name, err)
			}
		}
	}
	return table(stdout, results)
}

// measure is one round of one subject.
func (r *result) measure(dir string, connections int) error {
	var tracer *running
	var err error
	if r.subject != &bare {
		if tracer, err = start(r.subject, dir); err != nil {
			return err
		}
		defer tracer.cmd.Process.Kill()
	}
	load := exec.Command("/proc/self/exe", "load", strconv.Itoa(connections))
	load.Stderr = os.Stderr
	load.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	keep, err := load.StdinPipe()
	if err != nil {
		return err
	}
	out, err := load.StdoutPipe()
	if err != nil {
		return err
	}
	if err := load.Start(); err != nil {
		return err
	}
	var done loaded
	if err := json.NewDecoder(out).Decode(&done); err != nil {
		load.Process.Kill()
		load.Wait()
		return fmt.Errorf("the load: %w", err)
	}
	n := float64(done.Connections)
	r.rate = append(r.rate, n/done.Wall.Seconds())
	r.loadCPU = append(r.loadCPU, float64(done.CPU.Nanoseconds())/1e3/n)
	if tracer != nil {
		time.Sleep(200 * time.Millisecond) // what is still on its way to it
		rss, maps := memory(tracer.cmd.Process.Pid)
		cpu, lines, err := tracer.stop()
		if err != nil {
			return err
		}
		r.ready = append(r.ready, float64(tracer.ready.Microseconds())/1e3)
		r.rss, r.maps = append(r.rss, float64(rss)/1e6), append(r.maps, float64(maps)/1e6)
		r.ownCPU = append(r.ownCPU, cpu.Seconds()/(n*transitions/1e6))
		r.lines = append(r.lines, float64(lines)/n)
	}
	keep.Close()
	return load.Wait()
}

func table(w io.Writer, results []*result) error {
	base := results[0]
	fmt.Fprintf(w, "| beside the load | throughput kept | added µs per connection | own CPU s per million transitions | RSS MB | maps MB | ready ms | lines per connection |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range results[1:] {
		if r.failed != nil {
			fmt.Fprintf(w, "| %s | does not run here | | | | | | |\n", r.subject.name)
			continue
		}
		kept := summarize(paired(r.rate, base.rate))
		added := summarize(differences(r.loadCPU, base.loadCPU))
		own := summarize(r.ownCPU)
		fmt.Fprintf(w, "| %s | %.2f (%.2f to %.2f) | %.1f (%.1f to %.1f) | %.3f (%.3f to %.3f) | %.0f | %.0f | %.0f | %.2f |\n", r.subject.name,
			kept.median, kept.min, kept.max, added.median, added.min, added.max, own.median, own.min, own.max,
			summarize(r.rss).median, summarize(r.maps).median, summarize(r.ready).median, summarize(r.lines).median)
	}
	alone := summarize(base.rate)
	_, err := fmt.Fprintf(w, "\nAlone: %.0f connections/s (%.0f to %.0f), %.1f µs of CPU each.\n", alone.median, alone.min, alone.max, summarize(base.loadCPU).median)
	return err
}
