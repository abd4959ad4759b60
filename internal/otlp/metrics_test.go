// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"errors"
	"math"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"

	"afterfin/internal/event"
	"afterfin/internal/export"
	"afterfin/internal/leak"
	"afterfin/internal/tcp"
	"afterfin/internal/timewait"
)

// snapshot has something of all that is compared.
func snapshot() (*export.Snapshot, error) {
	counts := &event.Counts{
		Tallies: map[uint32]*event.Tally{1: {}},
		Changes: []event.Changes{{From: tcp.FinWait2, To: tcp.TimeWait, Count: 9}},
	}
	h := &counts.Histograms[event.ExpiredExact]
	slot := 0
	for event.SlotFloor(slot+1) <= 61e6 {
		slot++
	}
	h.Count, h.Sum, h.Slots[slot] = 5, 5*61e6, 5
	return &export.Snapshot{
		Counts:    counts,
		MapMemory: 4096,
		Look: &export.Look{
			Leaks:    &leak.Report{},
			Waiting:  make([]leak.Age, 3),
			TimeWait: &timewait.Now{Spaces: []timewait.Space{{NetNS: 1, Live: 7, Max: 28}}},
		},
	}, nil
}

// push waits for one with metrics in it.
func (r *receiver) push() (*metrics.ResourceMetrics, map[string]*metrics.Metric) {
	r.Helper()
	for {
		m := wait(r.T, r.pushed)
		found := make(map[string]*metrics.Metric)
		for _, scope := range m.ScopeMetrics {
			if scope.Scope.Name != "afterfin" {
				r.Errorf("a scope %q", scope.Scope.Name)
			}
			for _, each := range scope.Metrics {
				if found[each.Name] != nil {
					r.Errorf("%s is there twice", each.Name)
				}
				found[each.Name] = each
			}
		}
		if len(found) > 0 {
			return m, found
		}
	}
}

