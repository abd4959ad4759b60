// SPDX-License-Identifier: Apache-2.0

package sockdiag

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// Messages as a little-endian kernel writes them, field by field.
const (
	golden4 = "02 08 00 00" + // AF_INET, CLOSE_WAIT, timer, retrans
		"1f90 d431" + // ports 8080, 54321
		"0a000005 00000000 00000000 00000000" +
		"c0a80102 00000000 00000000 00000000" +
		"00000000" + // interface
		"01020304 05060708" + // cookie, low word first
		"00000000 01000000 00000000 e8030000" + // expires, queues, uid
		"44332211" // inode
	golden6 = "0a 01 00 00" + "01bb 0001" +
		"20010db8 00000000 00000000 00000001" +
		"fe800000 00000000 00000000 00000002" +
		"02000000 ffffffff 00000000 00000000 00000000 00000000 00000000 00000000"
	goldenMapped = "0a 06 03 00" + "8000 0050" +
		"00000000 00000000 0000ffff 7f000001" +
		"00000000 00000000 0000ffff 7f000002" +
		"00000000 07000000 00000000 60ea0000 00000000 00000000 00000000 00000000"
	goldenListener = "0a 0a 00 00" + "0016 0000" +
		"00000000 00000000 00000000 00000000" +
		"00000000 00000000 00000000 00000000" +
		"00000000 08000000 00000000 00000000 00000000 80000000 00000000 01000000"
)

func fromHex(t testing.TB, text string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func tuple(local, remote string) tcp.Tuple {
	return tcp.Tuple{Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote)}
}

func TestDecode(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want event.Existing
	}{
		"ipv4": {golden4, event.Existing{Cookie: 0x0807060504030201, Inode: 0x11223344, State: tcp.CloseWait, RecvQ: 1, UID: 1000,
			Tuple: tuple("10.0.0.5:8080", "192.168.1.2:54321")}},
		"ipv6": {golden6, event.Existing{Cookie: 0xffffffff, State: tcp.Established,
			Tuple: tuple("[2001:db8::1]:443", "[fe80::2]:1")}},
		"v4-mapped time_wait": {goldenMapped, event.Existing{Cookie: 7, State: tcp.TimeWait, Left: time.Minute, Info: event.Info{Timer: event.TimerTimeWait},
			Tuple: tuple("127.0.0.1:32768", "127.0.0.2:80")}},
		"dual-stack listener": {goldenListener, event.Existing{Cookie: 8, Inode: 1, State: tcp.Listen, SendQ: 128,
			Tuple: tuple("[::]:22", "[::]:0")}},
	} {
		// The fields that decode does not own stay; the others are all replaced.
		c.want.NetNS, c.want.After, c.want.Before = 3, 4, 5
		attributes := "05000800 00000000"
		for _, text := range []string{c.text, c.text + attributes, c.text + "00"} {
			got := event.Existing{Cookie: 1, Inode: 2, State: 99, Left: 1, Tuple: tuple("1.2.3.4:5", "[::6]:7"), NetNS: 3, After: 4, Before: 5}
			if err := decode(fromHex(t, text), &got); err != nil || got != c.want {
				t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
			}
		}
	}
}

// Attributes: struct tcp_info, with the retransmission timeout, up to the number of
// segments with data that were sent, and the name of the upper layer.
var (
	infoAttr = "a4000200" + strings.Repeat("00", 8) + "e01c0300" + strings.Repeat("00", 32) + "0a000000 00000000 14000000 1e000000" + strings.Repeat("00", 96) + "07000000"
	tlsAttr  = "14001380 08000100 746c7300 08000200 00000000"
)

