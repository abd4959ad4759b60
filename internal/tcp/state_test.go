// SPDX-License-Identifier: Apache-2.0

package tcp

import "testing"

func TestParseState(t *testing.T) {
	for text, want := range map[string]State{
		"close-wait": CloseWait, "CLOSE_WAIT": CloseWait, "close_wait": CloseWait, "closewait": CloseWait,
		"fin-wait-1": FinWait1, "FIN_WAIT1": FinWait1, "fin_wait_1": FinWait1, "FIN-WAIT-2": FinWait2,
		"time-wait": TimeWait, "TCP_TIME_WAIT": TimeWait, "estab": Established, "established": Established,
		"closed": Close, "CLOSE": Close, "listen": Listen, "listening": Listen, "syn-recv": SynRecv,
		"syn-received": SynRecv, "last-ack": LastAck, "closing": Closing, " syn_sent ": SynSent,
	} {
		if got, err := ParseState(text); err != nil || got != want {
			t.Errorf("ParseState(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "wait", "close wait", "tcp", "7", "fin-wait-3"} {
		if got, err := ParseState(text); err == nil {
			t.Errorf("ParseState(%q) = %v, want an error", text, got)
		}
	}
}

// The numbers are the kernel's: TCPI_STATE in tcp_info and idiag_state use them too.
func TestKernelNumbers(t *testing.T) {
	for s, n := range map[State]uint8{Established: 1, SynRecv: 3, TimeWait: 6, Close: 7, CloseWait: 8, Listen: 10, Closing: 11, NewSynRecv: 12} {
		if uint8(s) != n {
			t.Errorf("%v = %d, want %d", s, uint8(s), n)
		}
		if back, err := ParseState(s.String()); err != nil || back != s {
			t.Errorf("ParseState(%v) = %v, %v", s, back, err)
		}
	}
	if got := State(99).String(); got != "STATE(99)" {
		t.Errorf("State(99) = %s", got)
	}
}

func TestStateSet(t *testing.T) {
	var set StateSet
	set.Add(CloseWait)
	set.Add(TimeWait)
	if !set.Has(CloseWait) || !set.Has(TimeWait) || set.Has(Close) {
		t.Errorf("set %b", set)
	}
	for s := range State(20) {
		if want := s >= Established && s <= NewSynRecv && s != Close; Live.Has(s) != want {
			t.Errorf("Live.Has(%v) = %v", s, !want)
		}
	}
}