// TestMetrics: they come under OpenTelemetry's names, as what they are.
func TestMetrics(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	r.up(takes)
	registry := prometheus.NewRegistry()
	registry.MustRegister(export.NewCollector(snapshot, export.Options{}), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	e := r.export(Config{Every: 10 * time.Millisecond}, registry)
	from, found := r.push()
	r.close(e, patience)

	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	about := values(from.Resource.Attributes)
	for name, want := range map[string]any{"service.name": "afterfin", "service.version": "v1.2.3", "host.name": host} {
		if about[name] != want {
			t.Errorf("resource: %s is %v, want %v", name, about[name], want)
		}
	}
	for _, c := range []struct {
		name, unit string
		monotonic  bool // of a sum
		points     []point
	}{
		{"system.network.connection.count", "{connection}", false, []point{
			{map[string]any{"network.transport": "tcp", "network.connection.state": "close_wait"}, 3},
			{map[string]any{"network.transport": "tcp", "network.connection.state": "time_wait"}, 7},
		}},
		{"afterfin.transitions", "", true, []point{{map[string]any{"from": "FIN_WAIT2", "to": "TIME_WAIT"}, 9}}},
		{"process.cpu.time", "s", true, nil},
		{"process.memory.usage", "By", false, nil},
		{"process.memory.virtual", "By", false, nil},
		{"process.unix.file_descriptor.count", "{file_descriptor}", false, nil},
	} {
		m := found[c.name]
		sum := m.GetSum()
		if sum == nil {
			t.Errorf("%s is no sum: %v", c.name, m)
			continue
		}
		if m.Unit != c.unit || sum.IsMonotonic != c.monotonic || sum.AggregationTemporality != metrics.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE {
			t.Errorf("%s: unit %q, monotonic %v, %v", c.name, m.Unit, sum.IsMonotonic, sum.AggregationTemporality)
		}
		if got := points(sum.DataPoints); c.points != nil && !reflect.DeepEqual(got, c.points) {
			t.Errorf("%s: %v, want %v", c.name, got, c.points)
		}
		if since := sum.DataPoints[0].StartTimeUnixNano; c.monotonic && (since == 0 || since > uint64(time.Now().UnixNano())) {
			t.Errorf("%s: counted since %d", c.name, since)
		}
	}
	for _, c := range []struct {
		name, unit string
		value      float64
	}{
		{"afterfin.bpf_map", "By", 4096}, {"afterfin.time_wait_fill", "1", 0.25}, {"afterfin.look_duration", "s", 0}, {"afterfin.time_wait_orphan_sockets", "", 0},
	} {
		m := found[c.name]
		if gauge := m.GetGauge(); gauge == nil || m.Unit != c.unit || len(gauge.DataPoints) != 1 || gauge.DataPoints[0].GetAsDouble() != c.value {
			t.Errorf("%s: %v, want a gauge of %v in %q", c.name, m, c.value, c.unit)
		}
	}
	lengths(t, found["afterfin.time_wait_duration"])
	for name := range found {
		if strings.HasSuffix(name, "_total") || strings.HasSuffix(name, "_seconds") || !strings.Contains(name, ".") {
			t.Errorf("%s is a name of Prometheus", name)
		}
	}
}

type point struct {
	labels map[string]any
	value  float64
}

func points(in []*metrics.NumberDataPoint) (out []point) {
	for _, p := range in {
		out = append(out, point{values(p.Attributes), p.GetAsDouble()})
	}
	return out
}

// lengths checks the histogram of TIME_WAIT: five of 61 s, in a bucket around that.
func lengths(t *testing.T, m *metrics.Metric) {
	t.Helper()
	h := m.GetExponentialHistogram()
	if h == nil || m.Unit != "s" || h.AggregationTemporality != metrics.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE || len(h.DataPoints) != 2 {
		t.Fatalf("TIME_WAIT: %v", m)
	}
	for _, p := range h.DataPoints {
		want := uint64(0)
		if values(p.Attributes)["end"] == "expired" {
			want = 5
		}
		if p.Count != want || p.GetSum() != 61*float64(want) {
			t.Errorf("TIME_WAIT: %v", p)
		}
		base := math.Exp2(math.Exp2(-float64(p.Scale)))
		for i, n := range p.Positive.GetBucketCounts() {
			low := math.Pow(base, float64(int(p.Positive.Offset)+i))
			if n > 0 && (n != want || low > 61 || low*base < 61) {
				t.Errorf("%d from %.2f to %.2f s, want %d of 61 s", n, low, low*base, want)
			}
			want -= n
		}
		if want != 0 {
			t.Errorf("%d in no bucket: %v", want, p)
		}
	}
}

// TestFailed: pushes that fail are counted, and so are metrics that cannot be had.
func TestFailed(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	asked := make(chan int, 1<<16)
	n := 0
	e := r.export(Config{Every: quick}, prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		n++
		asked <- n
		return nil, nil
	}))
	for range 10 { // nobody listens
		wait(t, asked)
	}
	if e.Failed() < 8 { // the last may be on its way
		t.Errorf("%d pushes failed, of 9 or 10", e.Failed())
	}
	r.up(takes)
	wait(t, r.pushed)
	before := e.Failed()
	for range 3 {
		wait(t, r.pushed)
	}
	if e.Failed() != before {
		t.Errorf("%d failed since", e.Failed()-before)
	}
	r.close(e, patience)

	r.set(answer{status: http.StatusBadRequest})
	e = r.export(Config{}, prometheus.NewRegistry())
	r.close(e, patience)
	if e.Failed() != 1 {
		t.Errorf("%d pushes failed, of one that is refused", e.Failed())
	}

	r.set(takes)
	e = r.export(Config{}, prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return nil, errors.New("no") }))
	r.close(e, patience)
	if e.Failed() != 1 {
		t.Errorf("%d pushes failed, of one without metrics", e.Failed())
	}
}
