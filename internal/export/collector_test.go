// SPDX-License-Identifier: Apache-2.0

package export

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"afterfin/internal/event"
	"afterfin/internal/leak"
	"afterfin/internal/owner"
	"afterfin/internal/ports"
	"afterfin/internal/tcp"
	"afterfin/internal/timewait"
)

const sec = time.Second

// nothing is what a kernel has counted that has seen nothing.
func nothing() *Snapshot { return &Snapshot{Counts: &event.Counts{}} }

// looked is a snapshot with such a look.
func looked(change func(*Look)) *Snapshot {
	s := nothing()
	s.Look = &Look{Leaks: &leak.Report{}, TimeWait: &timewait.Now{}, Mean: 61 * sec, At: time.Unix(1_800_000_000, 0)}
	if change != nil {
		change(s.Look)
	}
	return s
}

// gathered is what a scrape gives, by name without afterfin_, checked for all that client_golang
// can check.
func gathered(t *testing.T, s *Snapshot, o Options) map[string]*dto.MetricFamily {
	t.Helper()
	by := make(map[string]*dto.MetricFamily)
	for _, f := range scrape(t, s, o) {
		by[strings.TrimPrefix(f.GetName(), "afterfin_")] = f
	}
	return by
}

func scrape(t *testing.T, s *Snapshot, o Options) []*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(NewCollector(func() (*Snapshot, error) { return s, nil }, o)); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

func text(t *testing.T, families []*dto.MetricFamily) string {
	t.Helper()
	var out bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&out, f); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

// values are those of a counter or gauge, by the values of its labels in the order of their
// names, with commas.
func values(f *dto.MetricFamily) map[string]float64 {
	by := make(map[string]float64)
	for _, m := range f.GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, l.GetValue())
		}
		by[strings.Join(labels, ",")] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	return by
}

// small has something of everything.
func small() *Snapshot {
	s := looked(func(l *Look) {
		web := &owner.Process{PID: 7, Comm: "web", Unit: "web.service", FDs: 1000, FDLimit: 1024}
		group := leaks(web, leak.EOFRead, 60*sec, 90*sec)
		group.Growth.PerMinute = 12
		group.Dead = make([]leak.Dead, 3)
		l.Leaks.Groups = []leak.Group{group, pool(&owner.Process{PID: 8, Comm: "pool"}, 2), leaks(nil, leak.NoFD, 5*sec)}
		l.Waiting = []leak.Age{{}, {Min: 5 * sec, Max: 9 * sec, Quality: leak.Bound}, {Min: 60 * sec, Max: 60 * sec, Quality: leak.Exact}, {Min: 90 * sec, Max: 90 * sec, Quality: leak.Exact}}
		l.TimeWait.Spaces = []timewait.Space{{NetNS: 1, Live: 30, Halfway: 10, Max: 400}, {NetNS: 2, Live: 5, Max: 10}, {NetNS: 3, Max: -1}}
		l.Ports = []*ports.Space{{NetNS: 1, Destinations: []*ports.Destination{destination("10.0.0.1", "10.0.0.2:80", 100, 40), destination("10.0.0.1", "10.0.0.3:80", 100, 10)}}}
		l.Ports[0].Destinations[0].Flow = ports.Flow{Calls: event.Calls{Connects: 100, TimeWaits: 100}, While: 10 * sec}
		l.Unreadable, l.Unreachable, l.Took = 3, 1, 250*time.Millisecond
	})
	s.Counts = &event.Counts{
		Tallies: map[uint32]*event.Tally{1: {Restarts: 2}, 2: {Restarts: 3}},
		Changes: []event.Changes{{From: tcp.Established, To: tcp.CloseWait, Count: 4}, {From: tcp.FinWait2, To: tcp.TimeWait, Count: 5}},
	}
	s.Counts.Tallies[1].Entered = [event.Sides]uint64{1, 2, 3}
	s.Counts.Tallies[2].Entered = [event.Sides]uint64{0, 10, 0}
	s.Counts.Tallies[2].Ended[event.CauseExpired] = 6
	s.Counts.Histograms[event.ExpiredExact] = *histogram(60_500_000, 60_500_000, 61_250_000, 200_000_000)
	s.Counts.Histograms[event.CutBound] = *histogram(7)
	s.Lost = event.Lost{Ring: 1, Recursion: 2, Accept: 3, Map: 4, Read: 5, Evicted: 6}
	s.Failures, s.Overflows, s.MapMemory = 8, 9, 1<<20
	s.Hooks = []Hook{{"state", "tp_btf/inet_sock_set_state"}, {"accept", ""}}
	s.Maps = []Map{{"tallies", 2, 4096}}
	return s
}

