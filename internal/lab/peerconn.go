// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"
)

// PeerConn is a Peer's end of a connection. The script may set its fields.
type PeerConn struct {
	Local, Remote netip.AddrPort // Local is the Peer's

	// SndNxt is the sequence number after all that was sent.
	SndNxt uint32
	// RcvNxt is the sequence number after all that Expect gave or passed over:
	// what came and was not looked at is not acknowledged.
	RcvNxt uint32
	// Opened is when the segment was sent that completed the handshake for the
	// kernel: the SYN-ACK to its connecting socket, the ACK to its listener.
	Opened Step

	peer       *Peer
	options    PeerOptions
	timestamps bool   // both sides have them
	tsEcr      uint32 // the newest TSVal of the kernel's
	syn, fin   uint32 // sequence numbers of the last ones sent
	sentFIN    bool
}

// Segment gives the segment that comes next, with these flags, for the script to
// change and Send.
func (c *PeerConn) Segment(flags Flags) Segment {
	s := Segment{
		Flags: flags, Seq: c.SndNxt, Window: c.options.Window,
		Timestamps: c.timestamps, TSVal: uint32(Mono() / time.Millisecond),
	}
	if flags&ACK != 0 {
		s.Ack = c.RcvNxt
		s.TSEcr = c.tsEcr
	}
	if flags&SYN != 0 {
		s.MSS = c.options.MSS
	}
	return s
}

// Send sends a segment, whatever it says. Data or a FIN beyond SndNxt moves that
// on. Its error wraps the errno.
func (c *PeerConn) Send(s Segment) (Step, error) {
	step, err := c.peer.send(packet{from: c.Local, to: c.Remote, Segment: s})
	if err != nil {
		return step, err
	}
	end := s.Seq + s.Len()
	switch {
	case s.Flags&SYN != 0:
		c.syn = s.Seq
		return step, nil
	case s.Flags&FIN != 0:
		c.fin, c.sentFIN = end-1, true
	}
	if s.Len() > 0 && after(end, c.SndNxt) {
		c.SndNxt = end
	}
	return step, nil
}

// after tells whether one sequence number comes after another.
func after(a, b uint32) bool { return int32(a-b) > 0 }

// Ack acknowledges everything up to RcvNxt.
func (c *PeerConn) Ack() (Step, error) { return c.Send(c.Segment(ACK)) }

// Data sends n zero bytes in one segment.
func (c *PeerConn) Data(n int) (Step, error) {
	s := c.Segment(PSH | ACK)
	s.Payload = make([]byte, n)
	return c.Send(s)
}

// FIN says that there is nothing more to come, and acknowledges up to RcvNxt.
func (c *PeerConn) FIN() (Step, error) { return c.Send(c.Segment(FIN | ACK)) }

// FINAgain sends the FIN once more, as one does whose FIN was not acknowledged.
func (c *PeerConn) FINAgain() (Step, error) {
	if !c.sentFIN {
		return Step{}, errors.New("there was no FIN yet")
	}
	s := c.Segment(FIN | ACK)
	s.Seq = c.fin
	return c.Send(s)
}

// RST resets the connection. The kernel believes it in TIME_WAIT only if seq is
// exactly SndNxt, and then not with net.ipv4.tcp_rfc1337 = 1.
func (c *PeerConn) RST(seq uint32) (Step, error) {
	s := c.Segment(RST)
	s.Seq = seq
	return c.Send(s)
}

// Stale sends a segment of n zero bytes that end before SndNxt: one that was held
// up on the way and arrives long after it was sent again. The kernel answers what
// has no bytes only once in net.ipv4.tcp_invalid_ratelimit (500 ms).
func (c *PeerConn) Stale(n int) (Step, error) {
	s := c.Segment(ACK)
	s.Seq -= uint32(n) + 1
	s.Payload = make([]byte, n)
	return c.Send(s)
}

// SYN asks for a new connection of the same addresses. A kernel socket in
// TIME_WAIT makes way for it if its sequence number or timestamp is after those
// of the old connection; here the timestamp is, if there are any. Handshake takes
// it from there.
func (c *PeerConn) SYN(seq uint32) (Step, error) {
	s := c.Segment(SYN)
	s.Seq = seq
	return c.Send(s)
}

// Handshake waits for the answer to the last SYN, within 10 s, and acknowledges
// it. c is the new connection then.
func (c *PeerConn) Handshake() error {
	for {
		answer, err := c.Expect(SYN|ACK, patience)
		if err != nil {
			return err
		}
		if answer.Ack != c.syn+1 {
			continue
		}
		c.SndNxt, c.RcvNxt = c.syn+1, answer.Seq+1
		c.timestamps = c.timestamps && answer.Timestamps
		c.sentFIN = false
		c.Opened, err = c.Ack()
		return err
	}
}

// Expect waits for the next segment from the kernel that has just these flags,
// PSH aside, and passes over others. If none comes in time the error is
// os.ErrDeadlineExceeded and names those.
func (c *PeerConn) Expect(flags Flags, timeout time.Duration) (Received, error) {
	deadline := Mono() + timeout
	var others []string
	for {
		r, err := c.next(deadline)
		if errors.Is(err, os.ErrDeadlineExceeded) && len(others) > 0 {
			err = fmt.Errorf("%w (came: %s)", err, strings.Join(others, ", "))
		}
		if err != nil {
			return r, fmt.Errorf("expect %v from %v: %w", flags, c.Remote, err)
		}
		if r.Flags.kind() == flags.kind() {
			return r, nil
		}
		others = append(others, r.Segment.String())
	}
}

// Next waits for the next segment from the kernel, whatever it says. If none comes
// in time the error is os.ErrDeadlineExceeded.
func (c *PeerConn) Next(timeout time.Duration) (Received, error) {
	r, err := c.next(Mono() + timeout)
	if err != nil {
		return r, fmt.Errorf("wait for a segment from %v: %w", c.Remote, err)
	}
	return r, nil
}

// Rest gives what has come from the kernel and was not looked at yet, without
// waiting for more.
func (c *PeerConn) Rest() ([]Received, error) {
	var rest []Received
	for {
		r, err := c.next(0)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return rest, nil
		}
		if err != nil {
			return rest, err
		}
		rest = append(rest, r)
	}
}

// next takes the next segment of this connection.
func (c *PeerConn) next(deadline time.Duration) (Received, error) {
	r, err := c.peer.take(deadline, func(r Received) bool { return r.from == c.Remote && r.to == c.Local })
	if err != nil {
		return r, err
	}
	if end := r.Seq + r.Len(); !after(r.Seq, c.RcvNxt) && after(end, c.RcvNxt) {
		c.RcvNxt = end
	}
	if r.Timestamps {
		c.tsEcr = r.TSVal
	}
	return r, nil
}
