// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"time"

	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// Verdict says why a socket is still there.
type Verdict uint8

// In the order in which they are tried. Undecided: something other than the program
// reads the socket (TLS or MPTCP in the kernel), or who holds it was not shown.
const (
	Undecided      Verdict = iota
	NotAccepted            // in its listener's queue
	InFlight               // its descriptor is inside a Unix socket
	NoFD                   // held by no descriptor: io_uring, or the kernel itself
	StillSending           // half-closed by the peer, and used
	TLSCloseUnread         // what is unread has the size of TLS's own goodbye
	DataUnread
	EOFUnread // the program never read the end of stream
	EOFRead   // it took that, perhaps in one read with the last data, and never closed
	DeadFD    // the connection is gone, the descriptor stays
	PeerOpen  // FIN_WAIT2: we closed our direction, the peer does not close his
)

var verdicts = [...]string{"unknown", "not_accepted", "in_flight", "no_fd", "still_sending", "tls_close_unread",
	"data_unread", "eof_unread", "eof_read", "dead_fd", "peer_open"}

// String is the word used in every view.
func (v Verdict) String() string { return verdicts[v] }

// lately: a program that sent something in this time, after the FIN, uses the connection.
const lately = 10 * time.Second

// What an idle TLS connection has unread when the server closes: a record of
// close_notify, and the FIN, which counts as one.
const (
	closeNotify13       = 24 + 1
	closeNotify12       = 31 + 1 // AES-GCM
	closeNotify12ChaCha = 23 + 1 // ChaCha20-Poly1305, which sends no nonce
)

func judge(s *Socket, age Age, f *Found) (v Verdict, inferred bool) {
	switch {
	case s.State == tcp.FinWait2:
		return PeerOpen, false
	case s.Info.ULP == event.ULPMPTCP:
		return Undecided, false
	case s.Inode == 0:
		return NotAccepted, false
	case len(s.Holders) == 0 && len(s.Fixed) > 0:
		return NoFD, false
	case len(s.Holders) == 0:
		return unheld(f)
	case sending(s, age, f):
		return StillSending, false
	case s.Info.ULP != event.ULPNone:
		return Undecided, false
	}
	switch s.RecvQ {
	case 0:
		return EOFRead, false
	case 1:
		return EOFUnread, false
	case closeNotify12, closeNotify12ChaCha, closeNotify13:
		return TLSCloseUnread, true
	}
	return DataUnread, false
}

// unheld: there is a file, yet no descriptor. With descriptors under way, or an io_uring
// that does not say what it holds, it is most likely one of those; else, if all
// processes showed theirs, nobody has one.
func unheld(f *Found) (v Verdict, inferred bool) {
	switch carried, ringed := len(f.Carriers) > 0, len(f.Rings) > 0; {
	case carried && ringed:
		return Undecided, false
	case carried:
		return InFlight, true
	case !ringed && f.Unreadable > 0:
		return Undecided, false
	}
	return NoFD, true
}

// sending: something waits to be sent, or was sent lately, and the FIN is older than
// that or may be. The age is of now, what the kernel told is of the dump.
func sending(s *Socket, age Age, f *Found) bool {
	if s.SendQ > 0 {
		return true
	}
	if !s.Info.Known || s.Info.DataSegsOut == 0 || s.Info.LastDataSent >= lately || age.Quality == Unknown {
		return false
	}
	sent := s.Info.LastDataSent + f.Tick + cut(f.Tick) + f.At - s.After
	return sent < age.Min || age.Quality == Bound && age.Max >= lately
}