// All of it, as it is on the wire.
func TestText(t *testing.T) {
	golden, err := os.ReadFile("testdata/metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	got := text(t, scrape(t, small(), Options{Top: 1}))
	have, want := strings.Split(got, "\n"), strings.Split(string(golden), "\n")
	for _, line := range have {
		if !slices.Contains(want, line) {
			t.Errorf("is not in testdata/metrics.txt: %s", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(have, line) {
			t.Errorf("is missing: %s", line)
		}
	}
	if !t.Failed() && got != string(golden) {
		t.Error("the lines are in another order")
	}
}

func TestLint(t *testing.T) {
	for _, o := range []Options{{Top: 10}, {Top: 10, Destinations: true}} {
		problems, err := promlint.NewWithMetricFamilies(scrape(t, small(), o)).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// Before the first look there are counts, and nothing that would say that there are no leaks.
func TestWithoutLook(t *testing.T) {
	s := small()
	s.Look = nil
	var names []string
	for _, f := range scrape(t, s, Options{Top: 10}) {
		names = append(names, strings.TrimPrefix(f.GetName(), "afterfin_"))
	}
	want := []string{"bpf_map_bytes", "bpf_map_entries", "bpf_map_limit", "connect_no_port_total", "hook_info", "lost_total",
		"time_wait_duration_bound_total", "time_wait_duration_seconds", "time_wait_ended_total", "time_wait_entered_total",
		"time_wait_overflows_total", "time_wait_restarts_total", "transitions_total"}
	if !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
}

func TestNoSnapshot(t *testing.T) {
	broken := errors.New("map is gone")
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewCollector(func() (*Snapshot, error) { return nil, broken }, Options{}))
	if _, err := registry.Gather(); err == nil || !strings.Contains(err.Error(), "take a snapshot: map is gone") {
		t.Errorf("error %v", err)
	}
}

// A sum that lacks what one netns cannot tell is no sum.
func TestRestarts(t *testing.T) {
	s := nothing()
	s.Counts.Tallies = map[uint32]*event.Tally{1: {Restarts: 2}, 2: {Restarts: 3}}
	if got := values(gathered(t, s, Options{})["time_wait_restarts_total"]); got[""] != 5 {
		t.Errorf("%v restarts", got)
	}
	s.Counts.Tallies[2].RestartsUnknown = 1
	if f := gathered(t, s, Options{})["time_wait_restarts_total"]; f != nil {
		t.Errorf("told although it is not known: %v", f)
	}
}

func TestTimeWaitFill(t *testing.T) {
	for name, c := range map[string]struct {
		spaces []timewait.Space
		fill   float64 // below 0: absent
	}{
		"nowhere":                  {nil, -1},
		"limit not known":          {[]timewait.Space{{Live: 3, Max: -1}}, -1},
		"empty":                    {[]timewait.Space{{Max: 10}}, 0},
		"orphans count":            {[]timewait.Space{{Live: 3, Halfway: 2, Max: 10}}, 0.5},
		"where it is most":         {[]timewait.Space{{Live: 30, Max: 100}, {Live: 4, Max: 5}, {Live: 9, Max: -1}}, 0.8},
		"one of two is not known":  {[]timewait.Space{{Live: 30, Max: -1}, {Live: 1, Max: 4}}, 0.25},
		"more than there may be":   {[]timewait.Space{{Live: 12, Max: 10}}, 1.2},
		"the last one is not most": {[]timewait.Space{{Live: 9, Max: 10}, {Live: 1, Max: 10}}, 0.9},
	} {
		f := gathered(t, looked(func(l *Look) { l.TimeWait.Spaces = c.spaces }), Options{})["time_wait_fill_ratio"]
		if got, there := values(f)[""]; there != (c.fill >= 0) || there && got != c.fill {
			t.Errorf("%s: %v, want %v", name, f, c.fill)
		}
	}
}

func destination(source, remote string, capacity, used int) *ports.Destination {
	return &ports.Destination{Source: netip.MustParseAddr(source), Remote: netip.MustParseAddrPort(remote), Capacity: capacity, Used: used}
}

// Two netns, in each the fullest first, as ports.Space has them.
func crowded() *Snapshot {
	return looked(func(l *Look) {
		full, bound := destination("10.0.0.1", "10.0.0.2:80", 100, 100), destination("10.0.0.1", "0.0.0.0:0", 100, 50)
		bound.Bound, bound.Remote = true, netip.AddrPort{}
		fast := destination("fd00::1", "[fd00::2]:443", 1000, 900)
		fast.Flow = ports.Flow{Calls: event.Calls{Connects: 1000, TimeWaits: 1000}, While: 10 * sec}
		open := destination("10.0.0.1", "10.0.0.9:5432", 200, 30) // its connections leave no TIME_WAIT
		open.Flow = ports.Flow{Calls: event.Calls{Connects: 10, Released: 10}, While: 10 * sec}
		l.Ports = []*ports.Space{
			{NetNS: 4026531840, Destinations: []*ports.Destination{full, bound, destination("10.0.0.1", "10.0.0.2:81", 100, 1)}},
			{NetNS: 4026532000, Destinations: []*ports.Destination{fast, open}},
		}
	})
}

func TestPorts(t *testing.T) {
	for name, c := range map[string]struct {
		options Options
		omitted float64
		used    map[string]float64
	}{
		"none":              {Options{}, 5, map[string]float64{}},
		"two, of two netns": {Options{Top: 2}, 3, map[string]float64{"1": 100, "2": 900}},
		"more than are":     {Options{Top: 9}, 0, map[string]float64{"1": 100, "2": 900, "3": 50, "4": 30, "5": 1}},
		"which they are": {Options{Top: 4, Destinations: true}, 1, map[string]float64{
			"10.0.0.2:80,4026531840,10.0.0.1": 100, "[fd00::2]:443,4026532000,fd00::1": 900,
			"bound,4026531840,10.0.0.1": 50, "10.0.0.9:5432,4026532000,10.0.0.1": 30}},
	} {
		got := gathered(t, crowded(), c.options)
		if used := values(got["ports_used"]); !equal(used, c.used) {
			t.Errorf("%s: used %v, want %v", name, used, c.used)
		}
		if n := values(got["ports_destinations"])[""]; n != 5 {
			t.Errorf("%s: %v destinations", name, n)
		}
		if n := values(got["ports_destinations_omitted"])[""]; n != c.omitted {
			t.Errorf("%s: %v left out, want %v", name, n, c.omitted)
		}
	}
	got := gathered(t, crowded(), Options{Top: 9})
	for name, want := range map[string]map[string]float64{
		portsCapacity:  {"1": 100, "2": 1000, "3": 100, "4": 200, "5": 100},
		portsRate:      {"1": 0, "2": 100, "3": 0, "4": 1, "5": 0},
		portsMost:      {"1": 0, "2": 100.0 / 61, "3": 50.0 / 61, "5": 99.0 / 61}, // the 4th leaves no TIME_WAIT
		portsExhausted: {"1": 0, "2": 1},                                          // the others do not grow
	} {
		if v := values(got[name]); !equal(v, want) {
			t.Errorf("%s: %v, want %v", name, v, want)
		}
	}
	var labels []string
	for _, l := range gathered(t, crowded(), Options{Top: 1, Destinations: true})["ports_used"].Metric[0].Label {
		labels = append(labels, l.GetName())
	}
	if want := []string{"destination", "netns", "source"}; !slices.Equal(labels, want) {
		t.Errorf("labels %q, want %q", labels, want)
	}
}

// Of two that are as full, the one with more ports in use comes first; and who uses what
// tcp_tw_reuse would take is not full.
func TestFullest(t *testing.T) {
	s := looked(func(l *Look) {
		reused := destination("10.0.0.1", "10.0.0.4:80", 100, 95)
		reused.InEffect = 90
		none := destination("10.0.0.1", "10.0.0.5:80", 0, 0)
		l.Ports = []*ports.Space{{Destinations: []*ports.Destination{
			destination("10.0.0.1", "10.0.0.2:80", 100, 20), destination("10.0.0.1", "10.0.0.3:80", 500, 100), reused, none}}}
	})
	want := map[string]float64{"1": 0, "2": 100, "3": 20, "4": 95}
	if got := values(gathered(t, s, Options{Top: 9})["ports_used"]); !equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func equal(a, b map[string]float64) bool {
	for k, v := range a {
		if w, ok := b[k]; !ok || v-w > 1e-9 || w-v > 1e-9 {
			return false
		}
	}
	return len(a) == len(b)
}
