// SPDX-License-Identifier: Apache-2.0

package view

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/owner"
	"afterfin/internal/tcp"
	"afterfin/internal/timewait"
)

func addHistogram(h *event.Histogram, values ...uint64) {
	for _, v := range values {
		slot := 0
		for slot+1 < event.Slots && event.SlotFloor(slot+1) <= v {
			slot++
		}
		h.Slots[slot]++
		if h.Count == 0 || v < h.Least {
			h.Least = v
		}
		h.Most = max(h.Most, v)
		h.Count++
	}
}

// someTimeWaits is a report as of a host with a busy netns, a small one and a quiet one.
func someTimeWaits() *TimeWaits {
	remote := netip.MustParseAddr("10.0.9.3")
	peers := []event.Peer{
		{Remote: remote, Port: 6379, NetNS: 9, Side: event.SideConnect, Count: 23640},
		{Remote: netip.MustParseAddr("10.0.0.7"), Port: 8080, NetNS: 9, Side: event.SideAccept, Count: 400},
		{Remote: netip.MustParseAddr("10.0.0.8"), Port: 8080, NetNS: 9, Side: event.SideAccept, Count: 70},
		{Remote: netip.MustParseAddr("2001:db8::1"), Port: 443, NetNS: 9, Side: event.SideUnknown, Count: 20},
		{Remote: remote, Port: 5432, NetNS: 9, Side: event.SideConnect, Count: 10},
	}
	now := &timewait.Now{MiniBytes: 256, Unreachable: 2, Spaces: []timewait.Space{
		{NetNS: 9, Live: 24140, Halfway: 3, Max: 262144, Overflows: 12, Sides: [3]int{20, 23650, 470}, Peers: peers},
		{NetNS: 17, Path: "/run/netns/blue", Live: 0, Max: 100, Overflows: -1},
		{NetNS: 18, Path: "/proc/7/ns/net", Live: 0, Max: -1},
	}}
	before := &timewait.Now{Spaces: []timewait.Space{{NetNS: 9, Live: 24130, Overflows: 5}}}
	tally := &event.Tally{Restarted: 1, Restarts: 7, MakersLeftOut: 1}
	tally.Entered = [3]uint64{0, 3900, 100}
	tally.Ended[event.CauseExpired], tally.Ended[event.CauseReusedConnect] = 3984, 16
	tally.HalfwayEnded[event.CauseExpired] = 2
	blue := &event.Tally{RestartsUnknown: 300}
	blue.Ended[event.CauseReset] = 300
	makers := []event.Maker{
		{Owner: event.Owner{PID: 41, Start: 5, Comm: comm("php-fpm")}, NetNS: 9, Side: event.SideConnect, Count: 3900},
		{Owner: event.Owner{PID: 50, Comm: comm("gone\x1b")}, NetNS: 9, Side: event.SideAccept, Count: 90},
		{NetNS: 9, Side: event.SideAccept, Count: 10},
	}
	s := &TimeWaitSample{
		Took: 10 * time.Second, Wheel: timewait.Wheel{Tick: 4 * time.Millisecond}, Length: time.Minute,
		Counts:    &event.Counts{Tallies: map[uint32]*event.Tally{9: tally, 17: blue}, Makers: makers, Peers: peers},
		Processes: map[uint32]*owner.Process{41: {PID: 41, Comm: "php-fpm", Unit: "web.service"}},
		Heap:      4_600_000, MapMemory: 46_700_000, Lost: event.Lost{Ring: 2},
	}
	h := &s.Counts.Histograms
	addHistogram(&h[event.ExpiredBound], 60_010_000, 60_500_000, 61_000_000, 61_000_000, 61_400_000)
	addHistogram(&h[event.ExpiredExact], 62_040_000)
	addHistogram(&h[event.CutExact], 1_200_000)
	addHistogram(&h[event.Lives], 9_000, 9_100, 9_200)
	addHistogram(&h[event.Exchanges], 1, 1, 4)
	return &TimeWaits{Before: before, Now: now, Sample: s}
}

