// SPDX-License-Identifier: Apache-2.0

package timewait

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"afterfin/internal/event"
)

// The widths that eight measured kernels have, and the borders of the levels.
func TestBucket(t *testing.T) {
	for _, c := range []struct {
		hz   int
		d    time.Duration
		want time.Duration
	}{
		{100, 60 * time.Second, 5120 * time.Millisecond},
		{250, 60 * time.Second, 2048 * time.Millisecond},
		{1000, 60 * time.Second, 4096 * time.Millisecond},
		{250, 15 * time.Second, 256 * time.Millisecond},
		{1000, 62 * time.Millisecond, time.Millisecond},
		{1000, 63 * time.Millisecond, 8 * time.Millisecond},
		{1000, 503 * time.Millisecond, 8 * time.Millisecond},
		{1000, 504 * time.Millisecond, 64 * time.Millisecond},
		{1000, 12 * 24 * time.Hour, 1 << 24 * time.Millisecond}, // more than the wheel holds
	} {
		w := Wheel{Tick: time.Second / time.Duration(c.hz)}
		if got := w.Bucket(c.d); got != c.want {
			t.Errorf("HZ %d, %v: bucket %v, want %v", c.hz, c.d, got, c.want)
		}
		if w.Mean(c.d) != c.d+c.want/2 {
			t.Errorf("HZ %d: mean %v", c.hz, w.Mean(c.d))
		}
	}
}

func TestRuns(t *testing.T) {
	const ahead = 15000
	for expires, want := range map[uint64]uint64{
		1 << 20:         1<<20 + 512, // even what fits is rounded up
		1<<20 + 1:       1<<20 + 512,
		1<<20 + 511:     1<<20 + 512,
		1<<20 + 512:     1<<20 + 1024,
		4294892296 + 40: 4294892544, // INITIAL_JIFFIES
	} {
		if got := Runs(expires, ahead); got != want {
			t.Errorf("due at %d: runs at %d, want %d", expires, got, want)
		}
	}
}

func histogram(values ...uint64) *event.Histogram {
	h := &event.Histogram{Count: uint64(len(values)), Least: slices.Min(values), Most: slices.Max(values)}
	for _, v := range values {
		slot := 0
		for slot+1 < event.Slots && event.SlotFloor(slot+1) <= v {
			slot++
		}
		h.Slots[slot]++
	}
	return h
}

