// SPDX-License-Identifier: Apache-2.0

package main

import "testing"

func TestSummarize(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   spread
	}{
		{nil, spread{}},
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{5, 1, 3}, spread{3, 1, 5}},
		{[]float64{4, 1, 3, 2}, spread{2.5, 1, 4}},
	} {
		if got := summarize(c.values); got != c.want {
			t.Errorf("%v: %v, want %v", c.values, got, c.want)
		}
	}
	values := []float64{2, 1}
	summarize(values)
	if values[0] != 2 {
		t.Error("the values of the rounds are out of order")
	}
}

func TestField(t *testing.T) {
	text := []byte("VmRSS:\t   12 kB\nmemlock:\t4096\nmap_id:\t7\nempty:\n")
	for name, want := range map[string]int64{"VmRSS:": 12, "memlock:": 4096, "map_id:": 7, "empty:": 0, "none:": 0} {
		if got := field(text, name); got != want {
			t.Errorf("%s %d, want %d", name, got, want)
		}
	}
}
