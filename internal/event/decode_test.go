// SPDX-License-Identifier: Apache-2.0

package event

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"afterfin/internal/tcp"
)

// golden is one struct af_transition written out by hand: CLOSE_WAIT→LAST_ACK of
// [2001:db8::1]:443, owned by pid 4121.
func golden() []byte {
	var b bytes.Buffer
	for _, v := range []any{
		uint32(1), uint32(4026531840), // kind, netns
		uint64(5_000_000_123), uint64(4_000_000_123), // mono, entered
		uint64(0x1122334455667788), uint64(98765), // cookie, inode
		uint64(77_000_000_000),                        // owner start
		netip.MustParseAddr("2001:db8::1").As16(),     // local
		netip.MustParseAddr("::ffff:10.0.4.9").As16(), // remote
		[16]byte{'p', 'a', 'y', 'm', 'e', 'n', 't'},   // comm
		uint32(4121),                           // pid
		uint16(443), uint16(43210), uint16(32), // ports, sk_err
		uint8(tcp.CloseWait), uint8(tcp.LastAck), uint8(3), uint8(2), uint8(2), uint8(9), // from, to, how, side, accepted, cause
		uint16(513), uint8(1), [5]byte{}, // restarts, entered_bound, pad
	} {
		_ = binary.Write(&b, binary.LittleEndian, v)
	}
	return b.Bytes()
}

func TestDecodeTransition(t *testing.T) {
	var got Transition
	if err := DecodeTransition(golden(), &got); err != nil {
		t.Fatal(err)
	}
	want := Transition{
		Mono: 5_000_000_123, Entered: 4_000_000_123, Cookie: 0x1122334455667788, Inode: 98765, NetNS: 4026531840,
		Tuple: tcp.Tuple{
			Local:  netip.MustParseAddrPort("[2001:db8::1]:443"),
			Remote: netip.MustParseAddrPort("10.0.4.9:43210"), // v4-mapped is IPv4
		},
		From: tcp.CloseWait, To: tcp.LastAck, SkErr: 32, Side: SideAccept, Accepted: AcceptedYes,
		AtLeast: true, Cause: CauseUnreadData, Restarts: 513,
		Owner: Owner{PID: 4121, Start: 77 * time.Second, Comm: Comm{'p', 'a', 'y', 'm', 'e', 'n', 't'}, How: HowClose},
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got.Owner.Comm.String() != "payment" || got.Owner.How.String() != "close" {
		t.Errorf("comm %q how %v", got.Owner.Comm, got.Owner.How)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := golden()
	other := bytes.Clone(good)
	other[0] = 9
	for name, c := range map[string]struct {
		raw  []byte
		want error
	}{
		"empty":     {nil, ErrSize},
		"short":     {good[:119], ErrSize},
		"over-long": {append(bytes.Clone(good), 0), ErrSize},
		"kind":      {other, ErrKind},
	} {
		before := Transition{Cookie: 7}
		got := before
		if err := DecodeTransition(c.raw, &got); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", name, err, c.want)
		}
		if got != before {
			t.Errorf("%s: changed to %+v", name, got)
		}
	}
}

func TestDecodeHolder(t *testing.T) {
	var b bytes.Buffer
	for _, v := range []any{uint32(2), uint32(33), uint64(17), uint64(9), [16]byte{'n', 'g', 'i', 'n', 'x'}} {
		_ = binary.Write(&b, binary.LittleEndian, v)
	}
	var h Holder
	if err := DecodeHolder(b.Bytes(), &h); err != nil {
		t.Fatal(err)
	}
	want := Holder{Cookie: 17, Owner: Owner{PID: 33, Start: 9, Comm: Comm{'n', 'g', 'i', 'n', 'x'}, How: HowFD}}
	if h != want {
		t.Errorf("got  %+v\nwant %+v", h, want)
	}
	if err := DecodeHolder(golden(), &h); !errors.Is(err, ErrKind) {
		t.Errorf("a transition read as a holder: %v", err)
	}
}

func FuzzDecodeTransition(f *testing.F) {
	f.Add(golden())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var tr Transition
		if err := DecodeTransition(raw, &tr); err != nil {
			return
		}
		// Whatever the bytes, a decoded event can be shown.
		_ = tr.From.String() + tr.To.String() + tr.Owner.How.String() + tr.Owner.Comm.String()
		if tr.Tuple.Local.Addr().Is4In6() || tr.Tuple.Remote.Addr().Is4In6() {
			t.Errorf("v4-mapped address left: %v", tr.Tuple)
		}
	})
}

func TestDecodeTimer(t *testing.T) {
	raw := make([]byte, TimerSize)
	raw[0], raw[4], raw[8], raw[16], raw[24], raw[32] = kindTimer, byte(tcp.TimeWait), 1, 2, 3, 4
	if got, err := DecodeTimer(raw); err != nil || got != (MiniTimer{Cookie: 1, Expires: 2, Jiffies: 3, Mono: 4}) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := DecodeTimer(raw[:TimerSize-1]); !errors.Is(err, ErrSize) {
		t.Errorf("too short: %v", err)
	}
	if _, err := DecodeTimer(golden()); !errors.Is(err, ErrKind) {
		t.Errorf("another kind: %v", err)
	}
}

func BenchmarkDecodeTransition(b *testing.B) {
	raw := golden()
	var tr Transition
	b.ReportAllocs()
	for b.Loop() {
		if err := DecodeTransition(raw, &tr); err != nil {
			b.Fatal(err)
		}
	}
}
