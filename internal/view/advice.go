// SPDX-License-Identifier: Apache-2.0

package view

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"afterfin/internal/advice"
	"afterfin/internal/event"
)

// writeAdvice writes a line for each, under a report that has the facts.
func writeAdvice(b *strings.Builder, list []advice.Advice) {
	for _, a := range list {
		fmt.Fprintf(b, "advice    %s, now %s (%s): %s; it would not %s\n", a.Knob, a.Value, printable(a.Where), a.Would, a.WouldNot)
	}
}

// Advised is the report of doctor --advise.
type Advised struct {
	List        []advice.Advice
	Took        time.Duration // the sample; 0: none
	Unreachable int           // netns, or processes that may be in one
	Unreadable  int           // processes whose descriptors were not shown
	Lost        event.Lost
}

// WriteAdvice writes it for a person.
func WriteAdvice(w io.Writer, r *Advised) error {
	var b strings.Builder
	for _, a := range r.List {
		fmt.Fprintf(&b, "%s = %s   %s\n", a.Knob, a.Value, printable(a.Where))
		fmt.Fprintf(&b, "  fact       %s\n  would      %s\n  would not  %s\n", printable(a.Fact), printable(a.Would), printable(a.WouldNot))
	}
	if len(r.List) == 0 {
		b.WriteString("nothing was measured that a setting would change\n")
	}
	if r.Unreachable > 0 {
		fmt.Fprintf(&b, "netns of %s not entered (CAP_SYS_ADMIN, CAP_SYS_PTRACE)\n", plural(r.Unreachable, "process"))
	}
	if r.Unreadable > 0 {
		fmt.Fprintf(&b, "descriptors of %s not counted (CAP_SYS_PTRACE)\n", plural(r.Unreadable, "process"))
	}
	if r.Took > 0 {
		fmt.Fprintf(&b, "in %s   lost %s\n", Duration(r.Took), LostText(r.Lost))
	} else {
		b.WriteString("one look, without BPF: what tcp_tw_reuse would take, and what a RST ends, was not looked for\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteAdviceJSON writes it as one document, with the checks of doctor, which this package needs
// not know.
func WriteAdviceJSON[Check any](w io.Writer, checks []Check, r *Advised) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		Checks      []Check         `json:"checks"`
		Advice      []advice.Advice `json:"advice"`
		Sample      *int64          `json:"sample_ns"`
		Unreachable int             `json:"unreachable"`
		Unreadable  int             `json:"unreadable"`
		Lost        *event.Lost     `json:"lost"`
	}{checks, adviceJSON(r.List), some(int64(r.Took), r.Took > 0), r.Unreachable, r.Unreadable, some(r.Lost, r.Took > 0)})
}

// adviceJSON is never null.
func adviceJSON(list []advice.Advice) []advice.Advice {
	if list == nil {
		return []advice.Advice{}
	}
	return list
}
