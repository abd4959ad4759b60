// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// capture is a packet socket that sees the TCP packets from and to one address,
// over lo.
type capture struct {
	fd  int
	buf []byte
}

// newCapture begins to listen in the netns of the calling thread. Reads may run
// on any thread.
func newCapture(addr netip.Addr) (*capture, error) {
	// Without a protocol it sees nothing until it is bound.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	c := &capture{fd: fd, buf: make([]byte, 1<<16+ipv6Size)}
	if err := c.bind(addr); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return c, nil
}

func (c *capture) close() error { return unix.Close(c.fd) }

func (c *capture) bind(addr netip.Addr) error {
	filter := only(addr)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(c.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return fmt.Errorf("ask for times: %w", err)
	}
	// A packet over lo goes out and comes in. A socket for one protocol, other
	// than one for ETH_P_ALL, sees it only come in.
	protocol := uint16(unix.ETH_P_IPV6)
	if addr.Is4() {
		protocol = unix.ETH_P_IP
	}
	at := &unix.SockaddrLinklayer{Protocol: bigEndian(protocol), Ifindex: loIndex}
	if err := unix.Bind(c.fd, at); err != nil {
		return fmt.Errorf("bind packet socket: %w", err)
	}
	return nil
}

// bigEndian gives the number whose bytes, here, are n's in network order.
func bigEndian(n uint16) uint16 {
	var b [2]byte
	network.PutUint16(b[:], n)
	return native.Uint16(b[:])
}

// only is a filter (classic BPF) for packets from or to one address, of which it
// looks at the last word. It keeps what else goes over lo from filling the
// socket's buffer. Offsets are those of the IP header.
func only(addr netip.Addr) []unix.SockFilter {
	from, to := uint32(20), uint32(36)
	if addr.Is4() {
		from, to = 12, 16
	}
	raw := addr.AsSlice()
	word := network.Uint32(raw[len(raw)-4:])
	const (
		load   = unix.BPF_LD | unix.BPF_ABS | unix.BPF_W
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		answer = unix.BPF_RET | unix.BPF_K
	)
	return []unix.SockFilter{
		{Code: load, K: from},
		{Code: equal, K: word, Jt: 2},
		{Code: load, K: to},
		{Code: equal, K: word, Jf: 1},
		{Code: answer, K: 1 << 18}, // bytes to keep
		{Code: answer, K: 0},
	}
}

// read gives the next segment, or os.ErrDeadlineExceeded if none comes until the
// deadline, on CLOCK_MONOTONIC. Packets other than TCP it passes over.
func (c *capture) read(deadline time.Duration) (Received, error) {
	for {
		r, err := c.readPacket(deadline)
		if !errors.Is(err, errPacket) {
			return r, err
		}
	}
}

func (c *capture) readPacket(deadline time.Duration) (Received, error) {
	events, err := poll(c.fd, unix.POLLIN, max(0, deadline-Mono()))
	if err == nil && events == 0 {
		return Received{}, os.ErrDeadlineExceeded
	}
	if err != nil {
		return Received{}, fmt.Errorf("wait for a packet: %w", err)
	}
	control := make([]byte, unix.CmsgSpace(16))
	n, m, _, _, err := unix.Recvmsg(c.fd, c.buf, control, unix.MSG_DONTWAIT)
	if err != nil {
		return Received{}, fmt.Errorf("read a packet: %w", err)
	}
	packet, err := decode(c.buf[:n])
	if err != nil {
		return Received{}, err
	}
	at, err := moment(control[:m])
	if err != nil {
		return Received{}, err
	}
	return Received{Segment: packet.Segment, At: at, from: packet.from, to: packet.to}, nil
}

// moment reads when the kernel saw a packet, which it says on CLOCK_REALTIME.
func moment(control []byte) (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
		return 0, err
	}
	offset := Mono() - time.Duration(now.Nano())
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0, err
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			seconds, nanoseconds := native.Uint64(m.Data), native.Uint64(m.Data[8:])
			return offset + time.Duration(seconds)*time.Second + time.Duration(nanoseconds), nil
		}
	}
	return 0, errors.New("packet without a time")
}
