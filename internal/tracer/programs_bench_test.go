// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"afterfin/internal/event"
	"afterfin/internal/lab"
)

const (
	benchRounds      = 9
	benchConnections = 2000 // in each
)

// BenchmarkPrograms gives the ns of one run of each program, as the kernel counts them while each
// is attached, with nothing else on its hook but what belongs to it: medians of rounds in which all
// of them take part. The kernel's own counting is in all of them, so "above empty" is what is
// theirs.
func BenchmarkPrograms(b *testing.B) {
	runs, err := measured(b)
	if err != nil {
		b.Fatal(err)
	}
	empty := func(hook string) float64 { return runs["empty/"+hook] }
	sum := runs["sum/"+stateHook]
	for _, row := range []struct {
		name, run, hook string
	}{
		{"empty", "empty/" + stateHook, stateHook},
		{"part:read 88 bytes", "read 88 bytes/" + stateHook, stateHook},
		{"part:clock", "clock/" + stateHook, stateHook},
		{"part:socket storage", "socket storage/" + stateHook, stateHook},
		{"part:miss in a hash", "miss in a hash/" + stateHook, stateHook},
		{"part:record", "record/" + stateHook, stateHook},
		{"parts together", "sum/" + stateHook, stateHook},
		{"set_state", "watch/set_state", stateHook},
		{"set_state, no TIME_WAIT", "watch --no-timewait/set_state", stateHook},
		{"set_state, counting", "timewait/set_state", stateHook},
		{"set_state, nothing matches", "nothing matches/set_state", stateHook},
		{"set_state_skipped", "watch/set_state_skipped", stateHook},
		{"set_state_skipped, nothing matches", "nothing matches/set_state_skipped", stateHook},
		{"empty, timer_start", "empty/timer_start", "timer_start"},
		{"timer_start, others' timers", "timers/timer_start", "timer_start"},
		{"empty, timer_cancel", "empty/timer_cancel", "timer_cancel"},
		{"timer_cancel, others' timers", "timers/timer_cancel", "timer_cancel"},
	} {
		b.Run(row.name, func(b *testing.B) {
			ns, ok := runs[row.run]
			if !ok {
				b.Skip("this kernel takes the fentry hooks, so nothing hangs at the timers")
			}
			for b.Loop() {
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(ns, "ns/run")
			b.ReportMetric(ns-empty(row.hook), "ns-above-empty")
			b.ReportMetric(ns/empty(row.hook), "of-empty")
			if row.hook == stateHook {
				b.ReportMetric(ns/sum, "of-parts")
			}
		})
	}
}

// measured plays all rounds, once for all benchmarks of a process.
var medians = struct {
	sync.Once
	runs map[string]float64
	err  error
}{}

func measured(b *testing.B) (map[string]float64, error) {
	medians.Do(func() { medians.runs, medians.err = measureRounds(b) })
	return medians.runs, medians.err
}

func measureRounds(b *testing.B) (map[string]float64, error) {
	stop, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return nil, fmt.Errorf("count the time of programs: %w", err)
	}
	defer stop.Close()
	ns, err := lab.NewNetNS()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	maps, types := mapsOfParts(b), NewTypes()
	all := make(map[string][]float64)
	for range benchRounds {
		for _, p := range parts {
			if p.hook != stateHook { // beside our own, see measureTracer
				continue
			}
			if err := measurePart(ns, &p, maps, all); err != nil {
				return nil, fmt.Errorf("%s at %s: %w", p.name, p.hook, err)
			}
		}
		for name, cfg := range map[string]Config{
			"watch": {}, "watch --no-timewait": {NoTimeWait: true}, "timewait": {Counts: true},
			"nothing matches": {Filter: event.Filter{RemotePorts: []uint16{1}}}, "timers": {},
		} {
			cfg.Types = types
			if err := measureTracer(ns, name, cfg, all); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	runs := make(map[string]float64)
	for name, values := range all {
		slices.Sort(values)
		runs[name] = values[len(values)/2]
	}
	return runs, nil
}

func measurePart(ns *lab.NetNS, p *part, maps map[string]*ebpf.Map, all map[string][]float64) error {
	prog, l, err := p.load(maps)
	if err != nil {
		return err
	}
	defer prog.Close()
	defer l.Close()
	reader, err := ringbuf.NewReader(maps["events"])
	if err != nil {
		return err
	}
	defer reader.Close()
	go drain(reader)
	return during(ns, p.hook != stateHook, map[string]*ebpf.Program{p.name + "/" + p.hook: prog}, all)
}

func drain(reader *ringbuf.Reader) {
	var record ringbuf.Record
	for {
		reader.SetDeadline(time.Now().Add(PollInterval))
		for {
			err := reader.ReadInto(&record)
			if errors.Is(err, ringbuf.ErrClosed) {
				return
			}
			if err != nil { // nothing more now
				break
			}
		}
	}
}

// measureTracer has a tracer attached. Of timers the empty program hangs beside ours: each finds
// the caches as the other does.
func measureTracer(ns *lab.NetNS, name string, cfg Config, all map[string][]float64) error {
	t, err := New(cfg)
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() { // as the feed does
		defer close(done)
		dst := make([]event.Transition, 4096)
		for {
			if _, err := t.Read(dst); err != nil {
				return
			}
		}
	}()
	if cfg.Counts {
		if err := t.StartCounting(); err != nil {
			return err
		}
	}
	programs := make(map[string]*ebpf.Program)
	if name == "timers" {
		for _, p := range parts {
			ours := t.timewait.Programs[p.hook]
			if ours == nil { // fentry does it, or it is no hook of timers
				continue
			}
			empty, l, err := p.load(nil)
			if err != nil {
				return err
			}
			defer empty.Close()
			defer l.Close()
			programs[name+"/"+p.hook], programs["empty/"+p.hook] = ours, empty
		}
	} else {
		programs[name+"/set_state"] = t.coll.Programs["set_state"]
		programs[name+"/set_state_skipped"] = t.coll.Programs["set_state_skipped"]
	}
	err = during(ns, name == "timers", programs, all)
	t.ring.Close()
	<-done
	if closeErr := t.Close(); err == nil {
		err = closeErr
	}
	return err
}

// during runs a load and adds what each program took for a run of it.
func during(ns *lab.NetNS, timers bool, programs map[string]*ebpf.Program, all map[string][]float64) error {
	before := make(map[string]*ebpf.ProgramStats)
	var err error
	for name, p := range programs {
		if before[name], err = p.Stats(); err != nil {
			return err
		}
	}
	if err := ns.Do(func() error { return exercise(timers) }); err != nil {
		return err
	}
	for name, p := range programs {
		after, err := p.Stats()
		if err != nil {
			return err
		}
		if n := after.RunCount - before[name].RunCount; n > 0 {
			all[name] = append(all[name], float64((after.Runtime-before[name].Runtime).Nanoseconds())/float64(n))
		}
	}
	return nil
}

// exercise makes connections that come and go; or, for the timers of others, such as are reset
// and leave no TIME_WAIT.
func exercise(timers bool) error {
	c, err := lab.NewCloser()
	if err != nil {
		return err
	}
	defer c.Close()
	for range benchConnections {
		if !timers {
			_, err = c.Leave()
		} else {
			err = reset(c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func reset(c *lab.Closer) error {
	client, server, err := c.Pair()
	if err != nil {
		return err
	}
	err = unix.SetsockoptLinger(client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	return errors.Join(err, unix.Close(client), unix.Close(server))
}
