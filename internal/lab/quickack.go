// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// loIndex is LOOPBACK_IFINDEX, the index of lo in every netns.
const loIndex = 1

// SetQuickACK chooses whether TCP acknowledges at once on lo, as in a new netns,
// or may delay that, as kernels do by themselves. It counts for connections
// made afterwards, those with a Peer too.
//
// With a delayed ACK, FIN_WAIT1 to FIN_WAIT2 and what follows runs up to 40 ms
// later, in a timer softirq on top of whatever task; with an immediate one it
// runs within the system call that sent the FIN, so tests know when it happened.
func (ns *NetNS) SetQuickACK(on bool) error {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.quick = on
	err := ns.route(func(r routes) error {
		// The kernel's own IPv4 routes: the whole net and lo's address in it.
		for _, to := range []string{"127.0.0.0/8", "127.0.0.1/32"} {
			if err := r.replace(netip.MustParsePrefix(to)); err != nil {
				return err
			}
		}
		for _, f := range ns.peers {
			if err := r.peer(f); err != nil {
				return err
			}
		}
		return r.replace6()
	})
	if err != nil {
		return fmt.Errorf("set quickack of lo to %t: %w", on, err)
	}
	return nil
}

// routes changes routes that lead to lo.
type routes struct {
	conn *netlink.Conn
	on   bool
}

// route has f change routes of the netns. ns.mu is held.
func (ns *NetNS) route(f func(routes) error) error {
	return ns.Do(func() error {
		// Dial opens the socket on the calling thread, so in the netns.
		conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
		if err != nil {
			return err
		}
		defer conn.Close()
		return f(routes{conn: conn, on: ns.quick})
	})
}

// replace6 has our route to ::1 take the place of the kernel's, which is there
// as soon as lo is up. That one has the metric 0, which no message can ask for,
// so it is not replaced but wins until it is deleted. When lo starts again it is
// back.
func (r routes) replace6() error {
	to := netip.MustParsePrefix("::1/128")
	err := r.replace(to)
	// No IPv6 in the kernel, or switched off on lo: nothing to acknowledge.
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EACCES) {
		return nil
	}
	if err != nil {
		return err
	}
	// Deleting takes the first that fits; ours is not RTPROT_KERNEL.
	for err == nil {
		err = r.send(unix.RTM_DELROUTE, 0, header(to, unix.RTPROT_KERNEL), attributes(to))
	}
	if !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete kernel's route to %v: %w", to, err)
	}
	return nil
}

// replace replaces the route of its kind, or makes it where there is none.
func (r routes) replace(to netip.Prefix) error {
	ae := attributes(to)
	if to.Addr().Is4() {
		ae.Bytes(unix.RTA_PREFSRC, netip.AddrFrom4([4]byte{127, 0, 0, 1}).AsSlice())
	}
	r.metrics(ae)
	if err := r.send(unix.RTM_NEWROUTE, netlink.Create|netlink.Replace, header(to, unix.RTPROT_STATIC), ae); err != nil {
		return fmt.Errorf("replace route to %v: %w", to, err)
	}
	return nil
}

// metrics says whether the route has immediate ACKs.
func (r routes) metrics(ae *netlink.AttributeEncoder) {
	var quick uint32
	if r.on {
		quick = 1
	}
	ae.Nested(unix.RTA_METRICS, func(metrics *netlink.AttributeEncoder) error {
		metrics.Uint32(unix.RTAX_QUICKACK, quick)
		return nil
	})
}

// send sends one request, a struct of the kernel's and attributes, and waits for
// the answer to it.
func (r routes) send(kind netlink.HeaderType, flags netlink.HeaderFlags, body any, ae *netlink.AttributeEncoder) error {
	data, err := binary.Append(nil, binary.NativeEndian, body)
	if err != nil {
		return err
	}
	attrs, err := ae.Encode()
	if err != nil {
		return err
	}
	_, err = r.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   append(data, attrs...),
	})
	return err
}

func header(to netip.Prefix, protocol uint8) unix.RtMsg {
	family := uint8(unix.AF_INET)
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	return unix.RtMsg{
		Family:   family,
		Dst_len:  uint8(to.Bits()),
		Table:    unix.RT_TABLE_LOCAL,
		Protocol: protocol,
		Scope:    unix.RT_SCOPE_HOST,
		Type:     unix.RTN_LOCAL,
	}
}

func attributes(to netip.Prefix) *netlink.AttributeEncoder {
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(unix.RTA_DST, to.Addr().AsSlice())
	ae.Uint32(unix.RTA_OIF, loIndex)
	return ae
}
