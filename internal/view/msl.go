// SPDX-License-Identifier: Apache-2.0

package view

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/timewait"
)

// MSL is what msl measured.
type MSL struct {
	timewait.Run
	Counted float64           // ticks a second, as they were
	ByCause map[string]uint64 // what ended them; only those that expired are samples
	Unseen  int               // ends that nobody told of
	Lost    event.Lost
}

// WriteMSL writes it for a person.
func WriteMSL(w io.Writer, m *MSL) error {
	var b strings.Builder
	tick := time.Second / time.Duration(m.HZ)
	fmt.Fprintf(&b, "2MSL of Linux %s (%s), %d connections in a netns of their own\n", printable(m.Kernel), m.Arch, len(m.Samples))
	fmt.Fprintf(&b, "  HZ         %d (%.2f ticks a second were counted)\n", m.HZ, m.Counted)
	fmt.Fprintf(&b, "  timer      set to %s, run at the next multiple of %s (%d jiffies)\n", millis(m.Nominal), millis(m.Bucket), m.Bucket/tick)
	fmt.Fprintf(&b, "  predicted  %s to %s\n", millis(m.PredictedMin()), millis(m.PredictedMax()))
	if len(m.Samples) > 0 {
		l := m.Lengths()
		fmt.Fprintf(&b, "  measured   min %s   median %s   max %s\n", millis(l[0]), millis(timewait.Median(l)), millis(l[len(l)-1]))
		fmt.Fprintf(&b, "  worst      %s\n", offText(m.Worst(), tick))
	}
	for cause, n := range m.ByCause {
		if cause != event.CauseExpired.String() {
			fmt.Fprintf(&b, "  left out   %d that were ended by something else than their timer: %s\n", n, cause)
		}
	}
	if m.Unseen > 0 {
		fmt.Fprintf(&b, "  left out   %d whose end was not seen: lost, or kept from our programs by this kernel\n", m.Unseen)
	}
	fmt.Fprintf(&b, "lost %s\n", LostText(m.Lost))
	_, err := io.WriteString(w, b.String())
	return err
}

func offText(off, tick time.Duration) string {
	how := "later"
	if off < 0 {
		how = "earlier"
	}
	return fmt.Sprintf("%s %s than predicted (a jiffy is %s)", Duration(off.Abs()), how, Duration(tick))
}

// millis are seconds to the millisecond: what a jiffy makes is to be seen.
func millis(d time.Duration) string { return seconds(d, 3) + " s" }

// The document of msl -o json, described in docs/json.md.
type mslDocument struct {
	Time       string            `json:"time"`
	Kernel     string            `json:"kernel"`
	Arch       string            `json:"arch"`
	HZ         int               `json:"hz"`
	Counted    float64           `json:"hz_counted"`
	Nominal    int64             `json:"nominal_ns"`
	Bucket     int64             `json:"bucket_ns"`
	PredictMin int64             `json:"predicted_min_ns"`
	PredictMax int64             `json:"predicted_max_ns"`
	Min        *int64            `json:"min_ns"`
	P50        *int64            `json:"p50_ns"`
	P99        *int64            `json:"p99_ns"`
	Max        *int64            `json:"max_ns"`
	Worst      *int64            `json:"worst_error_ns"`
	ByCause    map[string]uint64 `json:"by_cause"`
	Unseen     int               `json:"unseen"`
	Samples    []mslSample       `json:"samples"`
	Lost       event.Lost        `json:"lost"`
}

type mslSample struct {
	Phase     int64 `json:"phase_ns"`
	Measured  int64 `json:"measured_ns"`
	Predicted int64 `json:"predicted_ns"`
}

// WriteMSLJSON writes it as one document on one line.
func WriteMSLJSON(w io.Writer, m *MSL) error {
	doc := mslDocument{
		Time: time.Now().UTC().Format(time.RFC3339Nano), Kernel: m.Kernel, Arch: m.Arch, HZ: m.HZ, Counted: m.Counted,
		Nominal: int64(m.Nominal), Bucket: int64(m.Bucket), PredictMin: int64(m.PredictedMin()), PredictMax: int64(m.PredictedMax()),
		ByCause: m.ByCause, Unseen: m.Unseen, Samples: []mslSample{}, Lost: m.Lost,
	}
	if l := m.Lengths(); len(l) > 0 {
		doc.Min, doc.P50, doc.P99, doc.Max = some(int64(l[0]), true), some(int64(timewait.Median(l)), true), some(int64(l[(len(l)*99+99)/100-1]), true), some(int64(l[len(l)-1]), true)
		doc.Worst = some(int64(m.Worst()), true)
	}
	for _, s := range m.Samples {
		doc.Samples = append(doc.Samples, mslSample{int64(s.Phase), int64(s.Measured), int64(s.Predicted)})
	}
	return json.NewEncoder(w).Encode(doc)
}