func TestDecodeInfo(t *testing.T) {
	want := event.Info{Known: true, LastDataSent: 10 * time.Millisecond, LastDataRecv: 20 * time.Millisecond, LastAckRecv: 30 * time.Millisecond,
		RTO: 204 * time.Millisecond, DataSegsOut: 7}
	for text, ulp := range map[string]event.ULP{
		infoAttr:                                    event.ULPNone,
		infoAttr + tlsAttr:                          event.ULPTLS,
		tlsAttr + infoAttr:                          event.ULPTLS,
		infoAttr + "0c001380 08000100 736d6300":     event.ULPOther, // smc
		infoAttr + "04001380":                       event.ULPOther,
		infoAttr + "0e001380 0a000100 6d7074637000": event.ULPMPTCP,
	} {
		e := event.Existing{}
		want := want
		want.ULP = ulp
		if err := decode(fromHex(t, golden6+text), &e); err != nil {
			t.Errorf("%s: %v", text, err)
		} else if e.Info != want {
			t.Errorf("%s: %+v, want %+v", text, e.Info, want)
		}
	}
	short := event.Existing{}
	if err := decode(fromHex(t, golden4+"08000200 01020304"), &short); err != nil || short.Info.Known {
		t.Errorf("a shorter tcp_info: %+v, %v", short.Info, err)
	}
	for _, text := range []string{"03000200", "00000000", "09000200 01020304", "0c001380 09000100 746c7300"} {
		if err := decode(fromHex(t, golden4+text), &short); !errors.Is(err, event.ErrSize) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	whole := fromHex(t, golden4)
	check := func(raw []byte, want error) {
		t.Helper()
		before := event.Existing{Cookie: 1, Inode: 2, State: 3}
		e := before
		if err := decode(raw, &e); !errors.Is(err, want) || e != before {
			t.Errorf("%d bytes: %+v, %v; want %v and nothing changed", len(raw), e, err, want)
		}
	}
	for n := range whole {
		check(whole[:n], event.ErrSize)
	}
	for _, family := range []byte{0, unix.AF_UNIX, unix.AF_PACKET, 255} {
		raw := bytes.Clone(whole)
		raw[0] = family
		check(raw, event.ErrKind)
	}
}

func TestEncode(t *testing.T) {
	want := fromHex(t, "0a 06 00 00"+"00010000"+strings.Repeat("00", 48))
	if got := encode(unix.AF_INET6, 1<<tcp.CloseWait, false); !bytes.Equal(got, want) {
		t.Errorf("% x, want % x", got, want)
	}
	want[2] = 2
	if got := encode(unix.AF_INET6, 1<<tcp.CloseWait, true); !bytes.Equal(got, want) {
		t.Errorf("with info % x, want % x", got, want)
	}
	var closed, listen tcp.StateSet
	closed.Add(tcp.Close)
	listen.Add(tcp.Listen)
	for set, want := range map[tcp.StateSet]uint32{0: 0xffffffff, listen: 1 << 10, closed: 1<<7 | 1<<13} {
		if got := stateBits(set); got != want {
			t.Errorf("stateBits(%#x) = %#x, want %#x", set, got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, text := range []string{golden4, golden6, goldenMapped, goldenListener, golden4 + "05000800 00000000", golden6 + infoAttr + tlsAttr, "02 08", ""} {
		f.Add(fromHex(f, text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var e, again event.Existing
		err := decode(raw, &e)
		whole := len(raw) >= messageSize && (raw[0] == unix.AF_INET || raw[0] == unix.AF_INET6)
		if !whole && err == nil || whole && len(raw) < messageSize+attrHeader && err != nil {
			t.Fatalf("% x: %v", raw, err)
		}
		if err != nil {
			if e != again {
				t.Fatalf("%v, yet %+v", err, e)
			}
			return
		}
		if e.Tuple.Local.Addr().Is4In6() || e.Tuple.Remote.Addr().Is4In6() || !e.Tuple.Local.IsValid() || !e.Tuple.Remote.IsValid() {
			t.Fatalf("addresses %+v", e.Tuple)
		}
		timer := e.Info.Timer
		e.Info = event.Info{Timer: timer}
		if err := decode(raw[:messageSize], &again); err != nil || again != e {
			t.Fatalf("with attributes %+v, without %+v, %v", e, again, err)
		}
	})
}

// Batches that no kernel should write.
func TestEachErrors(t *testing.T) {
	const socket = "58000000 1400 0200 01000000 00000000" // header of golden4: 16+72 bytes, type 20, multi
	calls := 0
	d := dumper{}
	for text, want := range map[string]error{
		socket + golden4 + "12000000 0300 0200 01000000 00000000 0000 0000": event.ErrSize, // done without an errno
		"14000000 0200 0000 01000000 00000000 ffffffff":                     unix.EPERM,    // error
		"14000000 0300 0200 01000000 00000000 feffffff":                     unix.ENOENT,   // done, with an error
		"18000000 1400 0200 01000000 00000000 02080000 00000000":            event.ErrSize,
	} {
		if done, err := d.each(fromHex(t, text), func(*event.Existing) { calls++ }); done || !errors.Is(err, want) {
			t.Errorf("%s: %v, %v; want %v", text, done, err, want)
		}
	}
	for _, text := range []string{"14000000", socket, "08000000 1400 0200 01000000 00000000", "ffffffff 1400 0200 01000000 00000000"} {
		if done, err := d.each(fromHex(t, text), func(*event.Existing) { calls++ }); done || err == nil {
			t.Errorf("%s: %v, %v; want an error", text, done, err)
		}
	}
	if calls != 1 {
		t.Errorf("%d sockets, want the one before the end", calls)
	}
}
