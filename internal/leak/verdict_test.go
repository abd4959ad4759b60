// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"testing"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/owner"
	"afterfin/internal/tcp"
)

func unread(n uint32) func(*Socket) { return func(s *Socket) { s.RecvQ = n } }

func TestVerdict(t *testing.T) {
	ulp := func(u event.ULP) func(*Socket) { return func(s *Socket) { s.Info.ULP = u } }
	for name, c := range map[string]struct {
		change   func(*Socket)
		want     Verdict
		inferred bool
	}{
		"the end was read":                {unread(0), EOFRead, false},
		"the end is unread":               {unread(1), EOFUnread, false},
		"one byte and the end":            {unread(2), DataUnread, false},
		"shorter than any goodbye of TLS": {unread(23), DataUnread, false},
		"a TLS 1.2 goodbye by ChaCha20":   {unread(24), TLSCloseUnread, true},
		"a TLS 1.3 goodbye":               {unread(25), TLSCloseUnread, true},
		"longer than that":                {unread(26), DataUnread, false},
		"shorter than a TLS 1.2 goodbye":  {unread(31), DataUnread, false},
		"a TLS 1.2 goodbye":               {unread(32), TLSCloseUnread, true},
		"longer than that one":            {unread(33), DataUnread, false},
		"not accepted, Recv-Q 1":          {func(s *Socket) { s.Inode, s.RecvQ, s.Holders = 0, 1, nil }, NotAccepted, false},
		"not accepted, data":              {func(s *Socket) { s.Inode, s.RecvQ, s.Holders = 0, 25, nil }, NotAccepted, false},
		"registered with an io_uring":     {func(s *Socket) { s.Fixed, s.Holders = s.Holders, nil }, NoFD, false},
		"registered, and a descriptor":    {func(s *Socket) { s.Fixed = s.Holders }, EOFRead, false},
		"kTLS reads in the program's way": {ulp(event.ULPTLS), Undecided, false},
		"so does smc":                     {ulp(event.ULPOther), Undecided, false},
		"a subflow of MPTCP":              {ulp(event.ULPMPTCP), Undecided, false},
		"a subflow of MPTCP, no file":     {func(s *Socket) { s.Info.ULP, s.Inode = event.ULPMPTCP, 0 }, Undecided, false},
		"something to send":               {func(s *Socket) { s.SendQ, s.RecvQ = 1, 1 }, StillSending, false},
		"something to send by kTLS":       {func(s *Socket) { s.SendQ, s.Info.ULP = 1, event.ULPTLS }, StillSending, false},
		"something to send, held by none": {func(s *Socket) { s.SendQ, s.Holders = 1, nil }, NoFD, true},
		"FIN_WAIT2":                       {func(s *Socket) { s.State, s.RecvQ = tcp.FinWait2, 25 }, PeerOpen, false},
		"FIN_WAIT2 without holder":        {func(s *Socket) { s.State, s.Holders = tcp.FinWait2, nil }, PeerOpen, false},
	} {
		s := socket(c.change)
		v, inferred := judge(&s, ageOf(&s, looked, tick), found())
		if v != c.want || inferred != c.inferred {
			t.Errorf("%s: %v, inferred %v; want %v, %v", name, v, inferred, c.want, c.inferred)
		}
	}
}

// Sent after the FIN, and lately: the program uses the half that is still open. The
// look ends a second after the dump.
func TestStillSending(t *testing.T) {
	info := func(sent, received, acked time.Duration) func(*Socket) {
		return func(s *Socket) {
			s.Info.LastDataSent, s.Info.LastDataRecv, s.Info.LastAckRecv = sent, received, acked
		}
	}
	entered := func(at, sent time.Duration) func(*Socket) {
		return func(s *Socket) { s.Entered, s.Info.LastDataSent = at, sent }
	}
	for name, c := range map[string]struct {
		change func(*Socket)
		want   Verdict
	}{
		"long after the FIN, lately":        {entered(dumped-60*sec, 2*sec), StillSending},
		"long after the FIN, not lately":    {entered(dumped-60*sec, 10*sec), EOFRead},
		"shortly before the FIN":            {entered(dumped-2*sec, 2100*ms), EOFRead},
		"at the FIN, to a tick":             {entered(dumped-2*sec, 2*sec-tick), EOFRead},
		"just after the FIN":                {entered(dumped-2*sec, 2*sec-tick-1*ms), StillSending},
		"age exact from the kernel's times": {info(3*sec, 20*sec, 2*sec), EOFRead},
		"before or after a FIN that may be": {info(2*sec, 30*sec, 2*sec), StillSending},
		"all of it lately":                  {info(2*sec, 3*sec, 2*sec), EOFRead},
		"nothing was ever sent":             {func(s *Socket) { s.Entered, s.Info.LastDataSent, s.Info.DataSegsOut = dumped-60*sec, 2*sec, 0 }, EOFRead},
		"no times":                          {func(s *Socket) { s.Info = event.Info{DataSegsOut: 3} }, EOFRead},
	} {
		s := socket(c.change)
		if v, _ := judge(&s, ageOf(&s, looked, tick), found()); v != c.want {
			t.Errorf("%s: %v, want %v", name, v, c.want)
		}
	}
}

// A socket with a file that no descriptor leads to.
func TestVerdictWithoutHolder(t *testing.T) {
	carrier := []owner.Carrier{{Holder: held(process(1, 0))[0], Count: 1}}
	for name, c := range map[string]struct {
		f        Found
		want     Verdict
		inferred bool
	}{
		"all showed theirs":               {Found{}, NoFD, true},
		"some did not":                    {Found{Unreadable: 1}, Undecided, false},
		"descriptors are under way":       {Found{Carriers: carrier}, InFlight, true},
		"an io_uring has it, most likely": {Found{Rings: carrier}, NoFD, true},
		"one of the two":                  {Found{Carriers: carrier, Rings: carrier}, Undecided, false},
	} {
		s := socket(func(s *Socket) { s.Holders, s.RecvQ = nil, 1 })
		if v, inferred := judge(&s, ageOf(&s, looked, tick), &c.f); v != c.want || inferred != c.inferred {
			t.Errorf("%s: %v, inferred %v; want %v, %v", name, v, inferred, c.want, c.inferred)
		}
	}
}

func TestVerdictWords(t *testing.T) {
	seen := make(map[string]bool)
	for v := Undecided; v <= PeerOpen; v++ {
		if word := v.String(); word == "" || seen[word] {
			t.Errorf("verdict %d is %q", v, word)
		} else {
			seen[word] = true
		}
	}
}
