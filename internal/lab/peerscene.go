// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/tcp"
)

// Scene is a connection between an actor's socket and a Peer, from ESTABLISHED
// on, and what the kernel's end of it went through. Most of its methods play one
// way to close; what may follow is played with Conn, or Play where it changes the
// state.
type Scene struct {
	Actor *Actor
	FD    int // of the actor's socket
	Conn  *PeerConn
	Local netip.AddrPort // the kernel's end

	// HalfClose has the actor close with shutdown(SHUT_WR) and keep FD, so that
	// its FIN_WAIT2 is a socket's and not an orphan's mini-socket. Set it before.
	HalfClose bool

	Changes []Change
}

// Change is a change of state of the kernel's end, which came about during the
// step, a call of the actor's or a segment of the Peer's.
type Change struct {
	From, To tcp.State
	Step
}

// ConnectScene has an actor connect to the Peer.
func (p *Peer) ConnectScene(a *Actor, o PeerOptions) (*Scene, error) {
	af := unix.AF_INET6
	if p.addr.Is4() {
		af = unix.AF_INET
	}
	fd, _, err := a.Socket(af)
	if err != nil {
		return nil, err
	}
	connect, err := a.StartConnect(fd, p.Addr())
	if err != nil {
		return nil, err
	}
	c, err := p.Accept(o)
	if err != nil {
		return nil, err
	}
	if _, _, err := connect.Wait(); err != nil {
		return nil, err
	}
	return &Scene{Actor: a, FD: fd, Conn: c, Local: c.Remote}, nil
}

// AcceptScene has the Peer connect to an actor's listener, which is bound to
// Kernel and has no other connection waiting.
func (p *Peer) AcceptScene(a *Actor, listener int, o PeerOptions) (*Scene, error) {
	at, _, err := a.LocalAddr(listener)
	if err != nil {
		return nil, err
	}
	c, err := p.Connect(at, o)
	if err != nil {
		return nil, err
	}
	fd, _, err := a.Accept(listener)
	if err != nil {
		return nil, err
	}
	return &Scene{Actor: a, FD: fd, Conn: c, Local: at}, nil
}

// CloseFirst has the actor close; the Peer acknowledges that and, after a gap,
// closes too. The kernel's end is in TIME_WAIT.
func (s *Scene) CloseFirst(gap time.Duration) error {
	if err := s.CloseHalfway(); err != nil {
		return err
	}
	time.Sleep(gap)
	return s.Play(s.Conn.FIN, tcp.FinWait2, tcp.TimeWait)
}

// CloseFirstOneSegment is CloseFirst with the acknowledgement and the Peer's FIN
// in one segment.
func (s *Scene) CloseFirstOneSegment() error {
	if err := s.CloseUnanswered(); err != nil {
		return err
	}
	return s.Play(s.Conn.FIN, tcp.FinWait1, tcp.FinWait2, tcp.TimeWait)
}

// CloseUnanswered has the actor close, and the Peer says nothing. The kernel's
// end is in FIN_WAIT1 and sends its FIN again and again.
func (s *Scene) CloseUnanswered() error {
	if err := s.Play(s.close, tcp.Established, tcp.FinWait1); err != nil {
		return err
	}
	_, err := s.Conn.Expect(FIN|ACK, patience)
	return err
}

// CloseHalfway has the actor close, which the Peer acknowledges and no more. The
// kernel's end is in FIN_WAIT2; without HalfClose it is a mini-socket, which data
// from the Peer ends, or net.ipv4.tcp_fin_timeout.
func (s *Scene) CloseHalfway() error {
	if err := s.CloseUnanswered(); err != nil {
		return err
	}
	return s.Play(s.Conn.Ack, tcp.FinWait1, tcp.FinWait2)
}

// CloseBoth has both close before either knows of the other. The kernel's end
// goes through CLOSING to TIME_WAIT.
func (s *Scene) CloseBoth() error {
	if err := s.Play(s.close, tcp.Established, tcp.FinWait1); err != nil {
		return err
	}
	// The kernel's FIN was not looked at, so this does not acknowledge it.
	if err := s.Play(s.Conn.FIN, tcp.FinWait1, tcp.Closing); err != nil {
		return err
	}
	if _, err := s.Conn.Expect(ACK, patience); err != nil {
		return err
	}
	return s.Play(s.Conn.Ack, tcp.Closing, tcp.TimeWait)
}

// CloseSecond has the Peer close and then the actor, whose FIN is not
// acknowledged. The kernel's end is in LAST_ACK until Conn.Ack.
func (s *Scene) CloseSecond() error {
	if err := s.Play(s.Conn.FIN, tcp.Established, tcp.CloseWait); err != nil {
		return err
	}
	if _, err := s.Conn.Expect(ACK, patience); err != nil {
		return err
	}
	if err := s.Play(s.close, tcp.CloseWait, tcp.LastAck); err != nil {
		return err
	}
	_, err := s.Conn.Expect(FIN|ACK, patience)
	return err
}

// Reopen has the Peer ask for a new connection of the same addresses while the
// kernel's end, which an AcceptScene made, is in TIME_WAIT; the actor accepts
// that from its listener. s ends here.
func (s *Scene) Reopen(listener int) (*Scene, error) {
	syn := func() (Step, error) { return s.Conn.SYN(s.Conn.SndNxt + 1<<16) }
	if err := s.Play(syn, tcp.TimeWait, tcp.Close); err != nil {
		return nil, err
	}
	if err := s.Conn.Handshake(); err != nil {
		return nil, err
	}
	fd, _, err := s.Actor.Accept(listener)
	if err != nil {
		return nil, err
	}
	return &Scene{Actor: s.Actor, FD: fd, Conn: s.Conn, Local: s.Local}, nil
}

func (s *Scene) close() (Step, error) {
	if s.HalfClose {
		return s.Actor.Shutdown(s.FD, unix.SHUT_WR)
	}
	return s.Actor.CloseFD(s.FD)
}

// Play does a step that leads the kernel's end through these states, from the one
// that it is in, and adds them to Changes.
func (s *Scene) Play(do func() (Step, error), states ...tcp.State) error {
	step, err := do()
	if err != nil {
		return fmt.Errorf("%v to %v: %w", states[0], states[len(states)-1], err)
	}
	for i, to := range states[1:] {
		s.Changes = append(s.Changes, Change{From: states[i], To: to, Step: step})
	}
	return nil
}
