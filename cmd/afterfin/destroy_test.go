// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const sockDestroy = 21 // SOCK_DESTROY, include/uapi/linux/sock_diag.h

// destroySocket has the kernel abort a socket of the calling thread's netns, as
// ss -K does: struct inet_diag_req_v2 with the tuple and no cookie.
func destroySocket(local, remote netip.AddrPort) error {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	request := make([]byte, 56)
	request[0], request[1] = unix.AF_INET6, unix.IPPROTO_TCP
	if local.Addr().Is4() {
		request[0] = unix.AF_INET
	}
	binary.LittleEndian.PutUint32(request[4:], ^uint32(0)) // in any state
	binary.BigEndian.PutUint16(request[8:], local.Port())
	binary.BigEndian.PutUint16(request[10:], remote.Port())
	copy(request[12:28], local.Addr().AsSlice())
	copy(request[28:44], remote.Addr().AsSlice())
	binary.LittleEndian.PutUint64(request[48:], ^uint64(0)) // INET_DIAG_NOCOOKIE
	_, err = conn.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge},
		Data:   request,
	})
	return err
}
