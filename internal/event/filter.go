// SPDX-License-Identifier: Apache-2.0

package event

import (
	"slices"

	"afterfin/internal/tcp"
)

// Filter says which transitions are wanted; all its conditions must hold and an
// empty one always does. tracer hands it to the kernel, which leaves out what it
// can be sure about; Match says the last word once the owner is known.
type Filter struct {
	PIDs        []uint32 // at most MaxPIDs
	LocalPorts  []uint16 // at most MaxPorts
	RemotePorts []uint16
	NetNS       uint32       // 0: all
	States      tcp.StateSet // the state left or the one entered
	DiedOpen    bool         // with States, or the rows of a tracer that counts: those that are Transition.DiedOpen, too
	Family      uint8        // 4, 6, or 0 for both; v4-mapped is 4
	Comm        string       // the owner's process name, in full
}

// Sizes of the kernel's filter arrays (bpf/config.h).
const (
	MaxPIDs  = 16
	MaxPorts = 16
)

// Match applies every condition.
func (f *Filter) Match(t *Transition) bool {
	if f.States != 0 && !f.States.Has(t.From) && !f.States.Has(t.To) && !(f.DiedOpen && t.DiedOpen()) {
		return false
	}
	return f.matchSocket(t.NetNS, t.Tuple) && f.matchOwner(&t.Owner)
}

// MatchExisting applies what is known about a socket that has not changed yet:
// all but the owner and the states.
func (f *Filter) MatchExisting(e *Existing) bool {
	return f.matchSocket(e.NetNS, e.Tuple)
}

func (f *Filter) matchSocket(netns uint32, t tcp.Tuple) bool {
	if f.NetNS != 0 && f.NetNS != netns {
		return false
	}
	if f.Family != 0 && (f.Family == 4) != t.Is4() {
		return false
	}
	if len(f.LocalPorts) > 0 && !slices.Contains(f.LocalPorts, t.Local.Port()) {
		return false
	}
	return len(f.RemotePorts) == 0 || slices.Contains(f.RemotePorts, t.Remote.Port())
}

func (f *Filter) matchOwner(o *Owner) bool {
	if len(f.PIDs) > 0 && !slices.Contains(f.PIDs, o.PID) {
		return false
	}
	return f.Comm == "" || string(o.Comm.Bytes()) == f.Comm
}

// WantsOwner tells whether the owner decides, so that an unknown one matters.
func (f *Filter) WantsOwner() bool { return len(f.PIDs) > 0 || f.Comm != "" }
