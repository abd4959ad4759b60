// SPDX-License-Identifier: Apache-2.0

// Package sockdiag reads the TCP sockets that are there already, by the netlink
// protocol NETLINK_SOCK_DIAG (inet_diag). It needs no privilege.
package sockdiag

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"afterfin/internal/clock"
	"afterfin/internal/event"
	"afterfin/internal/netns"
	"afterfin/internal/tcp"
)

// ErrNoInetDiag says that the kernel has no inet_diag or tcp_diag, built in or as
// a module that it could load by itself.
var ErrNoInetDiag = errors.New("kernel cannot list tcp sockets (modprobe tcp_diag)")

// batchSize is the most that the kernel writes at once; it writes as much as the
// largest buffer that it was asked to fill so far.
const batchSize = 32 << 10

// boundOnly is TCP_BOUND_INACTIVE, a state that only inet_diag knows: bound to a
// port, neither listening nor connected. The kernel shows such sockets as CLOSE,
// and only to who asks for this state (since 6.8).
const boundOnly tcp.State = 13

// Dump calls fn with every TCP socket in one of the states; no states means all.
// The netns is that of the calling thread (see netns.Do). The Existing passed to
// fn is used again for the next one: fn copies what it keeps. An error ends the
// dump, and may be ErrNoInetDiag.
//
// The kernel shows a request socket as SYN_RECV, a socket that is only bound as
// CLOSE (since 6.8), and a TIME_WAIT mini-socket by its substate, TIME_WAIT or
// FIN_WAIT2: a FIN_WAIT2 without inode may be one. It chooses by state before it
// writes, so a socket that changes in between shows a state nobody asked for.
//
// A dump is no snapshot. After and Before enclose the moment of each batch; sockets
// that open or close between two batches may make another one, of the same hash
// bucket, come twice or not at all, and a dump that the kernel calls interrupted
// is taken as it is. The cookie tells what is the same socket.
func Dump(states tcp.StateSet, fn func(*event.Existing)) error {
	return list(states, false, fn)
}

// DumpInfo is Dump with the Info of each socket, which costs about twice the time.
func DumpInfo(states tcp.StateSet, fn func(*event.Existing)) error {
	return list(states, true, fn)
}

func list(states tcp.StateSet, info bool, fn func(*event.Existing)) error {
	inode, err := netns.Self()
	if err != nil {
		return err
	}
	// Without a netns in its configuration, Dial opens the socket right here, on
	// the calling thread. Later calls may run on any thread.
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return explain(err)
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return explain(err)
	}
	d := dumper{conn: conn, raw: raw, buf: make([]byte, batchSize)}
	d.found.NetNS = inode
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := d.dump(encode(family, stateBits(states), info), fn); err != nil {
			return explain(err)
		}
	}
	return nil
}

func stateBits(states tcp.StateSet) uint32 {
	if states == 0 {
		return ^uint32(0)
	}
	if states.Has(tcp.Close) {
		states.Add(boundOnly)
	}
	return uint32(states)
}

// explain does not wrap the errno of a missing module: that is fs.ErrNotExist
// too, which says something else to callers, such as a netns that is gone.
func explain(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return fmt.Errorf("%w: %v", ErrNoInetDiag, err)
	}
	return fmt.Errorf("list tcp sockets: %w", err)
}

// dumper reads into one buffer by itself: Conn.Receive would collect the whole
// dump in a slice, Conn.ReceiveIter hides where a batch begins and costs twice
// the time.
type dumper struct {
	conn  *netlink.Conn
	raw   syscall.RawConn
	buf   []byte
	found event.Existing
}

func (d *dumper) dump(request []byte, fn func(*event.Existing)) error {
	header := netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump}
	// The kernel writes the first batch while it takes the request, and at most
	// one more in each read, after it has handed out an earlier one. So a batch
	// is no older than the call before the one that brought it.
	previous := clock.Mono()
	if _, err := d.conn.Send(netlink.Message{Header: header, Data: request}); err != nil {
		return err
	}
	for {
		now := clock.Mono()
		batch, err := d.read()
		if err != nil {
			return err
		}
		d.found.After, d.found.Before = previous, clock.Mono()
		previous = now
		if done, err := d.each(batch, fn); done || err != nil {
			return err
		}
	}
}

// read gives the next batch; it is overwritten by the one after.
func (d *dumper) read() ([]byte, error) {
	var n int
	var err error
	waiting := d.raw.Read(func(fd uintptr) bool {
		// With MSG_TRUNC, n is the size of the batch even where it does not fit.
		n, _, err = unix.Recvfrom(int(fd), d.buf, unix.MSG_TRUNC)
		return !errors.Is(err, unix.EAGAIN)
	})
	if waiting != nil {
		return nil, waiting
	}
	if err != nil {
		return nil, os.NewSyscallError("recvfrom", err)
	}
	if n > len(d.buf) {
		return nil, fmt.Errorf("batch of %d bytes for %d: %w", n, len(d.buf), event.ErrSize)
	}
	return d.buf[:n], nil
}

// each calls fn for the sockets of a batch; done tells that it was the last.
func (d *dumper) each(batch []byte, fn func(*event.Existing)) (done bool, err error) {
	var m netlink.Message
	for len(batch) > 0 {
		if err := m.UnmarshalBinary(batch); err != nil {
			return false, err
		}
		switch m.Header.Type {
		case netlink.Done, netlink.Error: // both carry an errno, negative, or 0
			if len(m.Data) < 4 {
				return false, fmt.Errorf("end of dump of %d bytes: %w", len(m.Data), event.ErrSize)
			}
			if errno := int32(native.Uint32(m.Data)); errno != 0 {
				return false, fmt.Errorf("sock_diag: %w", unix.Errno(-errno))
			}
			return true, nil
		case unix.SOCK_DIAG_BY_FAMILY:
			if err := decode(m.Data, &d.found); err != nil {
				return false, err
			}
			fn(&d.found)
		}
		batch = batch[min(align(int(m.Header.Length)), len(batch)):]
	}
	return false, nil
}

// align gives where the next netlink message of a batch begins.
func align(length int) int { return (length + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }
