// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"afterfin/internal/advice"
	"afterfin/internal/clock"
	"afterfin/internal/event"
	"afterfin/internal/feed"
	"afterfin/internal/netns"
	"afterfin/internal/owner"
	"afterfin/internal/ports"
	"afterfin/internal/survey"
	"afterfin/internal/timewait"
	"afterfin/internal/tracer"
	"afterfin/internal/view"
)

func portsCommand(e env) *cobra.Command {
	var (
		filter filterFlags
		output string
		sample time.Duration
		socket string
	)
	cmd := &cobra.Command{
		Use:   "ports",
		Short: "Say which destinations run out of ephemeral ports, above which rate, and who uses them up",
		Long: "For each source address and destination: how many ports of ip_local_port_range it has in use, by\n" +
			"the kernel's own rules, in which states, and how many are left. After --sample: the rate of\n" +
			"connections against the rate above which ports run out (ports / 2MSL, as measured), when that will\n" +
			"be, who makes them, and which connect() failed with EADDRNOTAVAIL. Then listeners that could not be\n" +
			"bound again. A bind() that fails shows nowhere in the kernel: it is not counted. --sample 0 only\n" +
			"tells what is there: without BPF, and without root; then it is not known whose port bind() chose,\n" +
			"nor what tcp_tw_reuse would take.",
		Example: "  afterfin ports\n  afterfin ports -o json | jq '.destinations[] | select(.exhausted_in_ns != null)'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if sample < 0 {
				return usage("--sample: %v is negative", sample)
			}
			cfg, err := filter.parse()
			if err != nil {
				return err
			}
			cfg.Counts, cfg.Ports = true, true
			if cmd.Flags().Changed("sample") {
				socket = ""
			}
			return (&porter{env: e, cfg: cfg, output: output, sample: sample, recorder: socket}).run()
		},
	}
	addOutput(cmd, &output)
	filter.registerDestination(cmd.Flags())
	cmd.Flags().DurationVar(&sample, "sample", 10*time.Second, "look on for this long; 0: tell only what is there")
	addRecorder(cmd.Flags(), &socket)
	return cmd
}

// porter is one run of ports.
type porter struct {
	env    env
	cfg    feed.Config
	output string
	sample time.Duration
	// recorder is the socket of the flight recorder to ask first; empty: none.
	recorder string
	missed   error // why that was no help

	begin  time.Duration // CLOCK_MONOTONIC when the counting began
	peaks  ports.Peaks
	report view.Ports
	counts *event.Counts // of TIME_WAIT in the sample; nil without one

	all         bool // look at TIME_WAIT as such, too
	before, now *timewait.Now
}

func (p *porter) run() error {
	if p.recorder != "" {
		if p.missed = p.recorded(); p.missed == nil {
			return p.write()
		}
	}
	now := func() error { return nil }
	if p.output == "text" {
		now = p.write
	}
	if err := p.collect(now); err != nil {
		return err
	}
	return p.write()
}

// collect fills the report: with what is there, on which it calls now, and with what the sample
// shows, if there is one.
func (p *porter) collect(now func() error) error {
	if p.sample == 0 {
		return p.look(nil, ports.Look{})
	}
	f, begin, err := beginCounting(p.env, p.cfg, func(f *feed.Feed) error {
		unrecorded(p.env, p.missed, fmt.Sprintf("counting for %v", p.sample))
		return p.look(f, ports.Look{})
	})
	if err != nil {
		return err
	}
	defer f.Close()
	p.begin = begin
	if err := now(); err != nil {
		return err
	}
	l, err := p.follow(f)
	if err != nil {
		return &failure{code: exitRuntime, err: err}
	}
	return p.look(f, l)
}

// follow lets the kernel count for as long as the sample takes, and gives what the next look is
// to go by.
func (p *porter) follow(f *feed.Feed) (l ports.Look, err error) {
	tr := f.Tracer()
	for clock.Mono()-p.begin < p.sample && p.env.ctx.Err() == nil {
		if _, _, err := f.Next(); err != nil { // nothing is told; this waits, and finds silent moves
			return l, err
		}
		if now := clock.Mono(); p.peaks.Due(now) {
			callers, err := tr.Callers()
			if err != nil {
				return l, err
			}
			p.peaks.See(callers, now)
		}
	}
	if err := f.LookForMoves(); err != nil {
		return l, err
	}
	if err := tr.StopCounting(); err != nil {
		return l, err
	}
	l = ports.Look{While: clock.Mono() - p.begin, Peaks: &p.peaks}
	if l.Callers, err = tr.Callers(); err != nil {
		return l, err
	}
	if p.counts, err = tr.Counts(); err != nil {
		return l, err
	}
	if p.report.Lost, err = f.Lost(); err != nil {
		return l, err
	}
	p.report.Took = l.While
	return l, nil
}

