// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// patience is how long a Peer waits for what the kernel does at once.
const patience = 10 * time.Second

// What a Peer has of its own: the port of Addr, the first of those from which it
// connects, its first sequence number.
const (
	peerPort      = 4000
	peerFirstPort = 20000
	peerFirstISN  = 1 << 28
)

// Peer is an end of TCP connections that only the script plays: kernel sockets of
// the netns talk with it as with another machine, and it sends what the script
// says and nothing else. So it can withhold an acknowledgement, say things twice,
// late or wrongly, and knows exactly when.
//
// A Peer and its connections are for one goroutine at a time.
type Peer struct {
	kernel, addr netip.Addr
	in           *capture
	raw          int
	queue        []Received // came and not taken yet, oldest first
	port         uint16     // next
	isn          uint32     // next
}

// Received is a segment from the kernel.
type Received struct {
	Segment
	At time.Duration // when it was sent, CLOCK_MONOTONIC

	from, to netip.AddrPort
}

// PeerOptions are what a Peer says of itself in a handshake.
type PeerOptions struct {
	MSS          uint16 // bytes; 0: 1460
	Window       uint16 // bytes; 0: 65535
	NoTimestamps bool
}

// Peer gives a peer for sockets of an address family (unix.AF_INET or
// unix.AF_INET6) in the netns; the first of a family makes its addresses and
// routes. The caller closes it. It needs CAP_NET_RAW and CAP_NET_ADMIN there.
func (ns *NetNS) Peer(af int) (*Peer, error) {
	p, err := ns.newPeer(family(af))
	if err != nil {
		return nil, fmt.Errorf("make a peer: %w", err)
	}
	return p, nil
}

func (ns *NetNS) newPeer(f family) (*Peer, error) {
	if err := ns.routePeer(f); err != nil {
		return nil, err
	}
	if f == unix.AF_INET6 {
		// Else the kernel forwards to lo what came from there.
		if err := ns.SetSysctl("net.ipv6.conf.all.forwarding", "0"); err != nil {
			return nil, err
		}
	}
	p := &Peer{raw: -1, port: peerFirstPort, isn: peerFirstISN}
	var err error
	if p.kernel, p.addr, err = f.addresses(); err != nil {
		return nil, err
	}
	err = ns.Do(func() error {
		if p.in, err = newCapture(p.addr); err != nil {
			return err
		}
		// With this protocol, what is sent begins with an IP header.
		p.raw, err = unix.Socket(int(f), unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return errors.Join(fmt.Errorf("open raw socket: %w", err), p.in.close())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Addr gives an address at which the Peer accepts; its other ports do as well.
// No kernel socket of the netns may listen on the same port.
func (p *Peer) Addr() netip.AddrPort { return netip.AddrPortFrom(p.addr, peerPort) }

// Kernel gives the address of the kernel sockets that talk with the Peer. One
// that connects to it has it by itself, a listener binds to it.
func (p *Peer) Kernel() netip.Addr { return p.kernel }

// Close ends the Peer without a word to anyone. Its addresses and routes stay.
func (p *Peer) Close() error { return errors.Join(p.in.close(), unix.Close(p.raw)) }

// Accept waits for a kernel socket that connects to the Peer, within 10 s, and
// completes the handshake.
func (p *Peer) Accept(o PeerOptions) (*PeerConn, error) {
	syn, err := p.take(Mono()+patience, func(r Received) bool { return r.Flags.kind() == SYN })
	if err != nil {
		return nil, fmt.Errorf("wait for a SYN: %w", err)
	}
	// An earlier connection of the same addresses has nothing more to say.
	p.queue = slices.DeleteFunc(p.queue, func(r Received) bool { return r.from == syn.from && r.to == syn.to })
	c := p.conn(syn.to, syn.from, o)
	c.timestamps = c.timestamps && syn.Timestamps
	c.RcvNxt = syn.Seq + 1
	c.tsEcr = syn.TSVal
	if c.Opened, err = c.Send(c.Segment(SYN | ACK)); err != nil {
		return nil, err
	}
	c.SndNxt++
	if _, err := c.Expect(ACK, patience); err != nil {
		return nil, err
	}
	return c, nil
}

// Connect connects to a listener of the kernel's, from a port of its own each
// time.
func (p *Peer) Connect(to netip.AddrPort, o PeerOptions) (*PeerConn, error) {
	c := p.conn(netip.AddrPortFrom(p.addr, p.port), to, o)
	p.port++
	if _, err := c.SYN(c.SndNxt); err != nil {
		return nil, err
	}
	return c, c.Handshake()
}

// conn makes a connection that knows no more than its first sequence number.
func (p *Peer) conn(local, remote netip.AddrPort, o PeerOptions) *PeerConn {
	if o.MSS == 0 {
		o.MSS = 1460
	}
	if o.Window == 0 {
		o.Window = 65535
	}
	c := &PeerConn{
		Local: local, Remote: remote, SndNxt: p.isn,
		peer: p, options: o, timestamps: !o.NoTimestamps,
	}
	p.isn += 1 << 24
	return c
}

// take gives the oldest segment that pick wants, if need be the next that comes
// until the deadline; then the error is os.ErrDeadlineExceeded.
func (p *Peer) take(deadline time.Duration, pick func(Received) bool) (Received, error) {
	for i := 0; ; i++ {
		for i == len(p.queue) {
			if _, err := p.read(deadline); err != nil {
				return Received{}, err
			}
		}
		if r := p.queue[i]; pick(r) {
			p.queue = slices.Delete(p.queue, i, i+1)
			return r, nil
		}
	}
}

// read reads one segment. One from the kernel goes to the queue.
func (p *Peer) read(deadline time.Duration) (Received, error) {
	r, err := p.in.read(deadline)
	if err == nil && r.to.Addr() == p.addr {
		p.queue = append(p.queue, r)
	}
	return r, err
}

// send sends one packet. When it returns, the kernel has dealt with it, but for
// what a task that is using the socket will do on its way out.
func (p *Peer) send(packet packet) (Step, error) {
	var step Step
	err := onOneCPU(func() error {
		data := packet.encode()
		var to unix.Sockaddr = &unix.SockaddrInet6{Addr: packet.to.Addr().As16()}
		if packet.to.Addr().Is4() {
			to = &unix.SockaddrInet4{Addr: packet.to.Addr().As4()}
		}
		step.Before, step.Ticked = Mono(), Ticked()
		err := unix.Sendto(p.raw, data, 0, to)
		// It is dealt with by a softirq, on this CPU. That is mostly within the
		// call, but ksoftirqd may have it: so this waits until it is seen to come
		// in. No task runs on the CPU before the softirq is through with it.
		for err == nil {
			var r Received
			r, err = p.read(step.Before + patience)
			if r.from == packet.from && r.to == packet.to && r.Flags == packet.Flags && r.Seq == packet.Seq {
				break
			}
		}
		step.After = Mono()
		return err
	})
	if err != nil {
		errors.As(err, &step.Errno)
		return step, fmt.Errorf("send %v from %v to %v: %w", packet.Segment, packet.from, packet.to, err)
	}
	return step, nil
}

// onOneCPU runs f on one thread that stays on one CPU.
func onOneCPU(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("get affinity: %w", err)
	}
	var cpu uint32
	if _, _, errno := unix.Syscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 {
		return fmt.Errorf("get CPU: %w", errno)
	}
	one.Set(int(cpu))
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("stay on CPU %d: %w", cpu, err)
	}
	err := f()
	return errors.Join(err, unix.SchedSetaffinity(0, &allowed))
}
