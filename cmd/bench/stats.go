// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
)

// spread is the median of some measurements, with the least and the most.
type spread struct{ median, min, max float64 }

func summarize(values []float64) (s spread) {
	if len(values) == 0 {
		return s
	}
	sorted := slices.Sorted(slices.Values(values))
	s.min, s.max = sorted[0], sorted[len(sorted)-1]
	s.median = (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
	return s
}

// text is the median, with the least and the most behind it.
func (s spread) text(format string) string {
	return fmt.Sprintf(format+" ("+format+" to "+format+")", s.median, s.min, s.max)
}