// look takes in what is there now; f is nil without BPF.
func (p *porter) look(f *feed.Feed, l ports.Look) error {
	only := netns.NS{Inode: p.cfg.Filter.NetNS, Path: p.cfg.NetNSPath}
	l.Clock = ports.Clock{Wheel: timewait.Wheel{Tick: clock.Jiffy()}}
	var (
		ask   func(func(*event.Port)) error
		bound []event.Port
		err   error
	)
	if f != nil {
		tr := f.Tracer()
		if l.Clock.Length, err = tr.TimeWaitLength(); err != nil {
			return &failure{code: exitRuntime, err: err}
		}
		if l.Holders, bound, err = holding(tr); err != nil {
			return &failure{code: exitRuntime, err: err}
		}
		ask = tr.Ports
	}
	p.report.Measured = l.Clock.Length > 0
	if !p.report.Measured {
		l.Clock.Length = timewait.Nominal
	}
	p.report.Length, p.report.Wheel = l.Clock.Length, l.Clock.Wheel
	spaces, unreachable, err := survey.Ports(only, l, ask, bound)
	if err != nil {
		return lookFailed(err)
	}
	if p.all {
		p.before = p.now
		if p.now, err = survey.TimeWaits(only, &p.cfg.Filter); err != nil {
			return &failure{code: exitRuntime, err: err}
		}
	}
	p.take(spaces, unreachable)
	return nil
}

// take makes the report of what was found.
func (p *porter) take(spaces []*ports.Space, unreachable int) {
	p.report.Spaces, p.report.Unreachable, p.report.Advice = spaces, unreachable, nil
	for _, s := range spaces {
		s.Destinations = slices.DeleteFunc(s.Destinations, func(d *ports.Destination) bool { return !p.wanted(d) })
		p.report.Advice = append(p.report.Advice, advice.For(p.facts(s))...)
	}
	p.report.Processes = usersAlive(spaces)
}

// facts are what a report on ports knows of a netns.
func (p *porter) facts(s *ports.Space) *advice.Facts {
	f := &advice.Facts{Where: view.SpaceName(s.Path, s.NetNS), Rules: &s.Rules, Listening: s.Outside}
	for _, d := range s.Destinations {
		if fc := d.Forecast(&s.Rules, p.report.Mean()); advice.InNeed(d, &fc) {
			f.Needs = append(f.Needs, advice.Need{Destination: d, Forecast: fc})
		}
	}
	return f
}

// holding asks who holds which socket, and which sockets are bound and nothing else.
func holding(tr *tracer.Tracer) (map[uint64]event.Owner, []event.Port, error) {
	holders := make(map[uint64]event.Owner)
	if err := tr.Holders(func(h *event.Holder) {
		if _, ok := holders[h.Cookie]; !ok { // of several the first
			holders[h.Cookie] = h.Owner
		}
	}); err != nil {
		return nil, nil, err
	}
	var bound []event.Port
	seen := make(map[uint64]bool)
	err := tr.BoundPorts(func(b *event.Port) {
		if !seen[b.Cookie] {
			seen[b.Cookie] = true
			bound = append(bound, *b)
		}
	})
	return holders, bound, err
}

// wanted applies the filters; who binds first has no destination to filter by.
func (p *porter) wanted(d *ports.Destination) bool {
	f := &p.cfg.Filter
	return (f.Family == 0 || (f.Family == 4) == d.Source.Is4()) &&
		(len(f.RemotePorts) == 0 || slices.Contains(f.RemotePorts, d.Remote.Port()))
}

// usersAlive looks up unit and container of those who use the most.
func usersAlive(spaces []*ports.Space) map[uint32]*owner.Process {
	found := make(map[uint32]*owner.Process)
	for _, s := range spaces {
		for _, d := range s.Destinations {
			for i := range min(3, len(d.Owners)) {
				o := &d.Owners[i].Owner
				if o.PID == 0 || found[o.PID] != nil || len(found) >= namedMakers {
					continue
				}
				p, err := owner.ProcessOf(int(o.PID))
				if err == nil && (p.Start-o.Start).Abs() <= owner.ClockTick { // else it has ended, or may not be read
					found[o.PID] = p
				}
			}
		}
	}
	return found
}

func (p *porter) write() error {
	var err error
	if p.output == "json" {
		err = view.WritePortsJSON(p.env.stdout, &p.report, time.Now())
	} else {
		err = view.WritePorts(p.env.stdout, &p.report)
	}
	if err = pipeGone(err); err != nil {
		return &failure{code: exitRuntime, err: err}
	}
	return nil
}
