// SPDX-License-Identifier: Apache-2.0

package folklore

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"afterfin/internal/clock"
	"afterfin/internal/tcp"
	"afterfin/internal/timewait"
)

var twoMSL = Claim{
	Name:  "2msl",
	Text:  "TIME_WAIT lasts 2MSL, which is 60 s",
	Given: "nothing comes for the connection meanwhile",
	Takes: 66 * time.Second,
	Why: prose(`The timer of a mini-socket is set to TCP_TIMEWAIT_LEN, 60 s (tcp_time_wait() and, of one that waited for the
		peer's FIN, tcp_timewait_state_process(), net/ipv4/tcp_minisocks.c).
		It runs later than that: the timer wheel rounds a timer so far ahead up to the end of its bucket (calc_index(),
		kernel/time/timer.c), which is up to 2.048 s at HZ=250, 4.096 s at 1000 and 5.12 s at 100. 60 s is the least that it
		lasts, and the MSL of RFC 9293 would make it 4 minutes.`),
	try: func(s *stage) judged {
		const n = 8
		e := s.ends()
		wheel := timewait.Wheel{Tick: clock.Jiffy()}
		bucket := wheel.Bucket(timewait.Nominal)
		var waits []*wait
		for i := range n {
			port := uint16(50000 + i)
			c, srv := e.pair(e.from(port))
			waits = append(waits, s.wait(netip.AddrPortFrom(e.at.Addr(), port), e.finish(c, srv)))
			s.sleep(bucket / n)
		}
		s.did("a client closed %d connections first, %v apart", n, (bucket / n).Round(time.Millisecond))
		if s.control {
			s.did("it then connected again from each of their ports (bind() with SO_REUSEADDR)")
			for i := range n {
				e.reset(e.pair(e.from(uint16(50000 + i))))
			}
		}
		nominal := s.nominal(waits)
		s.ends2MSL(waits, nominal)
		lengths, byTimer, missed := s.lengthsOf(waits)
		if most := lengths[n-1]; byTimer && most > nominal+bucket+time.Second {
			s.fail("one lasted %v, longer than any timer should: the machine was held up, or this kernel has other timers", most)
		}
		verdict := Fails
		if nominal == timewait.Nominal && byTimer && lengths[0] >= nominal-wheel.Tick {
			verdict = Holds
		}
		return judged{Verdict: verdict, Figures: []Figure{
			{"timer_ns", nominal}, {"min_ns", lengths[0]}, {"median_ns", timewait.Median(lengths)},
			{"max_ns", lengths[len(lengths)-1]}, {"bucket_ns", bucket}, {"ended_by_timer", byTimer},
			{"ends_not_traced", missed},
		}}
	},
}

// tunables are the sysctls that could be about the length: their names say so.
var tunables = regexp.MustCompile(`^tcp_.*(tw|msl|fin_timeout|time_?wait)`)

var fixedLength = Claim{
	Name:  "fixed-2msl",
	Text:  "2MSL cannot be changed without building the kernel anew",
	Given: "the peer's FIN has come: it is TIME_WAIT, and not FIN_WAIT2",
	Takes: 3 * time.Second,
	Why: prose(`TCP_TIMEWAIT_LEN is a constant of include/net/tcp.h. tcp_fin_timeout, which is mostly named as the way to shorten it,
		is how long an orphan waits for the peer's FIN in FIN_WAIT2 (tcp_fin_time(), used by __tcp_close() and tcp_rcv_state_process()); the
		TIME_WAIT after that is set to 60 s all the same. tcp_tw_reuse shortens nothing: it lets connect() take a port sooner. Some
		vendors' kernels do have a sysctl of their own.`),
	try: func(s *stage) judged {
		e := s.ends()
		names, changed := []string{}, []string{}
		timers := map[string]time.Duration{"": e.timerOfOne()}
		s.check(s.ns.Do(func() error { // as this netns has them
			paths, err := filepath.Glob("/proc/sys/net/ipv4/tcp_*")
			for _, path := range paths {
				if name := filepath.Base(path); tunables.MatchString(name) {
					names = append(names, name)
				}
			}
			return err
		}))
		for _, name := range names {
			path := "/proc/sys/net/ipv4/" + name
			var before []byte
			s.check(s.ns.Do(func() (err error) { before, err = os.ReadFile(path); return err }))
			if s.ns.SetSysctl("net.ipv4."+name, "7") != nil && s.ns.SetSysctl("net.ipv4."+name, "1") != nil {
				continue // neither is a value of it
			}
			timers[name] = e.timerOfOne()
			if timers[name] != timers[""] {
				changed = append(changed, name)
			}
			s.check(s.ns.SetSysctl("net.ipv4."+name, string(before)))
		}
		s.did("set %s to 7 (or 1) one by one, and looked at what the timer of the next connection was set to", strings.Join(names, ", "))
		verdict := Holds
		if len(changed) > 0 {
			verdict = Fails
		}
		return judged{Verdict: verdict, Figures: []Figure{
			{"timer_ns", timers[""]}, {"timer_with_tcp_fin_timeout_7_ns", known(timers["tcp_fin_timeout"])},
			{"sysctls_tried", names}, {"sysctls_that_change_it", changed},
		}}
	},
}

// timerOfOne closes a connection and gives what its mini-socket's timer is set to. In the control the server does not
// close, and it is that of FIN_WAIT2. If the machine was held up, so that it could be told only roughly, it tries again.
func (e *ends) timerOfOne() time.Duration {
	state := tcp.TimeWait
	if e.control {
		state = tcp.FinWait2
	}
	for range 20 {
		c, srv := e.pair()
		at, _, err := e.client.LocalAddr(c)
		e.check(err)
		step := e.ok(e.client.CloseFD(c))
		if !e.control {
			step = e.follow(srv)
		}
		if m := e.mini(at, state, step); m.timer != 0 {
			return m.timer
		}
	}
	e.fail("the machine is too busy to tell what a timer was set to")
	return 0
}
