// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/lab"
)

// timeWaitReport is timewait -o json, read as a script would.
type timeWaitReport struct {
	Live    int
	Halfway int `json:"fin_wait2"`
	Bytes   *int
	Spaces  []struct {
		NetNS      uint32
		Live       int
		LiveBefore *int  `json:"live_before"`
		Max        int   `json:"max_tw_buckets"`
		LiveBySide sides `json:"live_by_side"`
		Overflows  *int
		Flow       struct {
			Entered, Ended int
			In             float64 `json:"in_per_s"`
			Trend          string
			Settles        float64 `json:"settles_at"`
			Unseen         int
			BySide         sides `json:"by_side"`
		}
		Makers []struct {
			PID   int
			Comm  string
			Side  string
			Count int
		}
		Peers   []timeWaitPeer
		Halfway map[string]int              `json:"fin_wait2_by_cause"`
		LeftOut struct{ Makers, Peers int } `json:"left_out"`
	} `json:"netns"`
	BySide     sides          `json:"by_side"`
	ByCause    map[string]int `json:"by_cause"`
	Nominal    int64          `json:"nominal_ns"`
	PredictMax int64          `json:"predicted_max_ns"`
	Count      int
	AtLeast    int `json:"at_least"`
	Quality    string
	Min        int64 `json:"min_ns"`
	P50        int64 `json:"p50_ns"`
	P99        int64 `json:"p99_ns"`
	Max        int64 `json:"max_ns"`
	Histogram  []timeWaitBin
	CutShort   struct {
		Count     int
		Histogram []timeWaitBin
	} `json:"cut_short"`
	Exchanges   *int `json:"exchanges_p50"`
	ClosedFirst int  `json:"closed_first"`
	Restarts    struct{ Sockets, Restarts, Unknown int }
	Each        []struct {
		Cause    string
		Measured *int64 `json:"measured_ns"`
		Side     *string
		PID      int
	} `json:"samples"`
	Heap    uint64 `json:"heap_bytes"`
	Maps    uint64 `json:"bpf_map_bytes"`
	Records *int   `json:"ring_records"`
	Lost    map[string]int
}

type sides struct{ Connect, Accept, Unknown int }

type timeWaitPeer struct {
	Side, Remote string
	Port         uint16
	Count        int
}

type timeWaitBin struct {
	Low     int64 `json:"ge_ns"`
	High    int64 `json:"lt_ns"`
	Exact   int
	AtLeast int `json:"at_least"`
}

// counting is afterfin timewait or ports -o json, run in this process until stop.
type counting struct {
	stdout bytes.Buffer
	stderr *notes
	cancel context.CancelFunc
	code   chan int
}

func startCounting(t *testing.T, args ...string) *counting {
	t.Helper()
	return startReport(t, "timewait", args...)
}

// startReport returns when it counts.
func startReport(t *testing.T, command string, args ...string) *counting {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &counting{stderr: &notes{ready: make(chan struct{})}, cancel: cancel, code: make(chan int, 1)}
	go func() {
		c.code <- run(env{ctx: ctx, stdout: &c.stdout, stderr: c.stderr, getenv: os.Getenv, types: types},
			append([]string{command, "-o", "json", "--sample", "1h"}, args...))
	}()
	select {
	case <-c.stderr.ready:
	case code := <-c.code:
		t.Fatalf("%s exits %d before it is ready: %s", command, code, c.stderr)
	case <-time.After(patience):
		t.Fatalf("%s is not ready: %s", command, c.stderr)
	}
	t.Cleanup(cancel)
	return c
}

func (c *counting) stop(t *testing.T) (r timeWaitReport) {
	t.Helper()
	c.stopInto(t, &r)
	return r
}

func (c *counting) stopInto(t *testing.T, report any) {
	t.Helper()
	c.cancel()
	if code := <-c.code; code != exitOK {
		t.Fatalf("exits %d: %s", code, c.stderr)
	}
	if err := json.Unmarshal(c.stdout.Bytes(), report); err != nil {
		t.Fatalf("%v: %s", err, &c.stdout)
	}
}

