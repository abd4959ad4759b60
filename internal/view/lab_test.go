// SPDX-License-Identifier: Apache-2.0

package view

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/folklore"
	"afterfin/internal/tcp"
)

func someFinding() *folklore.Finding {
	return &folklore.Finding{
		Claim: &folklore.Claim{
			Name: "a-claim", Text: strings.Repeat("what is said ", 10), Given: "something", Why: "for a reason (tcp_fin())",
		},
		Verdict: folklore.Changed, Since: "6.14", Did: []string{"one thing", "another"}, Traced: true,
		Seen: []folklore.Seen{
			{From: tcp.FinWait2, To: tcp.TimeWait, Count: 8}, {From: tcp.TimeWait, To: tcp.Close, Cause: event.CauseExpired, Count: 8},
		},
		Figures: []folklore.Figure{
			{Name: "max_ns", Value: 61 * time.Second}, {Name: "min_ns"}, {Name: "size_bytes", Value: 2368}, {Name: "emfile", Value: true},
			{Name: "answer", Value: "RST"}, {Name: "none_of", Value: []string{}}, {Name: "some_of", Value: []string{"a", "b"}},
		},
		Took: time.Second, Lost: event.Lost{Ring: 3},
	}
}

func TestWriteFinding(t *testing.T) {
	const want = `CHANGED in 6.14 a-claim: what is said what is said what is said what is said what is said what is said what is
                         said what is said what is said what is said
  given   something
  did     one thing
          another
  seen    FIN_WAIT2→TIME_WAIT 8, TIME_WAIT→CLOSE (expired) 8
  figures max 61.0 s, min not known, size 2,368 bytes, emfile yes, answer RST, none of: none, some of: a; b
  why     for a reason (tcp_fin())
  lost    3 rows (ring full), of the whole host

`
	var b strings.Builder
	if err := WriteFinding(&b, someFinding()); err != nil || b.String() != want {
		t.Errorf("%v:\n%s\nwant\n%s", err, b.String(), want)
	}
	f := someFinding()
	f.Control, f.Traced, f.Lost, f.Err = true, false, event.Lost{}, errors.New("it broke")
	b.Reset()
	if err := WriteFinding(&b, f); err != nil {
		t.Error(err)
	}
	for _, part := range []string{"NO VERDICT (control) a-claim: ", "  given   the other way than: something\n", "  seen    no tracer: by", "  error   it broke\n"} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("no %q in\n%s", part, b.String())
		}
	}
	for _, part := range []string{"figures", "why", "lost"} {
		if strings.Contains(b.String(), "\n  "+part) {
			t.Errorf("%q in\n%s", part, b.String())
		}
	}
}

func TestWriteFindingJSON(t *testing.T) {
	line := func(f *folklore.Finding) (got map[string]any) {
		var b strings.Builder
		if err := WriteFindingJSON(&b, f); err != nil || strings.Count(b.String(), "\n") != 1 {
			t.Fatalf("%v: %q", err, b.String())
		}
		if err := json.Unmarshal([]byte(b.String()), &got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	got := line(someFinding())
	figures := got["figures"].(map[string]any)
	if got["verdict"] != "changed" || got["since"] != "6.14" || got["error"] != nil || got["lost_ring"] != 3.0 || got["took_ns"] != 1e9 ||
		figures["max_ns"] != 61e9 || figures["min_ns"] != nil || len(figures) != 7 || len(got["seen"].([]any)) != 2 {
		t.Errorf("%v", got)
	}
	f := someFinding()
	f.Err, f.Verdict, f.Since, f.Figures, f.Traced, f.Seen = errors.New("it broke"), "", "", nil, false, nil
	got = line(f)
	if v, there := got["verdict"]; v != nil || !there || got["since"] != nil || got["error"] != "it broke" || got["seen"] != nil || len(got["figures"].(map[string]any)) != 0 {
		t.Errorf("%v", got)
	}
}

// Every claim can be listed within the width of text, and says what it rests on.
func TestWriteClaims(t *testing.T) {
	var b strings.Builder
	if err := WriteClaims(&b, folklore.All); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > width {
			t.Errorf("%d wide: %s", n, line)
		}
	}
	for _, c := range folklore.All {
		if !strings.Contains(b.String(), "\n"+c.Name+" ") && !strings.HasPrefix(b.String(), c.Name+" ") || c.Given == "" || c.Why == "" || c.Takes == 0 {
			t.Errorf("%s is not whole", c.Name)
		}
	}
}
