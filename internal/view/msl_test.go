// SPDX-License-Identifier: Apache-2.0

package view

import (
	"strings"
	"testing"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/timewait"
)

func someMSL() *MSL {
	return &MSL{
		Run: timewait.Run{Kernel: "6.12.1\x1b", Arch: "x86_64", HZ: 250, Nominal: time.Minute, Bucket: 2048 * time.Millisecond, Samples: []timewait.Sample{
			{Phase: 8 * time.Millisecond, Measured: 62040*time.Millisecond + 200*time.Microsecond, Predicted: 62040 * time.Millisecond},
			{Phase: 2000 * time.Millisecond, Measured: 60048 * time.Millisecond, Predicted: 60048*time.Millisecond + 100*time.Microsecond},
		}},
		Counted: 249.998, ByCause: map[string]uint64{"expired": 2, "reset": 1}, Unseen: 3,
	}
}

func TestMSLText(t *testing.T) {
	var b strings.Builder
	if err := WriteMSL(&b, someMSL()); err != nil {
		t.Fatal(err)
	}
	const want = `2MSL of Linux 6.12.1? (x86_64), 2 connections in a netns of their own
  HZ         250 (250.00 ticks a second were counted)
  timer      set to 60.000 s, run at the next multiple of 2.048 s (512 jiffies)
  predicted  60.000 s to 62.048 s
  measured   min 60.048 s   median 61.044 s   max 62.040 s
  worst      200 µs later than predicted (a jiffy is 4.00 ms)
  left out   1 that were ended by something else than their timer: reset
  left out   3 whose end was not seen: lost, or kept from our programs by this kernel
lost nothing
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	m := someMSL()
	m.Samples = nil
	m.Lost = event.Lost{Ring: 1}
	b.Reset()
	if err := WriteMSL(&b, m); err != nil || strings.Contains(b.String(), "measured") || !strings.Contains(b.String(), "lost 1 rows") {
		t.Errorf("without samples: %v\n%s", err, b.String())
	}
}

func TestMSLJSON(t *testing.T) {
	var b strings.Builder
	if err := WriteMSLJSON(&b, someMSL()); err != nil {
		t.Fatal(err)
	}
	const want = `"hz":250,"hz_counted":249.998,"nominal_ns":60000000000,"bucket_ns":2048000000,"predicted_min_ns":60000000000,"predicted_max_ns":62048000000,` +
		`"min_ns":60048000000,"p50_ns":61044100000,"p99_ns":62040200000,"max_ns":62040200000,"worst_error_ns":200000,"by_cause":{"expired":2,"reset":1},"unseen":3,` +
		`"samples":[{"phase_ns":8000000,"measured_ns":62040200000,"predicted_ns":62040000000},{"phase_ns":2000000000,"measured_ns":60048000000,"predicted_ns":60048100000}],"lost":{`
	if !strings.Contains(b.String(), want) {
		t.Errorf("got  %s\nwant %s", b.String(), want)
	}
	m := someMSL()
	m.Samples = nil
	b.Reset()
	if err := WriteMSLJSON(&b, m); err != nil || !strings.Contains(b.String(), `"min_ns":null,"p50_ns":null,"p99_ns":null,"max_ns":null,"worst_error_ns":null`) || !strings.Contains(b.String(), `"samples":[]`) {
		t.Errorf("without samples: %v\n%s", err, b.String())
	}
}
