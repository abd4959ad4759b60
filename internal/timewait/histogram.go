// SPDX-License-Identifier: Apache-2.0

package timewait

import "afterfin/internal/event"

// Quantile gives the value below which a part of the values lie, 0.5 for half of them: to the
// width of a slot, 0.8 %, and never outside of what was seen. 0 without values.
func Quantile(h *event.Histogram, part float64) uint64 {
	rank := part * float64(h.Count)
	seen := 0.0
	for slot, n := range h.Slots {
		if n == 0 {
			continue
		}
		if here := float64(n); seen+here < rank {
			seen += here
			continue
		}
		low := event.SlotFloor(slot)
		width := float64(event.SlotFloor(slot+1) - low)
		if width == 1 { // whole numbers, each with its own slot
			return low
		}
		// As if they lay evenly in their slot.
		v := low + uint64(width*(rank-seen)/float64(n))
		return min(max(v, h.Least), h.Most)
	}
	return h.Most
}

// Merge gives the values of both.
func Merge(a, b *event.Histogram) *event.Histogram {
	sum := *a
	for i, n := range b.Slots {
		sum.Slots[i] += n
	}
	sum.Count += b.Count
	sum.Sum += b.Sum
	sum.Most = max(a.Most, b.Most)
	if a.Count == 0 || b.Count > 0 && b.Least < a.Least {
		sum.Least = b.Least
	}
	return &sum
}

// Bin is a range of values, from Low to below High, and how many lie in it.
type Bin struct {
	Low, High uint64
	Count     uint64
}

// Bins gives the range of the values in at most n equal parts, for a picture of it; the parts
// end where slots do.
func Bins(h *event.Histogram, n int) []Bin {
	if h.Count == 0 {
		return nil
	}
	step := max(1, (h.Most-h.Least+uint64(n))/uint64(n))
	var bins []Bin
	for slot, count := range h.Slots {
		low, high := event.SlotFloor(slot), event.SlotFloor(slot+1)
		if count == 0 && (high <= h.Least || low > h.Most) {
			continue
		}
		if last := len(bins) - 1; last >= 0 && high-bins[last].Low <= step {
			bins[last].High = high
			bins[last].Count += count
			continue
		}
		bins = append(bins, Bin{low, high, count})
	}
	return bins
}