// TestTimeWaitCounted: sides, causes, makers, peers and lengths of a mix are exact, by the count
// in the kernel as by the rows of --each.
func TestTimeWaitCounted(t *testing.T) {
	t.Parallel()
	m := newMix(t)
	c := startCounting(t, "--netns", m.ns.Path(), "--each")
	total := knob(t, loadConnections, 100_000) / 10
	for m.made < total {
		for _, k := range kinds {
			for range k.of20 {
				k.play(m)
			}
		}
	}
	live := m.causes["expired"]
	if n := miniSockets(t, m.ns); n != live {
		t.Errorf("the kernel has %d mini-sockets, want %d", n, live)
	}
	awaitMiniSockets(t, m.ns)
	r := c.stop(t)
	if len(r.Spaces) != 1 || r.Spaces[0].NetNS != m.ns.Inode() {
		t.Fatalf("netns %+v", r.Spaces)
	}
	m.causes["expired"] -= unseen(t, &r)
	m.compare(&r)
	m.compareEach(&r)
	for what, n := range r.Lost {
		if n != 0 {
			t.Errorf("%s: %d", what, n)
		}
	}
	t.Logf("%d connections: %+v, %v, %v to %v", m.made, r.BySide, r.ByCause, time.Duration(r.Min), time.Duration(r.Max))
}

// unseen is how many ends were kept from us, by the report's own word. There are hosts whose
// kernel runs no BPF program on top of certain processes, and timers run on top of any; the
// kernels of the matrix keep nothing.
func unseen(t *testing.T, r *timeWaitReport) int {
	t.Helper()
	n := r.Spaces[0].Flow.Unseen
	if n != 0 {
		t.Logf("%d ends were not seen", n)
	}
	if n != 0 && os.Getenv(wantAccept) != "" {
		t.Errorf("%d ends were not seen", n)
	}
	return n
}

func (m *mix) compare(r *timeWaitReport) {
	m.Helper()
	space := &r.Spaces[0]
	if r.BySide != m.entered || space.Flow.BySide != m.entered {
		m.Errorf("sides %+v, %+v; want %+v", r.BySide, space.Flow.BySide, m.entered)
	}
	if fmt.Sprint(r.ByCause) != fmt.Sprint(m.causes) {
		m.Errorf("causes %v, want %v", r.ByCause, m.causes)
	}
	makers := make(map[int]int)
	for _, x := range space.Makers {
		makers[x.PID] += x.Count
	}
	if fmt.Sprint(makers) != fmt.Sprint(m.makers) {
		m.Errorf("makers %v, want %v", makers, m.makers)
	}
	var peers sides
	for _, p := range space.Peers {
		if p.Port != m.at.Port() || p.Remote != map[string]string{"connect": "127.0.0.1", "accept": "127.0.0.3"}[p.Side] {
			m.Errorf("peer %+v", p)
		}
		if p.Side == "accept" {
			peers.Accept += p.Count
		} else {
			peers.Connect += p.Count
		}
	}
	if peers != m.entered || space.LeftOut.Makers+space.LeftOut.Peers != 0 {
		m.Errorf("peers %+v, left out %+v", peers, space.LeftOut)
	}
	entered := m.entered.Accept + m.entered.Connect
	if space.Flow.Entered != entered || space.Flow.Ended != entered-space.Flow.Unseen || space.Live != 0 || *space.LiveBefore != 0 {
		m.Errorf("flow %+v, live %d before %d; want %d in and out", space.Flow, space.Live, *space.LiveBefore, entered)
	}
	if space.Halfway["reset"] != m.halfway || len(space.Halfway) != 1 {
		m.Errorf("FIN_WAIT2 mini-sockets %v, want %d reset", space.Halfway, m.halfway)
	}
	if r.ClosedFirst != m.closedFirst || r.Exchanges == nil || *r.Exchanges != 0 {
		m.Errorf("%d closed first, want %d", r.ClosedFirst, m.closedFirst)
	}
	if expired := m.causes["expired"]; r.Count != expired || r.AtLeast != 0 || r.Quality != "exact" || r.CutShort.Count != entered-space.Flow.Unseen-expired {
		m.Errorf("%d lengths (%s), %d cut short", r.Count, r.Quality, r.CutShort.Count)
	}
	const late = time.Second / 2 // many at once, beside all that runs here: TestMSL is strict
	if low, high := r.Nominal-int64(jiffy(m.T)), r.PredictMax+int64(late); r.Min < low || r.Max > high || r.P50 < r.Min || r.P99 < r.P50 || r.Max < r.P99 {
		m.Errorf("min %d, p50 %d, p99 %d, max %d: want %d to %d", r.Min, r.P50, r.P99, r.Max, low, high)
	}
}

