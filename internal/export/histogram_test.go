// SPDX-License-Identifier: Apache-2.0

package export

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	dto "github.com/prometheus/client_model/go"

	"afterfin/internal/event"
)

// histogram has these values, in microseconds, as the kernel side counts them.
func histogram(values ...uint64) *event.Histogram {
	h := &event.Histogram{}
	for _, v := range values {
		h.Slots[slotOf(v)]++
		h.Count++
		h.Sum += v
	}
	return h
}

func slotOf(value uint64) int {
	slot := 0
	for slot+1 < event.Slots && event.SlotFloor(slot+1) <= value {
		slot++
	}
	return slot
}

func written(t *testing.T, h *event.Histogram) *dto.Histogram {
	t.Helper()
	var out dto.Metric
	if err := newKernelHistogram(twLength, h, []string{"end"}, "expired").Write(&out); err != nil {
		t.Fatal(err)
	}
	if len(out.Label) != 1 || out.Label[0].GetName() != "end" || out.Label[0].GetValue() != "expired" {
		t.Errorf("labels %v", out.Label)
	}
	return out.Histogram
}

// decoded are the counts of the native buckets by their index, as Prometheus reads them.
func decoded(t *testing.T, h *dto.Histogram) map[int]uint64 {
	t.Helper()
	by := make(map[int]uint64)
	index, delta, count := 0, 0, int64(0)
	for n, span := range h.PositiveSpan {
		if n > 0 && span.GetOffset() < 0 {
			t.Fatalf("span %d goes back by %d", n, span.GetOffset())
		}
		index += int(span.GetOffset())
		for range span.GetLength() {
			count += h.PositiveDelta[delta]
			if count < 0 {
				t.Fatalf("bucket %d has %d", index, count)
			}
			by[index] = uint64(count)
			delta++
			index++
		}
	}
	if delta != len(h.PositiveDelta) {
		t.Errorf("%d deltas for %d buckets", len(h.PositiveDelta), delta)
	}
	return by
}

// upper is the upper bound of a native bucket of schema 5.
func upper(i int) float64 { return math.Exp2(float64(i) / 32) }

// check compares it with what was put in.
func check(t *testing.T, values ...uint64) {
	t.Helper()
	h := written(t, histogram(values...))
	sum := 0.0
	for _, v := range values {
		sum += float64(v) / 1e6
	}
	if h.GetSampleCount() != uint64(len(values)) || math.Abs(h.GetSampleSum()-sum) > 1e-6*max(1, sum) {
		t.Errorf("%d with a sum of %v, want %d and %v", h.GetSampleCount(), h.GetSampleSum(), len(values), sum)
	}
	for i, b := range h.Bucket {
		if i > 0 && b.GetUpperBound() <= h.Bucket[i-1].GetUpperBound() {
			t.Fatalf("bucket %d ends at %v", i, b.GetUpperBound())
		}
		below := uint64(0)
		for _, v := range values {
			if float64(v)/1e6 < b.GetUpperBound() {
				below++
			}
		}
		if b.GetCumulativeCount() != below {
			t.Errorf("%d below %v, want %d", b.GetCumulativeCount(), b.GetUpperBound(), below)
		}
	}
	if h.GetSchema() != 5 || h.GetZeroThreshold() <= 0 || len(h.PositiveSpan) == 0 {
		t.Errorf("not native: schema %d, zero threshold %v, spans %v", h.GetSchema(), h.GetZeroThreshold(), h.PositiveSpan)
	}
	want, zero := make(map[int]uint64), uint64(0)
	for _, v := range values {
		slot := slotOf(v)
		seconds := (float64(event.SlotFloor(slot)) + math.Floor(float64(event.SlotFloor(slot+1)-event.SlotFloor(slot))/2)) / 1e6
		if seconds <= h.GetZeroThreshold() {
			zero++
			continue
		}
		i := -1000
		for upper(i) < seconds {
			i++
		}
		want[i]++
	}
	got := decoded(t, h)
	maps.DeleteFunc(got, func(_ int, n uint64) bool { return n == 0 })
	if !maps.Equal(got, want) || h.GetZeroCount() != zero {
		t.Errorf("native %v and %d of zero, want %v and %d", got, h.GetZeroCount(), want, zero)
	}
}

