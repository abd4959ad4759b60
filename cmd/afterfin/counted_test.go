// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/event"
	"afterfin/internal/lab"
	"afterfin/internal/tcp"
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
			BySide         sides   `json:"by_side"`
		}
		Makers []struct {
			PID   int
			Comm  string
			Side  string
			Count int
		}
		Peers   []timeWaitPeer
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

// counting is afterfin timewait -o json, run in this process until stop.
type counting struct {
	stdout bytes.Buffer
	stderr *notes
	cancel context.CancelFunc
	code   chan int
}

// startCounting returns when it counts.
func startCounting(t *testing.T, args ...string) *counting {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &counting{stderr: &notes{ready: make(chan struct{})}, cancel: cancel, code: make(chan int, 1)}
	go func() {
		c.code <- run(env{ctx: ctx, stdout: &c.stdout, stderr: c.stderr, getenv: os.Getenv, types: types},
			append([]string{"timewait", "-o", "json", "--sample", "1h"}, args...))
	}()
	select {
	case <-c.stderr.ready:
	case code := <-c.code:
		t.Fatalf("timewait exits %d before it is ready: %s", code, c.stderr)
	case <-time.After(patience):
		t.Fatalf("timewait is not ready: %s", c.stderr)
	}
	t.Cleanup(cancel)
	return c
}

func (c *counting) stop(t *testing.T) (r timeWaitReport) {
	t.Helper()
	c.cancel()
	if code := <-c.code; code != exitOK {
		t.Fatalf("timewait exits %d: %s", code, c.stderr)
	}
	if err := json.Unmarshal(c.stdout.Bytes(), &r); err != nil {
		t.Fatalf("%v: %s", err, &c.stdout)
	}
	return r
}

// mix leaves connections of all kinds in a netns, and notes what becomes of them.
type mix struct {
	*testing.T
	ns            *lab.NetNS
	one, two, srv *lab.Actor
	listener      int
	at            netip.AddrPort
	entered       sides
	causes        map[string]int
	makers        map[int]int // by pid
	closedFirst   int
	made          int // connections
}

// must is for calls that cannot fail.
func (m *mix) must(_ lab.Step, err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *mix) value(n int, _ lab.Step, err error) int {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
	return n
}

