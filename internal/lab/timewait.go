// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Closer makes connections over lo that end in TIME_WAIT, one after the other. It belongs to
// the netns's thread that made it (NetNS.Do), whose caller closes it.
type Closer struct {
	listener int
	at       unix.Sockaddr
}

// NewCloser listens on 127.0.0.1 in the netns of the calling thread.
func NewCloser() (*Closer, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a listener: %w", err)
	}
	c := &Closer{listener: fd}
	if err = unix.Bind(fd, &unix.SockaddrInet4{Addr: netip.AddrFrom4([4]byte{127, 0, 0, 1}).As4()}); err == nil {
		if err = unix.Listen(fd, 8); err == nil {
			c.at, err = unix.Getsockname(fd)
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make a listener: %w", err)
	}
	return c, nil
}

// Close closes the listener.
func (c *Closer) Close() error { return unix.Close(c.listener) }

// Addr is what it listens on.
func (c *Closer) Addr() netip.AddrPort {
	at, _ := addrPort(c.at, nil) // IPv4, by NewCloser
	return at
}

// Pair makes one connection. The caller closes both descriptors.
func (c *Closer) Pair() (client, server int, err error) { return c.pair(nil) }

// pair has the client bound to an address if there is one.
func (c *Closer) pair(from unix.Sockaddr) (client, server int, err error) {
	if client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, -1, err
	}
	if err = unix.SetsockoptInt(client, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil && from != nil {
		err = unix.Bind(client, from)
	}
	if err == nil {
		err = unix.Connect(client, c.at)
	}
	if err == nil {
		server, _, err = unix.Accept4(c.listener, unix.SOCK_CLOEXEC)
	}
	if err != nil {
		unix.Close(client)
		return -1, -1, fmt.Errorf("connect to own listener: %w", err)
	}
	return client, server, nil
}

// CloseBoth closes one end first, which leaves it in TIME_WAIT, and the other when the FIN has
// come.
func CloseBoth(first, second int) error {
	defer unix.Close(second)
	if err := unix.Close(first); err != nil {
		return err
	}
	var end [1]byte
	if n, err := unix.Read(second, end[:]); n != 0 || err != nil { // waits for the FIN
		return fmt.Errorf("read %d: %w", n, err)
	}
	return nil
}

// Leave makes one connection that the client closes first, so that it is the client's port
// which TIME_WAIT then holds: from.
func (c *Closer) Leave() (from unix.Sockaddr, err error) {
	client, server, err := c.Pair()
	if err != nil {
		return nil, err
	}
	if from, err = unix.Getsockname(client); err != nil {
		unix.Close(client)
		unix.Close(server)
		return nil, err
	}
	return from, CloseBoth(client, server)
}

// Retake connects from the address that a TIME_WAIT holds, which ends it, and resets that
// connection, so that it leaves none.
func (c *Closer) Retake(from unix.Sockaddr) error {
	client, server, err := c.pair(from)
	if err != nil {
		return err
	}
	defer unix.Close(server)
	err = unix.SetsockoptLinger(client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	return errors.Join(err, unix.Close(client))
}

// Spread leaves n of them, one every apart. It stops at the first error.
func (c *Closer) Spread(n int, apart time.Duration) error {
	begin := Mono()
	for i := range n {
		time.Sleep(begin + time.Duration(i+1)*apart - Mono())
		if _, err := c.Leave(); err != nil {
			return fmt.Errorf("connection %d: %w", i+1, err)
		}
	}
	return nil
}