func TestQuantile(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var values []uint64
	for range 2000 {
		values = append(values, 60_000_000+random.Uint64N(2_048_000))
	}
	h := histogram(values...)
	slices.Sort(values)
	for _, part := range []float64{0.01, 0.25, 0.5, 0.9, 0.99} {
		got, want := float64(Quantile(h, part)), float64(values[int(part*2000)-1])
		if off := (got - want) / want; off > 0.004 || off < -0.004 {
			t.Errorf("%v: %v, want %v", part, got, want)
		}
	}
	for name, c := range map[string]struct {
		h    *event.Histogram
		part float64
		want uint64
	}{
		"none":         {&event.Histogram{}, 0.5, 0},
		"one":          {histogram(77_777), 0.5, 77_777},
		"one, 99 %":    {histogram(77_777), 0.99, 77_777},
		"small":        {histogram(0, 1, 1, 1, 5), 0.5, 1},
		"half of none": {histogram(0, 0, 0, 1), 0.5, 0},
		"all":          {histogram(3, 4, 1000), 1, 1000},
		"huge":         {histogram(1 << 60), 0.5, 1 << 60},
	} {
		if got := Quantile(c.h, c.part); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestMergeAndBins(t *testing.T) {
	a, b := histogram(60_000_000, 61_000_000), histogram(59_000_000, 62_000_000, 62_000_000)
	sum := Merge(a, b)
	if sum.Count != 5 || sum.Least != 59_000_000 || sum.Most != 62_000_000 || a.Count != 2 {
		t.Errorf("merged %d, %d to %d", sum.Count, sum.Least, sum.Most)
	}
	if s := Merge(&event.Histogram{}, b); s.Least != b.Least || s.Count != 3 {
		t.Errorf("none and some: %d from %d on", s.Count, s.Least)
	}
	if s := Merge(b, &event.Histogram{}); s.Least != b.Least {
		t.Errorf("some and none: from %d on", s.Least)
	}
	for _, n := range []int{1, 3, 10, 48} {
		bins := Bins(sum, n)
		var count uint64
		for i, bin := range bins {
			count += bin.Count
			if i > 0 && bin.Low != bins[i-1].High {
				t.Errorf("%d bins: a gap before %d", n, bin.Low)
			}
		}
		if count != 5 || len(bins) > 2*n || bins[0].Low > sum.Least || bins[len(bins)-1].High <= sum.Most {
			t.Errorf("%d bins: %v", n, bins)
		}
	}
	if Bins(&event.Histogram{}, 3) != nil {
		t.Error("bins of nothing")
	}
}

func TestFlow(t *testing.T) {
	wheel := Wheel{Tick: 4 * time.Millisecond}
	for name, c := range map[string]struct {
		entered, ended, cut uint64
		live                int
		want                Trend
		settles             float64
	}{
		"nothing":                     {0, 0, 0, 0, Idle, 0},
		"some, and none moves":        {0, 0, 0, 50, Idle, 0},
		"steady":                      {4000, 3990, 9, 24_380, Steady, 24_409.6},
		"steady, between two buckets": {4000, 3300, 0, 24_900, Steady, 24_409.6},
		"just begun":                  {4000, 0, 0, 4000, Growing, 24_409.6},
		"over":                        {0, 3000, 0, 9000, Falling, 0},
		"over, and all gone":          {0, 300, 300, 0, Falling, -1},
		"less than before":            {2000, 4000, 0, 22_000, Falling, 12_204.8},
		"few, so chance":              {5, 5, 0, 40, Steady, 30.512},
		// A connect() takes them before they are over: their number is steady all the same.
		"reused":              {3012, 3010, 2183, 10_900, Steady, -1},
		"reused, bucket late": {3012, 2600, 2183, 11_300, Steady, -1},
		"reused, and growing": {3012, 1000, 900, 9000, Growing, -1},
		"reused, and falling": {1000, 3012, 2183, 9000, Falling, -1},
	} {
		f := NewFlow(Sampled{c.entered, c.ended, c.ended - c.cut, c.live, 10 * time.Second}, wheel, time.Minute)
		if f.Trend != c.want || math.Abs(f.Settles-c.settles) > 1e-6 || f.In != float64(c.entered)/10 || f.Out != float64(c.ended)/10 {
			t.Errorf("%s: %+v (%v), want %v towards %v", name, f, f.Trend, c.want, c.settles)
		}
	}
}

func TestRun(t *testing.T) {
	r := Run{Nominal: time.Minute, Bucket: 2 * time.Second, Samples: []Sample{
		{Measured: 62 * time.Second, Predicted: 62*time.Second - 3}, {Measured: 61 * time.Second, Predicted: 61*time.Second + 5},
	}}
	if r.PredictedMin() != time.Minute || r.PredictedMax() != 62*time.Second || r.Worst() != -5 || r.Lengths()[0] != 61*time.Second {
		t.Errorf("%v to %v, worst %v, %v", r.PredictedMin(), r.PredictedMax(), r.Worst(), r.Lengths())
	}
	if (&Run{}).Worst() != 0 || len((&Run{}).Lengths()) != 0 {
		t.Error("without samples")
	}
}

func TestSorted(t *testing.T) {
	addr := netip.MustParseAddr
	peers := []event.Peer{{Remote: addr("10.0.0.2"), Port: 80, Count: 1}, {Remote: addr("10.0.0.1"), Port: 443, Count: 1}, {Remote: addr("::1"), Port: 1, Count: 9}}
	SortPeers(peers)
	if peers[0].Count != 9 || peers[1].Remote != addr("10.0.0.1") {
		t.Errorf("%v", peers)
	}
	makers := []event.Maker{{Count: 1, Owner: event.Owner{PID: 2}}, {Count: 1, Owner: event.Owner{PID: 1}}, {Count: 2}}
	SortMakers(makers)
	if makers[0].Count != 2 || makers[1].PID != 1 {
		t.Errorf("%v", makers)
	}
	n := Now{Spaces: []Space{{Live: 2, Halfway: 1}, {Live: 3}}}
	if live, halfway := n.Live(); live != 5 || halfway != 1 {
		t.Errorf("%d, %d", live, halfway)
	}
}

func TestTick(t *testing.T) {
	const ms = time.Millisecond
	at := Tick{Jiffies: 1000, Mono: 500 * ms}
	for want, moment := range map[uint64]time.Duration{1000: 500 * ms, 1001: 504 * ms, 999: 499 * ms, 998: 495*ms + 999_999, 1249: 1499 * ms} {
		if got := at.Jiffy(moment, 4*ms); got != want {
			t.Errorf("%v is in jiffy %d, want %d", moment, got, want)
		}
	}
	if at.Begin(1002, 4*ms) != 508*ms || at.Begin(998, 4*ms) != 492*ms {
		t.Errorf("%v, %v", at.Begin(1002, 4*ms), at.Begin(998, 4*ms))
	}
	later := Tick{Jiffies: 1250, Mono: 1500*ms - 100}
	if hz := later.Rate(at); hz < 249.99 || hz > 250.01 {
		t.Errorf("%v ticks a second", hz)
	}
	if at.Earlier(later, 4*ms) != later || later.Earlier(at, 4*ms) != later {
		t.Error("the one seen 100 ns later is taken")
	}
}

// One of four had a tick between its beginning and its timer.
func TestNewRun(t *testing.T) {
	const tick, start = 4 * time.Millisecond, 100 * time.Second
	at := Tick{Jiffies: 1 << 20, Mono: start}
	var made []Made
	for i, jiffy := range []uint64{1 << 20, 1<<20 + 100, 1<<20 + 200, 1<<20 + 311} {
		m := Made{Entered: at.Begin(jiffy, tick) + time.Millisecond, Expires: jiffy + 15000}
		if i == 3 {
			m.Expires++
		}
		m.Ended = at.Begin(Runs(m.Expires, 15000), tick) + time.Duration(i)
		made = append(made, m)
	}
	r := NewRun(made, at, Wheel{Tick: tick})
	if r.Nominal != time.Minute || r.Bucket != 2048*time.Millisecond || len(r.Samples) != 4 {
		t.Fatalf("%+v", r)
	}
	for i, s := range r.Samples {
		if s.Late() != time.Duration(i) || s.Measured < r.PredictedMin() || s.Measured > r.PredictedMax() {
			t.Errorf("sample %d: %+v", i, s)
		}
	}
	if r.Samples[0].Phase != 15000%512*tick || r.Samples[1].Phase != 15100%512*tick {
		t.Errorf("phases %v, %v", r.Samples[0].Phase, r.Samples[1].Phase)
	}
	if r := NewRun(nil, at, Wheel{Tick: tick}); len(r.Samples) != 0 || r.Nominal != 0 {
		t.Errorf("of nothing: %+v", r)
	}
}
