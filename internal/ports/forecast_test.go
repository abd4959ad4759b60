// SPDX-License-Identifier: Apache-2.0

package ports

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"afterfin/internal/event"
)

const mean = 61 * time.Second

// client makes a destination as a client at a constant rate leaves it after so long.
func client(capacity int, rate float64, after time.Duration) *Destination {
	d := &Destination{Capacity: capacity, At: time.Hour, Flow: Flow{While: 10 * time.Second}}
	for t := time.Duration(0); t < min(after, mean) && len(d.Frees) < capacity; t += time.Duration(float64(time.Second) / rate) {
		d.Frees = append([]time.Duration{d.At + mean - t}, d.Frees...)
	}
	d.Used = len(d.Frees)
	n := uint64(rate * 10)
	d.Flow.Calls = event.Calls{Connects: n, TimeWaits: n}
	return d
}

func TestForecast(t *testing.T) {
	for name, c := range map[string]struct {
		d           *Destination
		sustainable float64
		exhausted   time.Duration // -1: never
		level       float64
	}{
		"fills":                 {client(200, 10, 5*time.Second), 200 / 61.0, 15 * time.Second, 610},
		"just begun":            {client(200, 10, time.Second), 200 / 61.0, 19 * time.Second, 610},
		"sustained":             {client(200, 2, 30*time.Second), 200 / 61.0, -1, 122},
		"sustained for long":    {client(200, 2, time.Hour), 200 / 61.0, -1, 122},
		"close to the limit":    {client(200, 3.2, time.Hour), 200 / 61.0, -1, 195.2},
		"a little over it":      {client(200, 3.4, 30*time.Second), 200 / 61.0, 28824 * time.Millisecond, 207.4},
		"nobody connects":       {&Destination{Capacity: 100, Flow: Flow{While: time.Second}}, 100 / 61.0, -1, 0},
		"full":                  {client(100, 10, 30*time.Second), 100 / 61.0, 0, 0},
		"others hold them open": {&Destination{Capacity: 100, Used: 100, Flow: Flow{While: time.Second}}, 0, 0, 0},
		"half stay open": {&Destination{Capacity: 1000, Used: 200, Flow: Flow{While: 10 * time.Second,
			Calls: event.Calls{Connects: 200, TimeWaits: 100}}}, 800 / 61.0, 40 * time.Second, 810},
		"all stay open, in minutes": {&Destination{Capacity: 1000, Used: 400, Flow: Flow{While: 10 * time.Second,
			Calls: event.Calls{Connects: 20}}}, 600 / 61.0, 300 * time.Second, 400},
		"the peer closes first": {&Destination{Capacity: 100, Used: 2, Flow: Flow{While: 10 * time.Second,
			Calls: event.Calls{Connects: 9000, Released: 9000}}}, 0, -1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			f := c.d.Forecast(&Rules{}, mean)
			if math.Abs(f.Sustainable-c.sustainable) > 0.001*c.sustainable {
				t.Errorf("sustainable %.3f, want %.3f", f.Sustainable, c.sustainable)
			}
			if (f.Exhausted-c.exhausted).Abs() > c.exhausted.Abs()/50 || (f.Exhausted < 0) != (c.exhausted < 0) {
				t.Errorf("exhausted in %v, want %v", f.Exhausted, c.exhausted)
			}
			if math.Abs(f.Level-c.level) > 0.01*c.level {
				t.Errorf("level %.1f, want %.1f", f.Level, c.level)
			}
		})
	}
}

// Those that are there end meanwhile, and make room.
func TestForecastOldOnesEnd(t *testing.T) {
	d := client(200, 5, 0)
	for i := range 100 { // all within the next ten seconds
		d.Frees = append(d.Frees, d.At+time.Duration(i)*100*time.Millisecond)
	}
	d.Used = 100
	f := d.Forecast(&Rules{}, mean)
	if want := 40 * time.Second; (f.Exhausted - want).Abs() > time.Second {
		t.Errorf("exhausted in %v, want %v: 200 at 5/s", f.Exhausted, want)
	}
	if f.NextFree != 0 || f.AllFree != 9900*time.Millisecond {
		t.Errorf("free in %v, all in %v", f.NextFree, f.AllFree)
	}
}

// With tcp_tw_reuse in effect a port is kept for its delay.
func TestForecastReuse(t *testing.T) {
	d := client(200, 10, 10*time.Second)
	d.Source, d.Remote = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddrPort("10.0.0.2:80")
	d.Reusable, d.InEffect, d.TooYoung = 90, 90, 10
	for i := range d.Frees { // as Take has them then
		d.Frees[i] = max(d.At, d.Frees[i]-mean+time.Second)
	}
	f := d.Forecast(&Rules{Reuse: 1, ReuseDelay: time.Second}, mean)
	if f.Sustainable != 200 || f.Exhausted >= 0 || f.Level != 10 || f.Hold != time.Second || d.Free() != 190 {
		t.Errorf("%+v, %d free", f, d.Free())
	}
	young := *d
	young.Reusable, young.InEffect, young.TooYoung = 0, 0, 100 // none is of age yet, and the first ones soon are
	if f := young.Forecast(&Rules{Reuse: 1, ReuseDelay: time.Second}, mean); f.Sustainable != 200 {
		t.Errorf("%+v", f)
	}
	if f := young.Forecast(&Rules{Reuse: 2, ReuseDelay: time.Second}, mean); f.Hold != mean { // not over loopback
		t.Errorf("%+v", f)
	}
	d.NoStamp = 100 // half of them are kept for 61 s
	if f = d.Forecast(&Rules{Reuse: 1, ReuseDelay: time.Second}, mean); f.Hold != 31*time.Second {
		t.Errorf("hold %v", f.Hold)
	}
}

func TestPeaks(t *testing.T) {
	var p Peaks
	c := []event.Caller{{NetNS: 1}, {NetNS: 1, Owner: event.Owner{PID: 7}}, {NetNS: 2}}
	for i, n := range [][]uint64{{0, 0, 0}, {5, 5, 0}, {10, 30, 1}, {10, 30, 2}} {
		for j := range c {
			c[j].Connects = n[j]
		}
		now := time.Minute + time.Duration(i)*time.Second
		if !p.Due(now) {
			t.Fatal("not due")
		}
		p.See(c, now)
	}
	if p.Due(time.Minute+3*time.Second) || p.most[Key{NetNS: 1}] != 30 || p.most[Key{NetNS: 2}] != 1 {
		t.Errorf("%v", p.most)
	}
}