// connect gives both ends; from may be an address to take again.
func (m *mix) connect(client *lab.Actor, from netip.AddrPort) (c, s int, local netip.AddrPort) {
	m.Helper()
	m.made++
	c = m.value(client.Socket(unix.AF_INET))
	m.must(client.SetsockoptInt(c, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	if from.IsValid() {
		m.must(client.Bind(c, from))
	}
	m.must(client.Connect(c, m.at))
	s = m.value(m.srv.Accept(m.listener))
	local, _, err := client.LocalAddr(c)
	if err != nil {
		m.Fatal(err)
	}
	return c, s, local
}

// closes has one end closed first, which leaves it in TIME_WAIT.
func (m *mix) closes(first *lab.Actor, a int, second *lab.Actor, b int) {
	m.Helper()
	m.must(first.CloseFD(a))
	m.value(second.Read(b, 1)) // its end
	m.must(second.CloseFD(b))
	m.left(first)
}

// shuts does the same, and returns when the kernel has come to TIME_WAIT: then the socket, which
// still has its descriptor, is in CLOSE.
func (m *mix) shuts(first *lab.Actor, a int, second *lab.Actor, b int) {
	m.Helper()
	m.must(first.Shutdown(a, unix.SHUT_WR))
	m.value(second.Read(b, 1))
	m.must(second.CloseFD(b))
	for begin := lab.Mono(); ; {
		state, _, err := first.TCPState(a)
		if err != nil {
			m.Fatal(err)
		}
		if state == tcp.Close {
			break
		}
		if lab.Mono()-begin > patience {
			m.Fatalf("still in %v", state)
		}
	}
	m.must(first.CloseFD(a))
	m.left(first)
}

// left notes a TIME_WAIT.
func (m *mix) left(first *lab.Actor) {
	m.closedFirst++
	m.makers[first.PID()]++
	if first == m.srv {
		m.entered.Accept++
	} else {
		m.entered.Connect++
	}
}

// reset ends a connection without one.
func (m *mix) reset(client *lab.Actor, c, s int) {
	m.Helper()
	m.must(client.SetLinger0(c))
	m.must(client.CloseFD(c))
	m.must(m.srv.CloseFD(s))
}

var nowhere netip.AddrPort

// fresh is an address that no connection has come from: where the server is in TIME_WAIT the
// client's port is free, and the next connect() may take it.
func (m *mix) fresh() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.3"), uint16(1024+m.made))
}

// kinds of connections, and how many of twenty are of each.
var kinds = []struct {
	of20 int
	play func(m *mix)
}{
	{7, func(m *mix) { // expires
		c, s, _ := m.connect(m.one, nowhere)
		m.closes(m.one, c, m.srv, s)
		m.causes["expired"]++
	}},
	{4, func(m *mix) {
		c, s, _ := m.connect(m.two, nowhere)
		m.value(m.two.Write(c, 100))
		m.value(m.srv.Read(s, 1000))
		m.value(m.srv.Write(s, 100))
		m.value(m.two.Read(c, 1000))
		m.closes(m.two, c, m.srv, s)
		m.causes["expired"]++
	}},
	{3, func(m *mix) { // the server's
		c, s, _ := m.connect(m.one, m.fresh())
		m.closes(m.srv, s, m.one, c)
		m.causes["expired"]++
	}},
	{2, func(m *mix) {
		c, s, local := m.connect(m.one, nowhere)
		m.shuts(m.one, c, m.srv, s)
		c, s, _ = m.connect(m.two, local)
		m.causes["reused_connect"]++
		m.reset(m.two, c, s)
	}},
	{1, func(m *mix) {
		c, s, local := m.connect(m.one, m.fresh())
		m.shuts(m.srv, s, m.one, c)
		c, s, _ = m.connect(m.two, local)
		m.causes["reused_syn"]++
		m.reset(m.two, c, s)
	}},
	{1, func(m *mix) {
		c, s, local := m.connect(m.two, nowhere)
		m.shuts(m.two, c, m.srv, s)
		if err := m.ns.Do(func() error { return destroySocket(local, m.at) }); err != nil {
			m.Fatal(err)
		}
		m.causes["destroyed"]++
	}},
	{2, func(m *mix) {
		c, s, _ := m.connect(m.one, nowhere)
		m.reset(m.one, c, s)
	}},
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
	begin := lab.Mono()
	for miniSockets(t, m.ns) > 0 { // none is over before a minute
		if lab.Mono()-begin > 2*time.Minute {
			t.Fatal("mini-sockets are left after two minutes")
		}
		time.Sleep(20 * time.Millisecond)
	}
	r := c.stop(t)
	if len(r.Spaces) != 1 || r.Spaces[0].NetNS != m.ns.Inode() {
		t.Fatalf("netns %+v", r.Spaces)
	}
	m.compare(&r)
	m.compareEach(&r)
	for what, n := range r.Lost {
		if n != 0 {
			t.Errorf("%s: %d", what, n)
		}
	}
	t.Logf("%d connections: %+v, %v, %v to %v", m.made, r.BySide, r.ByCause, time.Duration(r.Min), time.Duration(r.Max))
}

func newMix(t *testing.T) *mix {
	t.Helper()
	m := &mix{T: t, ns: newNetNS(t), causes: make(map[string]int), makers: make(map[int]int)}
	for name, value := range map[string]string{"tcp_tw_reuse": "0", "tcp_max_tw_buckets": "200000"} {
		if err := m.ns.SetSysctl("net.ipv4."+name, value); err != nil {
			t.Fatal(err)
		}
	}
	for name, actor := range map[string]**lab.Actor{"one": &m.one, "two": &m.two, "srv": &m.srv} {
		a, err := m.ns.Start(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close() })
		*actor = a
	}
	m.listener = m.value(m.srv.Socket(unix.AF_INET))
	m.must(m.srv.Bind(m.listener, netip.MustParseAddrPort("127.0.0.1:0")))
	m.must(m.srv.Listen(m.listener, 64))
	var err error
	if m.at, _, err = m.srv.LocalAddr(m.listener); err != nil {
		t.Fatal(err)
	}
	return m
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
	if space.Flow.Entered != entered || space.Flow.Ended != entered || space.Live != 0 || *space.LiveBefore != 0 {
		m.Errorf("flow %+v, live %d before %d; want %d in and out", space.Flow, space.Live, *space.LiveBefore, entered)
	}
	if r.ClosedFirst != m.closedFirst || r.Exchanges == nil || *r.Exchanges != 0 {
		m.Errorf("%d closed first, want %d", r.ClosedFirst, m.closedFirst)
	}
	if expired := m.causes["expired"]; r.Count != expired || r.AtLeast != 0 || r.Quality != "exact" || r.CutShort.Count != entered-expired {
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