func TestHistogram(t *testing.T) {
	var around, borders []uint64
	for _, slot := range timeWaitBounds {
		around = append(around, event.SlotFloor(slot)-1, event.SlotFloor(slot), event.SlotFloor(slot)+1)
	}
	for slot := 0; slot < event.Slots; slot++ {
		borders = append(borders, event.SlotFloor(slot))
	}
	random := rand.New(rand.NewPCG(1, 2))
	var lengths []uint64
	for range 2000 {
		lengths = append(lengths, 60_000_000+random.Uint64N(2_048_000), random.Uint64N(90_000_000))
	}
	for name, values := range map[string][]uint64{
		"one":                     {60_500_000},
		"zero":                    {0, 0, 0},
		"the least that is not":   {1},
		"zero and more":           {0, 1, 2, 255, 256, 257, 1 << 20},
		"a power of two":          {1_000_000, 2_000_000, 500_000, 64_000_000},
		"more than the last slot": {1<<36 - 1<<28},
		"around the bounds":       around,
		"each slot":               borders,
		"as they are":             lengths,
	} {
		t.Run(name, func(t *testing.T) { check(t, values...) })
	}
}

// A value is in the native bucket of the middle of its slot, so it is told 0.4 % off at most: in
// that bucket or a hair beside.
func TestNativeIsNear(t *testing.T) {
	for _, v := range []uint64{3, 999, 100_000, 59_999_999, 60_000_000, 61_234_567, 120_000_000} {
		for i := range decoded(t, written(t, histogram(v))) {
			if s := float64(v) / 1e6; s <= upper(i-1)*0.996 || s > upper(i)*1.004 {
				t.Errorf("%v is in bucket %d, from %v to %v", s, i, upper(i-1), upper(i))
			}
		}
	}
}

// Native without a value: else the first value of all would make another type of the series.
func TestEmptyHistogram(t *testing.T) {
	h := written(t, &event.Histogram{})
	if h.GetSampleCount() != 0 || h.SampleSum == nil || h.GetZeroCount() != 0 || len(h.PositiveDelta) != 0 {
		t.Errorf("%v", h)
	}
	if len(h.PositiveSpan) != 1 || h.PositiveSpan[0].GetLength() != 0 || h.Schema == nil {
		t.Errorf("not native: %v", h)
	}
	if len(h.Bucket) != len(timeWaitBounds) {
		t.Errorf("%d classic buckets", len(h.Bucket))
	}
}

// 200 million times a minute: more than a time.Duration holds, and a few days of a busy host.
func TestSumOfManyDays(t *testing.T) {
	const n = 200_000_000
	h := &event.Histogram{Count: n, Sum: n * 60_000_000}
	h.Slots[slotOf(60_000_000)] = n
	if got := written(t, h).GetSampleSum(); got != n*60 {
		t.Errorf("sum %v, want %v", got, n*60)
	}
}

// Nothing that is exactly 0 or less is in a bucket that has the zero threshold inside.
func TestZeroThreshold(t *testing.T) {
	h := written(t, histogram(0, 1))
	for i := range decoded(t, h) {
		if upper(i-1) < h.GetZeroThreshold() {
			t.Errorf("bucket %d begins at %v, below the threshold %v", i, upper(i-1), h.GetZeroThreshold())
		}
	}
}

func TestTimeWaitBounds(t *testing.T) {
	if !slices.IsSorted(timeWaitBounds) || len(slices.Compact(slices.Clone(timeWaitBounds))) != 20 {
		t.Errorf("%v", timeWaitBounds)
	}
	for i, want := range map[int]float64{0: 0.1, 7: 60, 10: 61, 19: 120} {
		if got := float64(event.SlotFloor(timeWaitBounds[i])) / 1e6; math.Abs(got-want)/want > 0.004 {
			t.Errorf("bound %d is %v, want nearly %v", i, got, want)
		}
	}
}
