// SPDX-License-Identifier: Apache-2.0

package main

import "slices"

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

// paired gives the ratio of each measurement to the one of the same round: what changes from round to round, both have.
func paired(values, base []float64) (ratios []float64) {
	for i, v := range values {
		if i < len(base) && base[i] != 0 {
			ratios = append(ratios, v/base[i])
		}
	}
	return ratios
}

// differences is the same with differences.
func differences(values, base []float64) (d []float64) {
	for i, v := range values {
		if i < len(base) {
			d = append(d, v-base[i])
		}
	}
	return d
}
