// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// family is an address family: unix.AF_INET or unix.AF_INET6.
type family int

// addresses gives the address that kernel sockets have towards a Peer, and the
// Peer's own. Both are set aside for documentation, so nobody else has them.
func (f family) addresses() (kernel, peer netip.Addr, err error) {
	switch f {
	case unix.AF_INET:
		return netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom4([4]byte{192, 0, 2, 2}), nil
	case unix.AF_INET6:
		return netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), nil
	}
	return kernel, peer, fmt.Errorf("address family %d: %w", f, unix.EAFNOSUPPORT)
}

// peerNexthop is the id of the nexthop object of the IPv6 route to a Peer.
const peerNexthop = 1

// rtaNHID is RTA_NH_ID, which x/sys/unix lacks.
const rtaNHID = 30

// routePeer gives lo the kernel's address and leads the Peer's to lo, from where
// the kernel takes it no further: the address is not local, so no socket of the
// kernel's, and no RST, answers what is sent to it. The exception is a listener
// on 0.0.0.0 and the same port, to which IPv4 delivers it all the same.
//
// What is sent to a local address over lo keeps the route that it left with, and
// so meets no check of where it comes from (rp_filter, martians).
func (ns *NetNS) routePeer(f family) error {
	kernel, _, err := f.addresses()
	if err != nil {
		return err
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	for _, has := range ns.peers {
		if has == f {
			return nil
		}
	}
	err = ns.route(func(r routes) error {
		if err := r.address(f, kernel); err != nil {
			return fmt.Errorf("give lo %v: %w", kernel, err)
		}
		if f == unix.AF_INET6 {
			if err := r.prepare6(kernel); err != nil {
				return err
			}
		}
		return r.peer(f)
	})
	if err == nil {
		ns.peers = append(ns.peers, f)
	}
	return err
}

// address gives lo an address.
func (r routes) address(f family, addr netip.Addr) error {
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(unix.IFA_LOCAL, addr.AsSlice())
	ae.Bytes(unix.IFA_ADDRESS, addr.AsSlice())
	return r.send(unix.RTM_NEWADDR, netlink.Create|netlink.Replace, unix.IfAddrmsg{
		Family:    uint8(f),
		Prefixlen: uint8(addr.BitLen()),
		Flags:     unix.IFA_F_NODAD, // usable at once
		Index:     loIndex,
	}, ae)
}

// prepare6 does what IPv6 wants besides.
func (r routes) prepare6(kernel netip.Addr) error {
	// The kernel's own local route comes later, from a work queue.
	if err := r.replace(netip.PrefixFrom(kernel, kernel.BitLen())); err != nil {
		return err
	}
	// A route that names lo becomes one that rejects; one with a nexthop object
	// that names lo does not.
	ae := netlink.NewAttributeEncoder()
	ae.Uint32(unix.NHA_ID, peerNexthop)
	ae.Uint32(unix.NHA_OIF, loIndex)
	nexthop := unix.Nhmsg{Family: unix.AF_INET6, Protocol: unix.RTPROT_STATIC}
	if err := r.send(unix.RTM_NEWNEXTHOP, netlink.Create|netlink.Replace, nexthop, ae); err != nil {
		return fmt.Errorf("make lo a nexthop: %w", err)
	}
	return nil
}

// peer replaces the route to the Peer's address, or makes it.
func (r routes) peer(f family) error {
	kernel, peer, err := f.addresses()
	if err != nil {
		return err
	}
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(unix.RTA_DST, peer.AsSlice())
	ae.Bytes(unix.RTA_PREFSRC, kernel.AsSlice())
	route := unix.RtMsg{
		Family:   uint8(f),
		Dst_len:  uint8(peer.BitLen()),
		Table:    unix.RT_TABLE_MAIN,
		Protocol: unix.RTPROT_STATIC,
		Type:     unix.RTN_UNICAST,
	}
	if f == unix.AF_INET {
		route.Scope = unix.RT_SCOPE_LINK
		ae.Uint32(unix.RTA_OIF, loIndex)
	} else {
		ae.Uint32(rtaNHID, peerNexthop)
	}
	r.metrics(ae)
	if err := r.send(unix.RTM_NEWROUTE, netlink.Create|netlink.Replace, route, ae); err != nil {
		return fmt.Errorf("lead %v to lo: %w", peer, err)
	}
	return nil
}
