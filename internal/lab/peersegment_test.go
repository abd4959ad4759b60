// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"net/netip"
	"reflect"
	"testing"
)

var somePackets = []packet{
	{
		from: netip.MustParseAddrPort("192.0.2.2:4000"), to: netip.MustParseAddrPort("192.0.2.1:40000"),
		Segment: Segment{Flags: SYN, Seq: 1<<32 - 1, Window: 65535, MSS: 1460, Timestamps: true, TSVal: 7},
	},
	{
		from: netip.MustParseAddrPort("[2001:db8::2]:4000"), to: netip.MustParseAddrPort("[2001:db8::1]:40000"),
		Segment: Segment{Flags: FIN | PSH | ACK, Seq: 5, Ack: 1 << 31, Window: 1, Payload: []byte{1, 2, 3}},
	},
}

func TestSegmentThereAndBack(t *testing.T) {
	for _, want := range somePackets {
		raw := want.encode()
		got, err := decode(raw)
		if len(got.Payload) == 0 {
			got.Payload = nil
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("decode = %+v, %v; want %+v", got, err, want)
		}
		if got.Len() != uint32(len(got.Payload)+1) {
			t.Errorf("%v takes %d", got, got.Len())
		}
		for n := range raw {
			if _, err := decode(raw[:n]); err == nil {
				t.Errorf("decode took %d bytes of %d", n, len(raw))
			}
		}
	}
}

func TestChecksum(t *testing.T) {
	// The example of RFC 1071, section 3, the last byte cut off and put back.
	if got := ^checksum([]byte{0x00, 0x01, 0xf2, 0x03}, []byte{0xf4, 0xf5, 0xf6, 0xf7}); got != 0xddf2 {
		t.Errorf("sum %#x", got)
	}
	if got := ^checksum([]byte{0x00, 0x01, 0xf2}); got != 0xf201 {
		t.Errorf("sum of three bytes %#x", got)
	}
}

func FuzzDecodeSegment(f *testing.F) {
	for _, p := range somePackets {
		f.Add(p.encode())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		decode(raw) // must not panic
	})
}
