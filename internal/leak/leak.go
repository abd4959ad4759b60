// SPDX-License-Identifier: Apache-2.0

// Package leak says what sockets that wait for somebody's close() mean: since when
// they wait, why, and whose program it is. Pure: it is given what was found, and
// the time.
package leak

import (
	"time"

	"afterfin/internal/event"
	"afterfin/internal/owner"
	"afterfin/internal/site"
	"afterfin/internal/tcp"
)

// Found is one look at the host.
type Found struct {
	Began, At time.Duration // CLOCK_MONOTONIC before it and when it was done
	// Boot is what CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC: processes know the
	// one, sockets the other.
	Boot time.Duration
	// Tick is a jiffy: the kernel's own times are no better.
	Tick    time.Duration
	Sockets []Socket
	Strays  []owner.Stray
	// Carriers are Unix sockets with descriptors inside, on their way; Rings are io_urings
	// that hold sockets which the kernel does not name.
	Carriers, Rings []owner.Carrier
	Unreadable      int // processes whose descriptors were not shown

	Sites *site.Book // where sockets were made; nil: nobody looked

	deaths map[uint64]Death // by inode, of Memory
}

// Socket is one socket, as found and by whom it is held.
type Socket struct {
	event.Existing
	Holders []owner.Holder // by pid, then descriptor
	Fixed   []owner.Holder // held by io_uring; FD is the ring's
	// Listener is the one that it came in on, if that is still there.
	Listener *Listener
	// Entered is when it came to its state, by CLOCK_MONOTONIC, if that was seen; else 0.
	Entered time.Duration
	Side    event.Side
	// Maker is who connected or accepted it, if that was seen; else zero.
	Maker event.Owner
}

// Listener is a socket in LISTEN and who holds it.
type Listener struct {
	event.Existing
	Holders []owner.Holder
}

// Leak is a socket that waits, and what is to be said of it.
type Leak struct {
	*Socket
	Age     Age
	Verdict Verdict
	// Inferred: the verdict rests on a likeness, not on a proof.
	Inferred bool
	// Inherited: whoever made it holds it no more. Either that was seen, or every process
	// that holds it is younger than the socket, or only their parent listens there.
	Inherited bool
	// Carrier is the only Unix socket, or io_uring, that it can be in, if there is no
	// descriptor; nil: there are several, or none.
	Carrier *owner.Carrier
	Site    *site.Site // where in its program it was made; nil: not known
}

// Owner is the process that the leak is put down to: the oldest of the holders, of
// a connection that nobody accepted the listener's; nil if none is known.
func (l *Leak) Owner() *owner.Process {
	if l.Carrier != nil {
		return l.Carrier.Process
	}
	for _, holders := range [][]owner.Holder{l.Holders, l.Fixed} {
		if p := oldest(holders); p != nil {
			return p
		}
	}
	if l.Verdict == NotAccepted && l.Listener != nil {
		return oldest(withoutInit(l.Listener.Holders))
	}
	return nil
}

// withoutInit: with socket activation init holds the listener too, but does not accept.
func withoutInit(holders []owner.Holder) []owner.Holder {
	var others []owner.Holder
	for _, h := range holders {
		if h.Process.PID != 1 {
			others = append(others, h)
		}
	}
	if others == nil {
		return holders
	}
	return others
}

func oldest(holders []owner.Holder) (p *owner.Process) {
	for _, h := range holders {
		if p == nil || h.Process.Start < p.Start {
			p = h.Process
		}
	}
	return p
}

// Judge says what each socket in the state means, for those that may be older than
// this.
func Judge(f *Found, state tcp.State, olderThan time.Duration) []Leak {
	var leaks []Leak
	for i := range f.Sockets {
		s := &f.Sockets[i]
		if !s.waits(state) {
			continue
		}
		l := Leak{Socket: s, Age: ageOf(s, f.At, f.Tick), Site: f.Sites.Get(s.Cookie)}
		if l.Age.Quality != Unknown && l.Age.Max < olderThan {
			continue
		}
		l.Verdict, l.Inferred = judge(s, l.Age, f)
		l.Inherited = inherited(s, f)
		switch {
		case !l.Inferred:
		case l.Verdict == InFlight && len(f.Carriers) == 1:
			l.Carrier = &f.Carriers[0]
		case l.Verdict == NoFD && len(f.Rings) == 1:
			l.Carrier = &f.Rings[0]
		}
		leaks = append(leaks, l)
	}
	return leaks
}

// Ages are those of all sockets that wait in the state, in no order.
func (f *Found) Ages(state tcp.State) []Age {
	var ages []Age
	for i := range f.Sockets {
		if s := &f.Sockets[i]; s.waits(state) {
			ages = append(ages, ageOf(s, f.At, f.Tick))
		}
	}
	return ages
}

// waits: is it in the state, for somebody's close()? A FIN_WAIT2 that nobody holds is ended
// by the kernel.
func (s *Socket) waits(state tcp.State) bool {
	return s.State == state && (state != tcp.FinWait2 || s.Inode != 0)
}

// inherited: a process that began after the socket has it from somebody, by fork or
// through a Unix socket; and so has one that is not its maker.
func inherited(s *Socket, f *Found) bool {
	if s.Maker.PID == 0 && forkedFor(s) {
		return true
	}
	if len(s.Holders) == 0 || !s.Info.Known && s.Maker.PID == 0 {
		return false
	}
	there := s.Before - max(s.Info.LastDataSent, s.Info.LastDataRecv, s.Info.LastAckRecv) + f.Tick
	for _, h := range s.Holders {
		switch {
		case s.Maker.PID != 0:
			if h.Process.PID == int(s.Maker.PID) {
				return false
			}
		case h.Process.Start <= there+f.Boot:
			return false
		}
	}
	return true
}

// forkedFor: nobody listens there but the parent of those who hold it. A server that
// forks for each connection leaves this: the child starts in the clock tick in which the
// connection was made, so their times say nothing.
func forkedFor(s *Socket) bool {
	if s.Listener == nil || len(s.Listener.Holders) == 0 {
		return false
	}
	for _, h := range s.Holders {
		for _, l := range s.Listener.Holders {
			if l.Process.PID != h.Process.PPID || l.Process.PID == h.Process.PID {
				return false
			}
		}
	}
	return len(s.Holders) > 0
}
