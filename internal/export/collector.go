// SPDX-License-Identifier: Apache-2.0

package export

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"afterfin/internal/event"
)

// Options are what a user decides of it.
type Options struct {
	Top          int  // of how many destinations the ports are told, the fullest first
	Destinations bool // with netns, source and destination as labels, of which there is no end
}

// Collector is a prometheus.Collector. It asks for a Snapshot each time; an error of that is one
// of the scrape.
type Collector struct {
	now     func() (*Snapshot, error)
	options Options
}

// NewCollector makes one. now may be called by several goroutines at once.
func NewCollector(now func() (*Snapshot, error), options Options) *Collector {
	return &Collector{now, options}
}

// family is one metric, as promlint wants its name.
func family(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("afterfin_"+name, help, labels, nil)
}

var (
	transitions = family("transitions_total", "Changes of a TCP socket's state, TIME_WAIT included.", "from", "to")
	lost        = family("lost_total", "What the kernel side could not tell or keep, by cause.", "cause")
	hooks       = family("hook_info", "What is attached: 1, and program is empty where this kernel allows nothing.", "gives", "program")

	twSockets   = family("time_wait_sockets", "Sockets in TIME_WAIT.")
	twOrphans   = family("time_wait_orphan_sockets", "Mini-sockets of orphans in FIN_WAIT2, which count for tcp_max_tw_buckets too.")
	twFill      = family("time_wait_fill_ratio", "Mini-sockets as a part of tcp_max_tw_buckets, in the netns where it is most.")
	twEntered   = family("time_wait_entered_total", "Sockets that came to TIME_WAIT, by the side that they are of.", "side")
	twEnded     = family("time_wait_ended_total", "TIME_WAIT that ended, by cause.", "cause")
	twLength    = family("time_wait_duration_seconds", "How long TIME_WAIT lasted, of those seen from beginning to end.", "end")
	twBound     = family("time_wait_duration_bound_total", "TIME_WAIT that ended and whose beginning was not seen: in no histogram.", "end")
	twRestarts  = family("time_wait_restarts_total", "How often 2MSL began anew. Absent where these hooks do not see it.")
	twOverflows = family("time_wait_overflows_total", "Sockets that got no TIME_WAIT, for tcp_max_tw_buckets or want of memory, in the netns that can be entered.")

	cwSockets = family("close_wait_sockets", "Sockets in CLOSE_WAIT.")
	cwAge     = family("close_wait_age_seconds", "How old the sockets are that are in CLOSE_WAIT now, at least. A look, not a count: do not rate() it.")
	leaked    = family("leaked_sockets", "Sockets that have been in CLOSE_WAIT for long, by the workload that holds them and why.", "workload", "verdict")
	oldest    = family("leaked_socket_age_seconds", "Proven age of the oldest of them.", "workload")
	pooled    = family("pool_like_sockets", "Sockets in CLOSE_WAIT that look like a pool's idle connections; in no leaked_sockets.", "workload")
	deadFDs   = family("dead_fds", "Descriptors whose connection is gone.", "workload")
	emfile    = family("emfile_seconds", "When the first process of a workload that leaks runs out of descriptors, as it grows now. Absent if none does.", "workload")

	portsUsed      = "ports_used"
	portsCapacity  = "ports_capacity"
	portsRate      = "ports_connects_per_second"
	portsMost      = "ports_sustainable_connects_per_second"
	portsExhausted = "ports_exhausted_seconds"
	destinations   = family("ports_destinations", "Destinations that have ports in use.")
	omitted        = family("ports_destinations_omitted", "Destinations beyond those that are told.")
	noPort         = family("connect_no_port_total", "connect() that failed for want of a port (EADDRNOTAVAIL).")

	unreadable  = family("unreadable_processes", "Processes whose descriptors may not be read: what they leak has no workload.")
	unreachable = family("unreachable_netns", "Network namespaces, or processes that may be in one, that cannot be entered: their sockets are not among those counted by a look.")
	lookAt      = family("look_timestamp_seconds", "When the sockets were looked at last.")
	lookTook    = family("look_duration_seconds", "How long that took.")
	mapBytes    = family("bpf_map_bytes", "Kernel memory of the maps.")
	mapEntries  = family("bpf_map_entries", "Entries in those that grow, at the last look; it empties makers, peers and callers.", "map")
	mapLimit    = family("bpf_map_limit", "How many there is room for.", "map")
)

// Describe is part of prometheus.Collector. It describes nothing: which labels the ports have is
// an option.
func (c *Collector) Describe(chan<- *prometheus.Desc) {}

// Collect is part of prometheus.Collector.
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	s, err := c.now()
	if err != nil {
		to <- prometheus.NewInvalidMetric(lookAt, fmt.Errorf("take a snapshot: %w", err))
		return
	}
	out := sink{to}
	out.counted(s)
	out.kept(s)
	if s.Look != nil {
		out.timeWait(s.Look.TimeWait)
		out.closeWait(s.Look)
		out.ports(s.Look, c.options)
		out.look(s.Look)
	}
}

var sides = [event.Sides]string{event.SideUnknown: "unknown", event.SideConnect: "connect", event.SideAccept: "accept"}

// sink takes metrics.
type sink struct{ to chan<- prometheus.Metric }

func (o sink) count(d *prometheus.Desc, n uint64, labels ...string) {
	o.to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func (o sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	o.to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

// counted is what the kernel counts.
func (o sink) counted(s *Snapshot) {
	for _, c := range s.Counts.Changes {
		o.count(transitions, c.Count, c.From.String(), c.To.String())
	}
	var sum event.Tally
	for _, t := range s.Counts.Tallies {
		sum.Add(t)
	}
	for side, n := range sum.Entered {
		o.count(twEntered, n, sides[side])
	}
	for cause, n := range sum.Ended {
		if n > 0 {
			o.count(twEnded, n, event.Cause(cause).String())
		}
	}
	if sum.RestartsUnknown == 0 {
		o.count(twRestarts, sum.Restarts)
	}
	for _, end := range []struct {
		name         string
		exact, bound event.Measure
	}{{"expired", event.ExpiredExact, event.ExpiredBound}, {"cut_short", event.CutExact, event.CutBound}} {
		o.to <- newKernelHistogram(twLength, &s.Counts.Histograms[end.exact], []string{"end"}, end.name)
		o.count(twBound, s.Counts.Histograms[end.bound].Count, end.name)
	}
	o.count(twOverflows, s.Overflows)
	o.count(noPort, s.Failures)
}

// kept is what afterfin is, has and has not.
func (o sink) kept(s *Snapshot) {
	for cause, n := range map[string]uint64{
		"ring": s.Lost.Ring, "recursion": s.Lost.Recursion, "accept": s.Lost.Accept,
		"map": s.Lost.Map, "read": s.Lost.Read, "evicted": s.Lost.Evicted,
	} {
		o.count(lost, n, cause)
	}
	for _, h := range s.Hooks {
		o.gauge(hooks, 1, h.Gives, h.Program)
	}
	o.gauge(mapBytes, float64(s.MapMemory))
	for _, m := range s.Maps {
		o.gauge(mapEntries, float64(m.Entries), m.Name)
		o.gauge(mapLimit, float64(m.Limit), m.Name)
	}
}

func (o sink) look(l *Look) {
	o.gauge(unreadable, float64(l.Unreadable))
	o.gauge(unreachable, float64(l.Unreachable))
	o.gauge(lookAt, float64(l.At.UnixMicro())/1e6)
	o.gauge(lookTook, l.Took.Seconds())
}
