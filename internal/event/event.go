// SPDX-License-Identifier: Apache-2.0

// Package event holds what the two sources (the kernel ring and sock_diag)
// tell, decoded once, in Go's own types. Nothing in it allocates per event.
package event

import (
	"bytes"
	"time"

	"afterfin/internal/tcp"
)

// How tells what the owner of a socket was learnt from (enum af_how in wire.h).
type How uint8

// From the owner's own system calls (connect, accept, close), from a descriptor
// seen, or from the listener that the connection came in on: then the owner is
// the listener's, and whoever accepted it may be another process.
const (
	HowUnknown How = iota
	HowConnect
	HowAccept
	HowClose
	HowFD
	HowListen
)

var hows = [...]string{"unknown", "connect", "accept", "close", "fd", "listen"}

// String is the word used in every view.
func (h How) String() string {
	if int(h) < len(hows) {
		return hows[h]
	}
	return hows[HowUnknown]
}

// Direct tells whether the owner itself was seen with the socket.
func (h How) Direct() bool { return h != HowUnknown && h != HowListen }

// Side tells which end of the connection a socket is (enum af_side).
type Side uint8

// SideConnect holds an ephemeral port, SideAccept does not.
const (
	SideUnknown Side = iota
	SideConnect
	SideAccept
)

// Accepted tells whether accept() has returned a connection (enum af_accepted).
type Accepted uint8

// AcceptedUnknown also stands for sockets that are never accepted.
const (
	AcceptedUnknown Accepted = iota
	AcceptedNo
	AcceptedYes
)

// Comm is a process name as the kernel keeps it: at most 15 bytes, then zeros.
type Comm [16]byte

// Bytes gives the name without the zeros; it points into c.
func (c *Comm) Bytes() []byte {
	if i := bytes.IndexByte(c[:], 0); i >= 0 {
		return c[:i]
	}
	return c[:]
}

// String gives the name. It allocates.
func (c Comm) String() string { return string(c.Bytes()) }

// Owner is a process. PID alone is reused by the kernel; with Start it is not.
type Owner struct {
	PID   uint32        // tgid in the initial pid namespace; 0: nobody known
	Start time.Duration // CLOCK_BOOTTIME at its start
	Comm  Comm          // of the process (its thread-group leader)
	How   How
}

// Transition is one change of a socket's state.
type Transition struct {
	Mono     time.Duration // CLOCK_MONOTONIC at the change
	Entered  time.Duration // CLOCK_MONOTONIC when From began; 0: not seen
	AtLeast  bool          // Entered is no beginning: From lasts at least since then
	Bound    bool          // of SideConnect: bind() had chosen its port, not connect()
	Cookie   uint64        // the socket's, for good; 0: could not be told
	Inode    uint64        // of its file; 0: it has none
	NetNS    uint32        // inode number of the network namespace
	Tuple    tcp.Tuple
	From, To tcp.State
	SkErr    uint16 // errno in sk_err at the change; 0: none
	Side     Side
	Accepted Accepted
	Cause    Cause
	Restarts uint16 // of 2MSL, on leaving TIME_WAIT; RestartsUnknown
	Owner    Owner
}

// DiedOpen: the connection is over and its descriptor still open, as the inode of its file
// says. Of other sockets CLOSE is the end.
func (t *Transition) DiedOpen() bool { return t.To == tcp.Close && t.SkErr != 0 && t.Inode != 0 }

// Existing is a socket that was there when sock_diag was asked. The kernel
// wrote it at some moment between After and Before.
type Existing struct {
	Cookie uint64
	Inode  uint64 // 0: no file (never accepted, or closed by all)
	NetNS  uint32
	Tuple  tcp.Tuple
	State  tcp.State // of a TIME_WAIT mini-socket: its substate
	// Left is how long the mini-socket still has, to the jiffy; 0 when that time is
	// over and its timer, which may be late by a bucket of the wheel (2 s at HZ 250),
	// did not run yet, and 0 for other sockets.
	Left          time.Duration
	After, Before time.Duration

	UID uint32 // of who made it; 0 without a file
	// RecvQ is what was received and not read yet, in bytes, a FIN counting as one;
	// of a listener: connections that nobody accepted yet.
	RecvQ uint32
	SendQ uint32 // bytes not acknowledged yet; of a listener: its backlog
	Info  Info
}

// Info is what else the kernel tells of a connection, from struct tcp_info. The
// zero value: not asked for, or not told.
type Info struct {
	Known bool
	// How long ago, at the dump, to the jiffy. Each of them begins with the
	// connection, so none is older than it.
	LastDataSent, LastDataRecv, LastAckRecv time.Duration

	RTO         time.Duration // how long an ACK may take before data is sent again; 0: not told
	Timer       Timer
	DataSegsOut uint32 // segments with data that were ever sent
	ULP         ULP
}

// Timer is what a socket waits for (idiag_timer, linux/inet_diag.h).
type Timer uint8

// TimerNone also stands for what the kernel does not show.
const (
	TimerNone Timer = iota
	TimerRetransmit
	TimerKeepalive // also the one of SYN_RECV
	TimerTimeWait
	TimerProbe // the peer's window is closed
)

// ULP is an upper layer protocol, inside the kernel, that reads the socket in the
// program's stead. The kernel shows it to those with CAP_NET_ADMIN.
type ULP uint8

// ULPNone also stands for what the kernel does not show.
const (
	ULPNone ULP = iota
	ULPTLS
	ULPMPTCP
	ULPOther
)

// Holder is a process with a descriptor of a TCP socket.
type Holder struct {
	Cookie uint64
	Owner  Owner // How is HowFD
}

// Site is where in its program a socket was made: the user stack of connect() or accept(),
// as far as the program keeps frame pointers.
type Site struct {
	Cookie uint64
	PID    uint32        // whose addresses these are; in the initial pid namespace
	Start  time.Duration // CLOCK_BOOTTIME at its start
	Call   Side          // SideConnect or SideAccept
	Stack  []uint64      // return addresses, innermost first; at most 60, shared with other sites
}

// Slice is the same for a program without frame pointers: its registers at the system call
// and the top of its stack, to be unwound. It may hold secrets of the program: it is
// neither stored nor shown.
type Slice struct {
	Cookie uint64
	PID    uint32
	Start  time.Duration
	Call   Side
	PC     uint64
	Regs   [32]uint64 // by DWARF number
	Base   uint64     // the address of Stack[0]
	Stack  []byte     // at most 16 KiB
}

// Lost counts what did not arrive, by cause, since the tracer started.
type Lost struct {
	Ring      uint64 `json:"lost_ring"`      // rows: the ring was full
	Recursion uint64 `json:"lost_recursion"` // rows: the kernel skipped the program on its own CPU
	Accept    uint64 `json:"lost_accept"`    // accepts not seen, as the kernel skipped the program: owners stay listen
	Map       uint64 `json:"lost_map"`       // owners or times that could not be kept: rows without them
	Read      uint64 `json:"lost_read"`      // fields or records that could not be read
	Evicted   uint64 `json:"evicted"`        // connections not kept in the table
}
