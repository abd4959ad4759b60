// SPDX-License-Identifier: Apache-2.0

package event

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"afterfin/internal/tcp"
)

// Errors of the decoders; callers count them as lost and go on.
var (
	ErrSize = errors.New("record has the wrong size")
	ErrKind = errors.New("record of an unknown kind")
)

// The records of bpf/wire.h. Both targets are little-endian.
const (
	kindTransition = 1
	kindHolder     = 2
	kindSite       = 3
	kindSlice      = 4
	kindTimer      = 5
	kindPort       = 6

	transitionSize = 120
	siteSize       = 40
	sliceHeader    = 304
	sliceBytes     = 16 << 10
	HolderSize     = 40 // of one record in the stream of the holders iterator
	TimerSize      = 40 // of the timers iterator
	PortSize       = 96 // and of the iterators that tell ports
)

var order = binary.LittleEndian

func check(raw []byte, size int, kind uint32) error {
	if len(raw) >= 4 && order.Uint32(raw) != kind {
		return fmt.Errorf("kind %d: %w", order.Uint32(raw), ErrKind)
	}
	if len(raw) != size {
		return fmt.Errorf("%d bytes for %d: %w", len(raw), size, ErrSize)
	}
	return nil
}

// DecodeTransition reads one struct af_transition into t. It returns an error
// that wraps ErrSize or ErrKind and then leaves t as it was.
func DecodeTransition(raw []byte, t *Transition) error {
	if err := check(raw, transitionSize, kindTransition); err != nil {
		return err
	}
	t.NetNS = order.Uint32(raw[4:])
	t.Mono = time.Duration(order.Uint64(raw[8:]))
	t.Entered = time.Duration(order.Uint64(raw[16:]))
	t.Cookie = order.Uint64(raw[24:])
	t.Inode = order.Uint64(raw[32:])
	t.Owner.Start = time.Duration(order.Uint64(raw[40:]))
	t.Tuple.Local = netip.AddrPortFrom(addr(raw[48:]), order.Uint16(raw[100:]))
	t.Tuple.Remote = netip.AddrPortFrom(addr(raw[64:]), order.Uint16(raw[102:]))
	copy(t.Owner.Comm[:], raw[80:96])
	t.Owner.PID = order.Uint32(raw[96:])
	t.SkErr = order.Uint16(raw[104:])
	t.From = tcp.State(raw[106])
	t.To = tcp.State(raw[107])
	t.Owner.How = How(raw[108])
	t.Side = Side(raw[109])
	t.Accepted = Accepted(raw[110])
	t.Cause = Cause(raw[111])
	t.Restarts = order.Uint16(raw[112:])
	t.AtLeast = raw[114] != 0
	t.Bound = raw[115] != 0
	return nil
}

// IsSite tells a struct af_site from the other records of the ring.
func IsSite(raw []byte) bool { return len(raw) >= 4 && order.Uint32(raw) == kindSite }

// DecodeSite reads one struct af_site, with errors as above: all but the stack, which the
// kernel side keeps under the key.
func DecodeSite(raw []byte) (s Site, key uint64, err error) {
	if err := check(raw, siteSize, kindSite); err != nil {
		return Site{}, 0, err
	}
	return Site{
		Call:   Side(order.Uint32(raw[4:])),
		Cookie: order.Uint64(raw[8:]),
		Start:  time.Duration(order.Uint64(raw[24:])),
		PID:    order.Uint32(raw[32:]),
	}, order.Uint64(raw[16:]), nil
}

// DecodeSlice reads one struct af_slice, with errors as above. The stack is copied.
func DecodeSlice(raw []byte) (Slice, error) {
	if err := check(raw, sliceHeader+sliceBytes, kindSlice); err != nil {
		return Slice{}, err
	}
	n := order.Uint32(raw[4:])
	if n > sliceBytes {
		return Slice{}, fmt.Errorf("slice of %d bytes: %w", n, ErrSize)
	}
	s := Slice{
		Cookie: order.Uint64(raw[8:]),
		Start:  time.Duration(order.Uint64(raw[16:])),
		PID:    order.Uint32(raw[24:]),
		Call:   Side(order.Uint32(raw[28:])),
		Base:   order.Uint64(raw[32:]),
		PC:     order.Uint64(raw[40:]),
		Stack:  bytes.Clone(raw[sliceHeader : sliceHeader+n]),
	}
	for i := range s.Regs {
		s.Regs[i] = order.Uint64(raw[48+8*i:])
	}
	return s, nil
}

// DecodeHolder reads one struct af_holder into h, with errors as above.
func DecodeHolder(raw []byte, h *Holder) error {
	if err := check(raw, HolderSize, kindHolder); err != nil {
		return err
	}
	h.Owner.PID = order.Uint32(raw[4:])
	h.Cookie = order.Uint64(raw[8:])
	h.Owner.Start = time.Duration(order.Uint64(raw[16:]))
	copy(h.Owner.Comm[:], raw[24:40])
	h.Owner.How = HowFD
	return nil
}

// DecodeTimer reads one struct af_timer, with errors as above.
func DecodeTimer(raw []byte) (MiniTimer, error) {
	if err := check(raw, TimerSize, kindTimer); err != nil {
		return MiniTimer{}, err
	}
	return MiniTimer{
		Halfway: tcp.State(order.Uint32(raw[4:])) == tcp.FinWait2,
		Cookie:  order.Uint64(raw[8:]),
		Expires: order.Uint64(raw[16:]),
		Jiffies: order.Uint64(raw[24:]),
		Mono:    time.Duration(order.Uint64(raw[32:])),
	}, nil
}

// DecodePort reads one struct af_port, with errors as above.
func DecodePort(raw []byte) (Port, error) {
	if err := check(raw, PortSize, kindPort); err != nil {
		return Port{}, err
	}
	return Port{
		NetNS:       order.Uint32(raw[4:]),
		Cookie:      order.Uint64(raw[8:]),
		Expires:     order.Uint64(raw[16:]),
		Jiffies:     order.Uint64(raw[24:]),
		Mono:        time.Duration(order.Uint64(raw[32:])),
		Tuple:       tcp.Tuple{Local: netip.AddrPortFrom(addr(raw[40:]), order.Uint16(raw[80:])), Remote: netip.AddrPortFrom(addr(raw[56:]), order.Uint16(raw[82:]))},
		RecentStamp: order.Uint32(raw[72:]),
		EntryStamp:  order.Uint32(raw[76:]),
		State:       tcp.State(raw[84]),
		Mini:        raw[85] != 0,
		Taken:       raw[86] != 0,
		Reuse:       raw[87] != 0,
	}, nil
}

// addr reads 16 bytes in network order, v4-mapped as IPv4.
func addr(raw []byte) netip.Addr {
	return netip.AddrFrom16([16]byte(raw[:16])).Unmap()
}
