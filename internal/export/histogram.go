// SPDX-License-Identifier: Apache-2.0

package export

import (
	"math"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"afterfin/internal/event"
)

// timeWaitBounds are the classic buckets of how long TIME_WAIT lasts, in microseconds: close
// around 60 s and what the timer wheel adds to it, at 2 ms, 16 ms and so on to 2 s for
// HZ=1000 to 100. Each is where one of the kernel's slots begins, so that what is counted below it
// is exact: the nearest to the number in mind.
var timeWaitBounds = nearestSlots(1e5, 1e6, 5e6, 15e6, 30e6, 45e6, 59.7e6, 60e6, 60.3e6, 60.6e6, 61e6, 61.5e6, 62e6, 62.5e6, 63e6, 64e6, 66e6, 75e6, 90e6, 120e6)

func nearestSlots(wanted ...float64) []int {
	var slots []int
	for _, want := range wanted {
		slot := 0
		for slot+1 < event.Slots && math.Abs(float64(event.SlotFloor(slot+1))-want) <= math.Abs(float64(event.SlotFloor(slot))-want) {
			slot++
		}
		slots = append(slots, slot)
	}
	return slots
}

// nativeSchema: 32 buckets between two powers of two, each 2.2 % wide.
const nativeSchema = 5

// nativeZero is the bound of the bucket of zeros: one of a bucket's as well, and below a microsecond.
const nativeZero = 1.0 / (1 << 20)

// kernelHistogram is a histogram of the kernel side's as a metric, in classic and in native
// buckets. Its values are microseconds.
type kernelHistogram struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair
	counts *event.Histogram
}

func newKernelHistogram(desc *prometheus.Desc, h *event.Histogram, names []string, values ...string) kernelHistogram {
	m := kernelHistogram{desc: desc, counts: h}
	for i, name := range names {
		m.labels = append(m.labels, &dto.LabelPair{Name: &name, Value: &values[i]})
	}
	return m
}

// Desc is part of prometheus.Metric.
func (m kernelHistogram) Desc() *prometheus.Desc { return m.desc }

// Write is part of prometheus.Metric.
func (m kernelHistogram) Write(out *dto.Metric) error {
	out.Label = m.labels
	sum := float64(m.counts.Sum) / 1e6
	out.Histogram = &dto.Histogram{SampleCount: &m.counts.Count, SampleSum: &sum}
	m.classic(out.Histogram)
	m.native(out.Histogram)
	return nil
}

func (m kernelHistogram) classic(out *dto.Histogram) {
	below, slot := uint64(0), 0
	for _, bound := range timeWaitBounds {
		for ; slot < bound; slot++ {
			below += m.counts.Slots[slot]
		}
		count, upper := below, float64(event.SlotFloor(bound))/1e6
		out.Bucket = append(out.Bucket, &dto.Bucket{CumulativeCount: &count, UpperBound: &upper})
	}
}

// native puts each slot where its middle belongs: it is finer than the bucket.
func (m kernelHistogram) native(out *dto.Histogram) {
	schema, threshold, zero := int32(nativeSchema), nativeZero, uint64(0)
	buckets := make(map[int]uint64)
	for slot, n := range m.counts.Slots {
		switch {
		case n == 0:
		case slot == 0:
			zero += n
		default:
			low, high := event.SlotFloor(slot), event.SlotFloor(slot+1)
			seconds := float64(low+(high-low)/2) / 1e6
			buckets[int(math.Ceil(math.Log2(seconds)*(1<<nativeSchema)))] += n
		}
	}
	out.Schema, out.ZeroThreshold, out.ZeroCount = &schema, &threshold, &zero
	indices := make([]int, 0, len(buckets))
	for i := range buckets {
		indices = append(indices, i)
	}
	slices.Sort(indices)
	next, before := 0, int64(0)
	for n, i := range indices {
		if n == 0 || i != next {
			gap, none := int32(i-next), uint32(0)
			out.PositiveSpan = append(out.PositiveSpan, &dto.BucketSpan{Offset: &gap, Length: &none})
		}
		*out.PositiveSpan[len(out.PositiveSpan)-1].Length++
		out.PositiveDelta = append(out.PositiveDelta, int64(buckets[i])-before)
		before, next = int64(buckets[i]), i+1
	}
	if len(indices) == 0 { // a span without buckets says that it is native, and empty
		zero, none := int32(0), uint32(0)
		out.PositiveSpan = []*dto.BucketSpan{{Offset: &zero, Length: &none}}
	}
}
