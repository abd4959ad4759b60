// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// model is one end of a connection: what the kernel writes down of it, in ticks of
// its clock, and the moment that is to be found out.
type model struct {
	*rand.Rand
	hz, phase   time.Duration // phase: the clock ticks at any time
	moments     []moment
	rto         time.Duration
	keepalive   bool
	outstanding int

	sent, received, acked int64 // lsndtime, lrcvtime, rcv_tstamp
	segments              uint32
}

// moment is something that happens.
type moment struct {
	at time.Duration
	do func(now int64)
}

func (m *model) ticks(at time.Duration) int64 { return int64((at + m.phase) * m.hz / sec) }

// upTo gives any time up to the most, short ones as often as long ones.
func (m *model) upTo(most time.Duration) time.Duration {
	d := time.Duration(1) << m.IntN(42)
	return min(d+time.Duration(m.Int64N(int64(d))), most)
}

func (m *model) at(at time.Duration, do func(now int64)) {
	m.moments = append(m.moments, moment{at, do})
}

// send, and the answers: within the timeout, or it is sent again.
func (m *model) send(at time.Duration) {
	m.at(at, func(now int64) {
		m.sent = now
		m.segments++
		m.outstanding++
	})
	for m.IntN(4) == 0 {
		at += m.rto + time.Duration(m.Int64N(int64(m.rto/8)))
		m.at(at, func(now int64) { m.sent = now; m.segments++ })
	}
	m.at(at+1+time.Duration(m.Int64N(int64(m.rto))), func(now int64) { m.acked = now; m.outstanding-- })
}

// receive data; while ESTABLISHED the fast path leaves out an ACK that says nothing new.
// The clock may tick between the two notes, but a dump waits until both are made.
func (m *model) receive(at time.Duration, fast bool) {
	ack := !fast || m.IntN(2) == 0
	m.at(at+time.Duration(m.IntN(2))*20*time.Microsecond, func(now int64) {
		if ack {
			m.acked = m.ticks(at)
		}
		m.received = now
	})
}

// life plays a connection that comes to the state at the time begin, and is dumped at
// end.
func (m *model) life(state tcp.State, open, begin, end time.Duration) event.Info {
	m.at(open, func(now int64) { m.sent, m.received, m.acked = now, now, now })
	for range m.IntN(3) {
		m.receive(begin-20*time.Microsecond-m.upTo(begin-open), true)
	}
	for range m.IntN(3) {
		m.send(begin - m.upTo(begin-open))
	}
	if state == tcp.CloseWait {
		withData := m.IntN(3) == 0
		m.at(begin, func(now int64) {
			if m.acked = now; withData {
				m.received = now
			}
		})
		for range m.IntN(3) * m.IntN(2) {
			m.send(begin + m.upTo(end-begin))
		}
	} else {
		m.at(begin-1, func(int64) { m.outstanding = 0 }) // all was answered before our FIN
		m.moments = slices.DeleteFunc(m.moments, func(each moment) bool { return each.at >= begin })
		m.at(begin, func(now int64) { m.acked = now })
		for range m.IntN(3) {
			m.receive(begin+m.upTo(end-begin), false)
		}
	}
	if m.keepalive {
		for range m.IntN(3) {
			m.at(begin+m.upTo(end-begin), func(now int64) { m.acked = now })
		}
	}
	slices.SortStableFunc(m.moments, func(a, b moment) int { return int(a.at - b.at) })
	for _, each := range m.moments {
		if each.at <= end {
			each.do(m.ticks(each.at))
		}
	}
	return m.info(m.ticks(end))
}

func (m *model) info(now int64) event.Info {
	since := func(then int64) time.Duration { return time.Duration((now-then)*1000/int64(m.hz)) * ms }
	i := event.Info{Known: true, LastDataSent: since(m.sent), LastDataRecv: since(m.received), LastAckRecv: since(m.acked),
		RTO: m.rto, DataSegsOut: m.segments}
	switch {
	case m.outstanding > 0:
		i.Timer = event.TimerRetransmit
	case m.keepalive:
		i.Timer = event.TimerKeepalive
	}
	return i
}

// Whatever happened, the truth is within the bounds; and what is called exact is.
func TestAgeContainsTruth(t *testing.T) {
	for _, hz := range []time.Duration{100, 250, 300, 1000} {
		for _, state := range []tcp.State{tcp.CloseWait, tcp.FinWait2} {
			t.Run(fmt.Sprintf("%v at HZ %d", state, hz), func(t *testing.T) {
				tick := sec / hz
				counts := make(map[Quality]int)
				for seed := range uint64(50_000) {
					m := &model{Rand: rand.New(rand.NewPCG(seed, 1)), hz: hz, rto: 200 * ms}
					m.rto <<= m.IntN(4)
					m.phase, m.keepalive = time.Duration(m.Int64N(int64(tick))), m.IntN(4) == 0
					open := time.Duration(m.Int64N(int64(sec)))
					begin := open + m.upTo(time.Hour)
					end := begin + m.upTo(time.Hour)
					s := Socket{Existing: event.Existing{State: state, Info: m.life(state, open, begin, end)}}
					s.After, s.Before = end-time.Duration(m.IntN(1000)), end+time.Duration(m.IntN(1000))
					now := s.Before + m.upTo(sec)
					got, truth := ageOf(&s, now, tick), now-begin
					counts[got.Quality]++
					if truth < got.Min || truth > got.Max {
						t.Fatalf("seed %d: %v is not in %v to %v (%v): %+v", seed, truth, got.Min, got.Max, got.Quality, s.Info)
					}
					if got.Quality == Exact && got.Max-got.Min > 2*tick+cut(tick)+s.Before-s.After {
						t.Fatalf("seed %d: %v to %v is not exact: %+v", seed, got.Min, got.Max, s.Info)
					}
				}
				if counts[Exact] < 10_000 || counts[Bound] < 10_000 {
					t.Errorf("%v: this shows little", counts)
				}
			})
		}
	}
}
