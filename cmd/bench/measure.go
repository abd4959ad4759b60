// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// result is what was measured of a subject, a value for each round.
type result struct {
	subject *subject
	kept    []float64 // throughput, 1 is that of the load alone just before
	added   []float64 // µs of CPU that the load takes more for each connection
	ownCPU  []float64 // s for each million transitions
	ready   []float64 // ms
	rss     []float64 // MiB
	maps    []float64 // MiB
	lines   []float64 // for each transition
	failed  error
}

// costs measures all subjects, in rounds.
func (o *options) costs(progress io.Writer, dir string) (map[string]*result, error) {
	results := make(map[string]*result)
	var chosen []*subject
	for _, s := range subjects(o.program) {
		if strings.Contains(s.name, o.only) {
			results[s.name] = &result{subject: &s}
			chosen = append(chosen, &s)
		}
	}
	flatOut := plan{Kind: "client", Connections: o.connections}
	for round := range o.rounds {
		for i := range chosen {
			s := chosen[i]
			if round%2 == 1 { // who comes first is not always the same
				s = chosen[len(chosen)-1-i]
			}
			r := results[s.name]
			if r.failed != nil {
				continue
			}
			fmt.Fprintf(progress, "round %d of %d: %s\n", round+1, o.rounds, s.name)
			if err := r.measure(dir, flatOut); err != nil {
				if s.pkg == "" {
					return nil, err
				}
				r.failed = err
				fmt.Fprintf(progress, "%s is left out: %v\n", s.name, err)
			}
		}
	}
	return results, nil
}

// alone runs a load with nothing beside it.
func alone(p plan) (loaded, error) {
	l, err := startLoad(p)
	if err != nil {
		return loaded{}, err
	}
	done, err := l.run()
	if err != nil {
		l.kill()
		return done, err
	}
	return done, l.end()
}

// measure is one round of one subject: the load alone, then with the subject beside it.
func (r *result) measure(dir string, p plan) error {
	base, err := alone(p)
	if err != nil {
		return err
	}
	tracer, err := start(r.subject, dir)
	if err != nil {
		return err
	}
	defer tracer.kill()
	l, err := startLoad(p)
	if err != nil {
		return err
	}
	defer l.kill()
	before := processCPU(tracer.pid())
	done, err := l.run()
	if err != nil {
		return err
	}
	time.Sleep(200 * time.Millisecond) // what is still on its way to it
	rss, maps := memory(tracer.pid())
	used, written, err := tracer.stop()
	if err != nil {
		return err
	}
	transitions := float64(done.Connections * kinds[p.Kind].transitions)
	r.kept = append(r.kept, base.Wall.Seconds()/done.Wall.Seconds())
	r.added = append(r.added, float64((done.CPU-base.CPU).Nanoseconds())/1e3/float64(done.Connections))
	r.ownCPU = append(r.ownCPU, (used-before).Seconds()/(transitions/1e6))
	r.ready = append(r.ready, float64(tracer.ready.Microseconds())/1e3)
	r.rss, r.maps = append(r.rss, float64(rss)/(1<<20)), append(r.maps, float64(maps)/(1<<20))
	r.lines = append(r.lines, float64(written["\n"])/transitions)
	return nil
}

// idle measures what watch takes on a host where nothing happens, in ms of CPU a second.
func (o *options) idle(progress io.Writer, dir string) (float64, error) {
	const quiet = 10 * time.Second
	fmt.Fprintf(progress, "watch, %v without a connection\n", quiet)
	tracer, err := start(&subjects(o.program)[0], dir)
	if err != nil {
		return 0, err
	}
	defer tracer.kill()
	time.Sleep(time.Second) // what it still does after the start
	before := processCPU(tracer.pid())
	time.Sleep(quiet)
	used := processCPU(tracer.pid()) - before
	_, _, err = tracer.stop()
	return float64(used.Microseconds()) / 1e3 / quiet.Seconds(), err
}
