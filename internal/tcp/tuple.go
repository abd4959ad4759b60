// SPDX-License-Identifier: Apache-2.0

package tcp

import "net/netip"

// Tuple is the two ends of a connection as its owner sees them. IPv4 inside an
// IPv6 socket (v4-mapped) stands here as the IPv4 it is on the wire. A port is
// 0 where the kernel has not chosen one yet.
type Tuple struct {
	Local, Remote netip.AddrPort
}

// Is4 tells whether the connection runs over IPv4. A dual-stack listener
// (bound to ::) does not.
func (t Tuple) Is4() bool { return t.Local.Addr().Is4() || t.Remote.Addr().Is4() }
