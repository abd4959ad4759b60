// SPDX-License-Identifier: Apache-2.0

package sockdiag

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// Sizes of linux/inet_diag.h: struct inet_diag_req_v2 and struct inet_diag_msg.
const (
	requestSize = 56
	messageSize = 72
)

// Numbers in netlink messages are the machine's own, ports and addresses are in
// network order.
var (
	native  = binary.NativeEndian
	network = binary.BigEndian
)

// encode writes the request for all TCP sockets of one address family that are
// in one of the states, one bit each; with struct tcp_info if wanted.
func encode(family uint8, states uint32, info bool) []byte {
	raw := make([]byte, requestSize) // the socket id that follows the states stays zero: any
	raw[0] = family
	raw[1] = unix.IPPROTO_TCP
	if info {
		raw[2] = 1 << (attrInfo - 1)
	}
	native.PutUint32(raw[4:], states)
	return raw
}

// decode reads one struct inet_diag_msg and the attributes behind it into e, all
// but NetNS and the times. The error wraps event.ErrSize or, for an address family
// that is not IP, event.ErrKind; e is then as it was.
func decode(raw []byte, e *event.Existing) error {
	if len(raw) < messageSize {
		return fmt.Errorf("inet_diag message of %d bytes for %d: %w", len(raw), messageSize, event.ErrSize)
	}
	var local, remote netip.Addr
	switch raw[0] {
	case unix.AF_INET:
		local, remote = netip.AddrFrom4([4]byte(raw[8:])), netip.AddrFrom4([4]byte(raw[24:]))
	case unix.AF_INET6:
		local, remote = netip.AddrFrom16([16]byte(raw[8:])).Unmap(), netip.AddrFrom16([16]byte(raw[24:])).Unmap()
	default:
		return fmt.Errorf("inet_diag message of address family %d: %w", raw[0], event.ErrKind)
	}
	info, err := decodeInfo(raw[messageSize:])
	if err != nil {
		return err
	}
	info.Timer = event.Timer(raw[2])
	e.Info = info
	e.State = tcp.State(raw[1])
	e.Tuple.Local = netip.AddrPortFrom(local, network.Uint16(raw[4:]))
	e.Tuple.Remote = netip.AddrPortFrom(remote, network.Uint16(raw[6:]))
	e.Cookie = uint64(native.Uint32(raw[44:])) | uint64(native.Uint32(raw[48:]))<<32
	e.Inode = uint64(native.Uint32(raw[68:]))
	e.UID = native.Uint32(raw[64:])
	e.RecvQ, e.SendQ = native.Uint32(raw[56:]), native.Uint32(raw[60:])
	e.Left = 0
	if info.Timer == event.TimerTimeWait {
		e.Left = time.Duration(native.Uint32(raw[52:])) * time.Millisecond
	}
	return nil
}
