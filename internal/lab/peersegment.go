// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Flags are those of a TCP header.
type Flags uint8

// The flags that a Peer deals with.
const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// String gives the flags' names, as in "FIN|ACK".
func (f Flags) String() string {
	var names []string
	for i, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK"} {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "|")
}

// kind leaves out PSH, which says nothing about what a segment is.
func (f Flags) kind() Flags { return f & (FIN | SYN | RST | ACK) }

// Segment is a TCP segment between a Peer and a kernel socket.
type Segment struct {
	Flags        Flags
	Seq, Ack     uint32
	Window       uint16 // unscaled: a Peer agrees to no scale
	MSS          uint16 // of a SYN; 0: without that option
	Timestamps   bool   // with that option:
	TSVal, TSEcr uint32 // milliseconds of a clock of the sender's
	Payload      []byte
}

// Len gives how much sequence space the segment takes.
func (s Segment) Len() uint32 {
	n := uint32(len(s.Payload))
	if s.Flags&SYN != 0 {
		n++
	}
	if s.Flags&FIN != 0 {
		n++
	}
	return n
}

// String tells of a segment what matters in an error text.
func (s Segment) String() string {
	text := fmt.Sprintf("%v seq %d", s.Flags, s.Seq)
	if s.Flags&ACK != 0 {
		text += fmt.Sprintf(" ack %d", s.Ack)
	}
	if len(s.Payload) > 0 {
		text += fmt.Sprintf(" with %d bytes", len(s.Payload))
	}
	return text
}

// Sizes of headers without options, kinds of options.
const (
	ipv4Size = 20
	ipv6Size = 40
	tcpSize  = 20

	optionEnd        = 0
	optionNOP        = 1
	optionMSS        = 2
	optionTimestamps = 8
)

var errPacket = errors.New("not a whole TCP packet")

var (
	native  = binary.NativeEndian
	network = binary.BigEndian
)

// packet is a segment with its addresses.
type packet struct {
	from, to netip.AddrPort
	Segment
}

// encode writes IP header, TCP header and payload. The checksum of an IPv4 header
// is left to the kernel, which writes it in any case.
func (p packet) encode() []byte {
	segment := p.encodeTCP()
	from, to := p.from.Addr().AsSlice(), p.to.Addr().AsSlice()
	// The checksum is also over the addresses, the protocol and the length.
	pseudo := network.AppendUint32(slices.Concat(from, to), uint32(len(segment)))
	pseudo = network.AppendUint32(pseudo, unix.IPPROTO_TCP)
	network.PutUint16(segment[16:], checksum(pseudo, segment))
	var header []byte
	if p.from.Addr().Is4() {
		header = []byte{
			4<<4 | ipv4Size/4, 0, 0, 0, // version, size of this; length follows
			0, 0, 0x40, 0, // do not fragment
			64, unix.IPPROTO_TCP, 0, 0, // hops
		}
		network.PutUint16(header[2:], uint16(ipv4Size+len(segment)))
	} else {
		header = []byte{
			6 << 4, 0, 0, 0, // version; length follows
			0, 0, unix.IPPROTO_TCP, 64, // hops
		}
		network.PutUint16(header[4:], uint16(len(segment)))
	}
	return slices.Concat(header, from, to, segment)
}

// encodeTCP writes the part behind the IP header, with the checksum 0.
func (p packet) encodeTCP() []byte {
	var options []byte
	if p.MSS != 0 {
		options = network.AppendUint16(append(options, optionMSS, 4), p.MSS)
	}
	if p.Timestamps {
		options = append(options, optionNOP, optionNOP, optionTimestamps, 10)
		options = network.AppendUint32(network.AppendUint32(options, p.TSVal), p.TSEcr)
	}
	b := make([]byte, tcpSize, tcpSize+len(options)+len(p.Payload))
	network.PutUint16(b[0:], p.from.Port())
	network.PutUint16(b[2:], p.to.Port())
	network.PutUint32(b[4:], p.Seq)
	network.PutUint32(b[8:], p.Ack)
	b[12] = byte((tcpSize + len(options)) / 4 << 4)
	b[13] = byte(p.Flags)
	network.PutUint16(b[14:], p.Window)
	return append(append(b, options...), p.Payload...)
}

// checksum is the internet checksum over all parts, each of an even length but
// the last.
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for ; len(b) >= 2; b = b[2:] {
			sum += uint32(network.Uint16(b))
		}
		if len(b) > 0 {
			sum += uint32(b[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// decode reads an IP packet. Checksums are not looked at: over lo the kernel
// writes none. The payload is a copy.
func decode(b []byte) (packet, error) {
	var p packet
	from, to, b, err := decodeIP(b)
	if err != nil {
		return p, err
	}
	if len(b) < tcpSize {
		return p, errPacket
	}
	p.from = netip.AddrPortFrom(from, network.Uint16(b[0:]))
	p.to = netip.AddrPortFrom(to, network.Uint16(b[2:]))
	p.Seq, p.Ack = network.Uint32(b[4:]), network.Uint32(b[8:])
	p.Flags = Flags(b[13]) & (FIN | SYN | RST | PSH | ACK)
	p.Window = network.Uint16(b[14:])
	size := int(b[12]>>4) * 4
	if size < tcpSize || size > len(b) {
		return p, errPacket
	}
	p.Payload = slices.Clone(b[size:])
	return p, p.decodeOptions(b[tcpSize:size])
}

// decodeIP gives the addresses of a packet and what follows its IP header.
func decodeIP(b []byte) (from, to netip.Addr, rest []byte, err error) {
	switch {
	case len(b) >= ipv4Size && b[0]>>4 == 4:
		size, total := int(b[0]&15)*4, int(network.Uint16(b[2:]))
		if b[9] != unix.IPPROTO_TCP || size < ipv4Size || total < size || total > len(b) {
			return from, to, nil, errPacket
		}
		return netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), b[size:total], nil
	case len(b) >= ipv6Size && b[0]>>4 == 6:
		total := ipv6Size + int(network.Uint16(b[4:]))
		if b[6] != unix.IPPROTO_TCP || total > len(b) {
			return from, to, nil, errPacket
		}
		return netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])), b[ipv6Size:total], nil
	}
	return from, to, nil, errPacket
}

func (s *Segment) decodeOptions(b []byte) error {
	for len(b) > 0 && b[0] != optionEnd {
		if b[0] == optionNOP {
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return errPacket
		}
		value := b[2:b[1]]
		switch {
		case b[0] == optionMSS && len(value) == 2:
			s.MSS = network.Uint16(value)
		case b[0] == optionTimestamps && len(value) == 8:
			s.Timestamps = true
			s.TSVal, s.TSEcr = network.Uint32(value), network.Uint32(value[4:])
		}
		b = b[b[1]:]
	}
	return nil
}