// compareEach: the rows say the same as the counts, slot by slot of the histograms.
func (m *mix) compareEach(r *timeWaitReport) {
	m.Helper()
	causes := make(map[string]int)
	slots := map[bool]map[int64]int{true: {}, false: {}}
	for _, e := range r.Each {
		causes[e.Cause]++
		if e.Measured == nil {
			m.Fatalf("without a length: %+v", e)
		}
		slots[e.Cause == "expired"][int64(slotOf(uint64(*e.Measured/1000)))*1000]++
	}
	if fmt.Sprint(causes) != fmt.Sprint(m.causes) {
		m.Errorf("rows by cause %v, want %v", causes, m.causes)
	}
	for expired, bins := range map[bool][]timeWaitBin{true: r.Histogram, false: r.CutShort.Histogram} {
		for _, b := range bins {
			if n := slots[expired][b.Low]; n != b.Exact || b.AtLeast != 0 {
				m.Errorf("expired %v: %d to %d ns: %d counted, %d told", expired, b.Low, b.High, b.Exact, n)
			}
			delete(slots[expired], b.Low)
		}
		if len(slots[expired]) > 0 {
			m.Errorf("expired %v: told, and not counted: %v", expired, slots[expired])
		}
	}
}

// slotOf gives the floor of the slot that a value counts in.
func slotOf(v uint64) (floor uint64) {
	for i := range event.Slots {
		if f := event.SlotFloor(i); f <= v {
			floor = f
		}
	}
	return floor
}

// TestTimeWaitCountedFromBefore: of those that are older than afterfin the length is a bound,
// wrong by the five jiffies that their timers may be wrong by, and said to be one.
func TestTimeWaitCountedFromBefore(t *testing.T) {
	t.Parallel()
	const all = 20
	n := all
	ns := newNetNS(t)
	err := ns.Do(func() error {
		c, err := lab.NewCloser()
		if err != nil {
			return err
		}
		defer c.Close()
		return c.Spread(all, 20*time.Millisecond)
	})
	if err != nil {
		t.Fatal(err)
	}
	for begin := lab.Mono(); miniSockets(t, ns) != all; { // the last one may be in a softirq
		if lab.Mono()-begin > patience {
			t.Fatalf("%d mini-sockets, want %d", miniSockets(t, ns), all)
		}
	}
	c := startCounting(t, "--netns", ns.Path())
	awaitMiniSockets(t, ns)
	r := c.stop(t)
	s := &r.Spaces[0]
	n -= unseen(t, &r)
	if *s.LiveBefore != all || s.Flow.Entered != 0 || s.Flow.Ended != n || s.Flow.Trend != "falling" || r.ByCause["expired"] != n || len(r.ByCause) != 1 {
		t.Errorf("%d before, %+v, %v", *s.LiveBefore, s.Flow, r.ByCause)
	}
	if r.Quality != "bound" || r.Count != n || r.AtLeast != n || r.Restarts.Unknown != n || r.BySide != (sides{}) {
		t.Errorf("%s: %d, %d at least, restarts %+v, %+v", r.Quality, r.Count, r.AtLeast, r.Restarts, r.BySide)
	}
	length := timeWaitSeconds(t)
	if time.Duration(r.Nominal) != length {
		t.Errorf("nominal %v", time.Duration(r.Nominal))
	}
	if low, high := length-5*jiffy(t), length*12/10; time.Duration(r.Min) < low || time.Duration(r.Max) > high {
		t.Errorf("at least %v to %v, want %v to %v", time.Duration(r.Min), time.Duration(r.Max), low, high)
	}
}
