// SPDX-License-Identifier: Apache-2.0

package survey

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/netns"
	"afterfin/internal/ports"
)

// Of linux/netfilter/nfnetlink_conntrack.h; package unix has none of them.
const (
	ctNew       = 1 << 8 // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW
	ctaOrig     = 1
	ctaReply    = 2
	ctaInfo     = 4
	ctaTimeout  = 7
	ctaIP       = 1
	ctaProto    = 2
	ctaInfoTCP  = 1
	ctaTCPState = 1
)

// track makes a connection of which conntrack alone knows.
func track() error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	tuple := func(from, to byte, sport, dport uint16) func(*netlink.AttributeEncoder) error {
		return func(e *netlink.AttributeEncoder) error {
			e.Nested(ctaIP, func(e *netlink.AttributeEncoder) error {
				e.Bytes(1, []byte{10, 0, 0, from})
				e.Bytes(2, []byte{10, 0, 0, to})
				return nil
			})
			e.Nested(ctaProto, func(e *netlink.AttributeEncoder) error {
				e.ByteOrder = binary.BigEndian
				e.Uint8(1, unix.IPPROTO_TCP)
				e.Uint16(2, sport)
				e.Uint16(3, dport)
				return nil
			})
			return nil
		}
	}
	e.Nested(ctaOrig, tuple(1, 2, 40000, 80))
	e.Nested(ctaReply, tuple(2, 1, 80, 40000))
	e.Uint32(ctaTimeout, 600)
	e.Nested(ctaInfo, func(e *netlink.AttributeEncoder) error {
		e.Nested(ctaInfoTCP, func(e *netlink.AttributeEncoder) error {
			e.Uint8(ctaTCPState, 3) // TCP_CONNTRACK_ESTABLISHED
			return nil
		})
		return nil
	})
	attributes, err := e.Encode()
	if err != nil {
		return err
	}
	_, err = c.Execute(netlink.Message{
		Header: netlink.Header{Type: ctNew, Flags: netlink.Request | netlink.Acknowledge | netlink.Create},
		Data:   append([]byte{unix.AF_INET, 0, 0, 0}, attributes...),
	})
	return err
}

// TestConntrack: it is named where it tracks something, with the TIME_WAIT it is set to.
func TestConntrack(t *testing.T) {
	ns, err := lab.NewNetNS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	look := func() (c *ports.Conntrack) {
		t.Helper()
		spaces, _, err := Ports(netns.NS{Inode: ns.Inode(), Path: ns.Path()}, ports.Look{}, nil, nil)
		if err != nil || len(spaces) != 1 {
			t.Fatalf("%v, %d netns", err, len(spaces))
		}
		return spaces[0].Conntrack
	}
	if c := look(); c != nil {
		t.Errorf("it tracks nothing: %+v", c)
	}
	if err := ns.SetSysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "77"); errors.Is(err, fs.ErrNotExist) {
		return // this kernel has none, and none was named
	} else if err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(track); err != nil {
		t.Fatal(err)
	}
	if c := look(); c == nil || *c != (ports.Conntrack{Count: 1, TimeWait: 77 * time.Second}) {
		t.Errorf("%+v", c)
	}
}