func comm(name string) (c event.Comm) {
	copy(c[:], name)
	return c
}

func TestTimeWaitText(t *testing.T) {
	r := someTimeWaits()
	var b strings.Builder
	if err := WriteTimeWaitNow(&b, r.Now); err != nil {
		t.Fatal(err)
	}
	b.WriteString("--\n")
	if err := WriteTimeWaitSample(&b, r); err != nil {
		t.Fatal(err)
	}
	const want = `this netns  live 24,140 of 262,144 (6.18 MB)   FIN_WAIT2 mini-sockets 3   12 got none since the netns began (TCPTimeWaitOverflow)
  side    connect 23,650 (hold ports)   accept 470 (hold none)   unknown 20   (inferred from listeners and ip_local_port_range)
  peers   to 10.0.9.3:6379 23,640   on :8080 470   with [2001:db8::1]:443 20   and 1 more
2 other netns without TIME_WAIT
netns of 2 processes not entered (CAP_SYS_ADMIN, CAP_SYS_PTRACE)
--
this netns  in 400/s, out 400/s: steady (400/s × 61.0 s = 24,410)
  side    connect 3,900 (hold ports)   accept 100 (hold none)
  peers   to 10.0.9.3:6379 23,640   on :8080 470   with [2001:db8::1]:443 20   and 1 more
  makers  php-fpm pid 41 web.service 98 %   gone? pid 50 2 %   unknown 0.2 %
  ends    expired 3,984 (99.6 %)   reused_connect 16 (0.4 %)   2MSL restarted 7 times in 1 of them
  FIN_WAIT2 mini-sockets that the peer never closed: expired 2 (100 %)
  7 sockets got no TIME_WAIT: tcp_max_tw_buckets (262,144) or memory is used up
netns blue  in 0/s, out 30/s: falling
  ends    reset 300 (100 %)   restarts not known
1 other netns in which none came and none went
`
	got := b.String()
	if !strings.HasPrefix(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, line := range []string{
		"length  min 60.0 s   p50 60.9 s   p99 62.0 s   max 62.0 s   of 6 that ended by their timer (5 began before afterfin: at least so long)\n        60.0 s ",
		"cut     min 1.20 s   p50 1.20 s   p99 1.20 s   max 1.20 s   of 1 that ended by something else\n",
		"why     3 connections closed from this side first, median life 9.12 ms, one exchange each: no connection reuse\n",
		"in 10.0 s   lost 2 rows (ring full)   BPF maps 46.7 MB, heap 4.60 MB\n",
	} {
		if !strings.Contains(got, line) {
			t.Errorf("no %q in\n%s", line, got)
		}
	}
}

// What is there to say where nothing happens.
func TestTimeWaitQuiet(t *testing.T) {
	r := &TimeWaits{Now: &timewait.Now{Spaces: []timewait.Space{{NetNS: 1, Max: -1, Overflows: -1}}}}
	r.Before = r.Now
	r.Sample = &TimeWaitSample{Took: time.Second, Wheel: timewait.Wheel{Tick: 4 * time.Millisecond}, Counts: &event.Counts{}}
	var b strings.Builder
	WriteTimeWaitNow(&b, r.Now)
	WriteTimeWaitSample(&b, r)
	if want := "1 netns without TIME_WAIT\n1 netns in which none came and none went\nin 1.00 s   lost nothing   BPF maps 0 B, heap 0 B\n"; b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestTimeWaitTrends(t *testing.T) {
	s := &TimeWaitSample{Wheel: timewait.Wheel{Tick: 4 * time.Millisecond}, Length: time.Minute}
	for want, f := range map[string]timewait.Flow{
		" towards 400/s × 61.0 s = 24,400, more than tcp_max_tw_buckets (4,096): the rest gets none": {In: 400, Settles: 24400, Trend: timewait.Growing},
		" towards 2.5/s × 61.0 s = 153": {In: 2.5, Settles: 152.6, Trend: timewait.Falling},
		"":                              {Trend: timewait.Idle},
	} {
		if got := settles(s, &f, &timewait.Space{Max: 4096}); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestTimeWaitJSON(t *testing.T) {
	r := someTimeWaits()
	r.Sample.Each = []conn.Change{{
		Transition: event.Transition{NetNS: 9, Cookie: 5, Mono: 77, From: tcp.TimeWait, To: tcp.Close, Side: event.SideConnect, Cause: event.CauseExpired,
			Restarts: event.RestartsUnknown, Owner: event.Owner{PID: 41, Comm: comm("php-fpm")},
			Tuple: tcp.Tuple{Local: netip.MustParseAddrPort("10.0.0.5:40000"), Remote: netip.MustParseAddrPort("10.0.9.3:6379")}},
		InState: conn.Span{D: 61 * time.Second, Quality: conn.Exact},
	}}
	var b strings.Builder
	if err := WriteTimeWaitJSON(&b, r, time.Unix(1_800_000_000, 0)); err != nil {
		t.Fatal(err)
	}
	got := b.String()
	for _, part := range []string{
		`"live":24140,"fin_wait2":3,"mini_socket_bytes":256,"bytes":6180608`,
		`"netns":9,"own":true,"live":24140,"live_before":24130,"fin_wait2":3,"max_tw_buckets":262144,"live_by_side":{"connect":23650,"accept":470,"unknown":20}`,
		`"overflows_total":12,"overflows":7,"flow":{"entered":4000,"ended":4000,"in_per_s":400,"out_per_s":400,"trend":"steady","settles_at":24409.6,"by_side":{"connect":3900,"accept":100,"unknown":0},"unseen":-10}`,
		`"by_cause":{"expired":3984,"reused_connect":16},"fin_wait2_by_cause":{"expired":2}`,
		`{"pid":41,"start_ns":5,"comm":"php-fpm","unit":"web.service","container":null,"side":"connect","count":3900}`,
		`{"pid":null,"start_ns":null,"comm":null,"unit":null,"container":null,"side":"accept","count":10}`,
		`{"side":null,"remote":"2001:db8::1","port":443,"count":20}`,
		`"left_out":{"makers":1,"peers":0}`,
		`"netns":17,"own":false,"live":0,"live_before":null,`, `"overflows_total":null,"overflows":null`, `"max_tw_buckets":null`,
		`"sample_ns":10000000000,"by_side":{"connect":3900,"accept":100,"unknown":0},"by_cause":{"expired":3984,"reset":300,"reused_connect":16}`,
		`"hz":250,"nominal_ns":60000000000,"predicted_min_ns":60000000000,"predicted_max_ns":62048000000,"count":6,"at_least":5,"quality":"mixed","min_ns":60010000000`,
		`"cut_short":{"count":1,"at_least":0,"quality":"exact","min_ns":1200000000`,
		`"life_p50_ns":9120000,"exchanges_p50":1,"closed_first":3,"restarts":{"sockets":1,"restarts":7,"unknown":300}`,
		`"samples":[{"netns":9,"cookie":5,"local":"10.0.0.5:40000","remote":"10.0.9.3:6379","side":"connect","pid":41,"comm":"php-fpm","cause":"expired","restarts":null,"measured_ns":61000000000,"measured_min_ns":null,"end_mono_ns":77}],"samples_left_out":0`,
		`"heap_bytes":4600000,"bpf_map_bytes":46700000,"ring_records":0`,
	} {
		if !strings.Contains(got, part) {
			t.Errorf("no %s in\n%s", part, got)
		}
	}
	r.Sample, r.Before = nil, nil
	b.Reset()
	if err := WriteTimeWaitJSON(&b, r, time.Unix(1_800_000_000, 0)); err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal([]byte(b.String()), &doc); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sample_ns", "min_ns", "p50_ns", "cut_short", "samples", "lost", "restarts", "nominal_ns", "ring_records", "by_side", "by_cause"} {
		if v, ok := doc[name]; !ok || v != nil {
			t.Errorf("without a sample %s is %v", name, v)
		}
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 6_180_608: "6.18 MB", 1000: "1.00 kB", 2e9: "2.00 GB"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
