// SPDX-License-Identifier: Apache-2.0

// Package tcp holds what a TCP connection is to the rest of afterfin: its
// states under the kernel's names and numbers, and its two ends.
package tcp

import (
	"fmt"
	"strings"
)

// State is a TCP state with the kernel's number (include/net/tcp_states.h).
type State uint8

// The kernel's states. NewSynRecv is that of a request socket, which has no
// transitions of its own and is shown as SYN_RECV by netlink.
const (
	Established State = iota + 1
	SynSent
	SynRecv
	FinWait1
	FinWait2
	TimeWait
	Close
	CloseWait
	LastAck
	Listen
	Closing
	NewSynRecv
	numStates
)

var names = [numStates]string{
	Established: "ESTABLISHED",
	SynSent:     "SYN_SENT",
	SynRecv:     "SYN_RECV",
	FinWait1:    "FIN_WAIT1",
	FinWait2:    "FIN_WAIT2",
	TimeWait:    "TIME_WAIT",
	Close:       "CLOSE",
	CloseWait:   "CLOSE_WAIT",
	LastAck:     "LAST_ACK",
	Listen:      "LISTEN",
	Closing:     "CLOSING",
	NewSynRecv:  "NEW_SYN_RECV",
}

// String gives the kernel's name without TCP_, "STATE(n)" for a number that no
// kernel we know uses.
func (s State) String() string {
	if int(s) < len(names) && names[s] != "" {
		return names[s]
	}
	return fmt.Sprintf("STATE(%d)", uint8(s))
}

// ParseState reads a state in any common spelling: CLOSE_WAIT, close-wait,
// closewait, FIN_WAIT1, fin-wait-1, estab, closed, syn-received.
func ParseState(text string) (State, error) {
	plain := strings.TrimPrefix(squeeze(text), "tcp")
	switch plain {
	case "estab":
		return Established, nil
	case "closed":
		return Close, nil
	case "synreceived":
		return SynRecv, nil
	case "listening":
		return Listen, nil
	}
	for s, name := range names {
		if name != "" && plain == squeeze(name) {
			return State(s), nil
		}
	}
	return 0, fmt.Errorf("unknown state %q (one of %s)", text, strings.Join(names[1:NewSynRecv], " "))
}

func squeeze(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' {
			return -1
		}
		return r
	}, strings.ToLower(strings.TrimSpace(text)))
}

// StateSet is a set of states, one bit each. The zero value is empty.
type StateSet uint32

// Add puts s into the set.
func (set *StateSet) Add(s State) { *set |= 1 << s }

// Has tells whether s is in the set.
func (set StateSet) Has(s State) bool { return set&(1<<s) != 0 }

// Live is every state but CLOSE.
const Live = StateSet(1<<numStates-1<<Established) &^ (1 << Close)
