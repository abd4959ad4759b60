// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"testing"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

func TestAge(t *testing.T) {
	info := func(sent, received, acked time.Duration) event.Info {
		return event.Info{Known: true, LastDataSent: sent, LastDataRecv: received, LastAckRecv: acked, RTO: 200 * ms, DataSegsOut: 1}
	}
	with := func(i event.Info, change func(*event.Info)) event.Info {
		change(&i)
		return i
	}
	timer := func(timer event.Timer) event.Info {
		return with(info(90*sec, 80*sec, 60*sec), func(i *event.Info) { i.Timer = timer })
	}
	exact := func(d time.Duration) Age { return Age{d - tick, d + tick, Exact} }
	bound := func(least, most time.Duration) Age { return Age{max(0, least-tick), most + tick, Bound} }
	for name, c := range map[string]struct {
		state tcp.State
		info  event.Info
		want  Age // at the dump
	}{
		"not told":                          {tcp.CloseWait, event.Info{}, Age{}},
		"idle before the FIN":               {tcp.CloseWait, info(90*sec, 80*sec, 60*sec), exact(60 * sec)},
		"FIN with data":                     {tcp.CloseWait, info(30*sec, 60*sec, 60*sec), exact(60 * sec)},
		"FIN with data, a tick between":     {tcp.CloseWait, info(30*sec, 60*sec-tick, 60*sec), exact(60 * sec)},
		"sent since, not answered":          {tcp.CloseWait, info(30*sec, 80*sec, 60*sec), bound(60*sec, 80*sec)},
		"sent since, and answered":          {tcp.CloseWait, info(30*sec, 80*sec, 30*sec-100*ms), bound(30*sec-100*ms, 80*sec)},
		"the ACK may be an answer":          {tcp.CloseWait, info(60*sec+400*ms+tick, 80*sec, 60*sec), bound(60*sec, 80*sec)},
		"it is too late for one":            {tcp.CloseWait, info(60*sec+400*ms+2*tick, 80*sec, 60*sec), exact(60 * sec)},
		"nothing was ever sent":             {tcp.CloseWait, with(info(60*sec, 80*sec, 60*sec), func(i *event.Info) { i.DataSegsOut = 0 }), exact(60 * sec)},
		"no timeout told":                   {tcp.CloseWait, with(info(90*sec, 80*sec, 60*sec), func(i *event.Info) { i.RTO = 0 }), bound(60*sec, 80*sec)},
		"keepalive":                         {tcp.CloseWait, timer(event.TimerKeepalive), bound(60*sec, 80*sec)},
		"keepalive, nothing sent":           {tcp.CloseWait, with(timer(event.TimerKeepalive), func(i *event.Info) { i.DataSegsOut = 0 }), bound(60*sec, 80*sec)},
		"window probes":                     {tcp.CloseWait, timer(event.TimerProbe), bound(60*sec, 80*sec)},
		"not answered yet":                  {tcp.CloseWait, timer(event.TimerRetransmit), bound(60*sec, 80*sec)},
		"right now":                         {tcp.CloseWait, info(0, 0, 0), Age{0, tick, Exact}},
		"FIN_WAIT2, received before":        {tcp.FinWait2, info(70*sec, 80*sec, 60*sec), exact(60 * sec)},
		"FIN_WAIT2, received since":         {tcp.FinWait2, info(70*sec, 20*sec, 20*sec), bound(20*sec, 70*sec)},
		"FIN_WAIT2, a tick between":         {tcp.FinWait2, info(70*sec, 20*sec-tick, 20*sec), bound(20*sec, 70*sec)},
		"FIN_WAIT2, keepalive":              {tcp.FinWait2, with(info(70*sec, 80*sec, 60*sec), func(i *event.Info) { i.Timer = event.TimerKeepalive }), bound(60*sec, 70*sec)},
		"FIN_WAIT2, data and FIN went last": {tcp.FinWait2, info(60*sec, 40*sec, 60*sec), exact(60 * sec)},
	} {
		s := socket(func(s *Socket) { s.State, s.Info, s.After = c.state, c.info, dumped-3*ms })
		if got := ageOf(&s, dumped, tick); got != shift(c.want, 0, 3*ms) {
			t.Errorf("%s: at the dump %+v, want %+v", name, got, shift(c.want, 0, 3*ms))
		}
		if got := ageOf(&s, looked, tick); got != shift(c.want, looked-dumped, looked-dumped+3*ms) {
			t.Errorf("%s: later %+v", name, got)
		}
		s.Entered = 900 * sec
		if got, want := ageOf(&s, looked, tick), (Age{101 * sec, 101 * sec, Exact}); got != want {
			t.Errorf("%s: beginning seen: %+v, want %+v", name, got, want)
		}
	}
}

func shift(a Age, least, most time.Duration) Age {
	if a.Quality == Unknown {
		return a
	}
	return Age{a.Min + least, a.Max + most, a.Quality}
}
