// SPDX-License-Identifier: Apache-2.0

package folklore

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/lab"
	"afterfin/internal/sockdiag"
	"afterfin/internal/tcp"
)

// ErrNetNS is why no claim can be tried: there is no network namespace to be had. It wraps the errno.
var ErrNetNS = errors.New("no network namespace of its own")

// patience is how long is waited for what the kernel does at once.
const patience = 20 * time.Second

// stage is where one experiment takes place. Whatever fails there aborts the experiment (fail),
// so that it reads as the sequence of steps that it is.
type stage struct {
	ctx      context.Context
	recorder *recorder // nil: no tracer
	control  bool
	ns       *lab.NetNS
	log      []string

	mu     sync.Mutex
	actors []*lab.Actor
	ended  bool
	stop   func() bool // no longer end the actors when ctx is done
	peers  []*lab.Peer
}

func (s *stage) begin() {
	var err error
	if s.ns, err = lab.NewNetNS(); err != nil {
		s.fail("%w: %w", ErrNetNS, err)
	}
	// An actor that is gone ends the call that waits for it.
	s.stop = context.AfterFunc(s.ctx, func() { s.killAll() })
	if s.recorder != nil {
		s.recorder.open(s.ns.Inode())
	}
	// A new netns has defaults but for this, which may follow from a sysctl of its maker's (tcp_child_ehash_entries).
	s.set("tcp_max_tw_buckets", "4096")
}

// end takes away all that is there, in any case.
func (s *stage) end() error {
	if s.ns == nil {
		return nil
	}
	s.stop()
	err := s.killAll()
	for _, p := range s.peers {
		err = errors.Join(err, p.Close())
	}
	return errors.Join(err, s.ns.Close())
}

func (s *stage) killAll() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for _, a := range s.actors {
		err = errors.Join(err, a.Kill())
	}
	return err
}

func (s *stage) check(err error) {
	if err != nil {
		panic(aborted{err})
	}
}

func (s *stage) fail(format string, args ...any) { s.check(fmt.Errorf(format, args...)) }

// did notes a step for the reader.
func (s *stage) did(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

// ok is for a call that gives nothing but its step.
func (s *stage) ok(step lab.Step, err error) lab.Step {
	s.check(err)
	return step
}

// num is for a call that gives a number, such as a descriptor.
func (s *stage) num(n int, _ lab.Step, err error) int {
	s.check(err)
	return n
}

func (s *stage) actor(name string) *lab.Actor {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		panic(aborted{lab.ErrEnded})
	}
	a, err := s.ns.Start(name)
	s.check(err)
	s.actors = append(s.actors, a)
	return a
}

// peer gives an end that only the script plays.
func (s *stage) peer() *lab.Peer {
	p, err := s.ns.Peer(unix.AF_INET)
	s.check(err)
	s.peers = append(s.peers, p)
	return p
}

// set sets a sysctl of net.ipv4 in the netns.
func (s *stage) set(name, value string) { s.check(s.ns.SetSysctl("net.ipv4."+name, value)) }

// sleep waits until it is over, or ctx is done.
func (s *stage) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
		s.check(s.ctx.Err())
	}
}

// sockets lists what is in these states.
func (s *stage) sockets(states ...tcp.State) (found []event.Existing) {
	var set tcp.StateSet
	for _, state := range states {
		set.Add(state)
	}
	s.check(s.ns.Do(func() error {
		return sockdiag.DumpInfo(set, func(e *event.Existing) {
			if set.Has(e.State) {
				found = append(found, *e)
			}
		})
	}))
	return found
}

func (s *stage) count(states ...tcp.State) int { return len(s.sockets(states...)) }

// settle waits until what was closed is through with its last segments.
func (s *stage) settle() {
	s.await("sockets to close", func() bool {
		for _, e := range s.sockets(tcp.FinWait1, tcp.FinWait2, tcp.Closing, tcp.LastAck) {
			if e.Inode == 0 && e.Info.Timer != event.TimerTimeWait {
				return false
			}
		}
		return true
	})
}

// await waits for what nothing tells.
func (s *stage) await(what string, there func() bool) {
	for begin := lab.Mono(); !there(); s.sleep(2 * time.Millisecond) {
		if lab.Mono()-begin > patience {
			s.fail("waited %v for %s", patience, what)
		}
	}
}

// rows is what the tracer has seen so far; none without a tracer.
func (s *stage) rows() []conn.Change {
	if s.recorder == nil {
		return nil
	}
	rows, _, err := s.recorder.rows(s.ctx, s.ns.Inode())
	s.check(err)
	return rows
}

// seen counts them by kind, in the order of their first.
func (s *stage) seen() (seen []Seen, lost event.Lost) {
	rows, lost, err := s.recorder.rows(s.ctx, s.ns.Inode())
	s.check(err)
	at := make(map[Seen]int)
	for i := range rows {
		kind := Seen{From: rows[i].From, To: rows[i].To, Cause: rows[i].Cause}
		n, ok := at[kind]
		if !ok {
			n = len(seen)
			at[kind] = n
			seen = append(seen, kind)
		}
		seen[n].Count++
	}
	return seen, lost
}

// descriptors counts those of a process.
func (s *stage) descriptors(a *lab.Actor) int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", a.PID()))
	s.check(err)
	return len(entries)
}

// on is an address of the netns.
func on(addr string) netip.AddrPort { return netip.MustParseAddrPort(addr) }
