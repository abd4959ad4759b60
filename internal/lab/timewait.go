// SPDX-License-Identifier: Apache-2.0

package lab

import (
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

// Leave makes one connection that the client closes first, so that it is the client's port
// which TIME_WAIT then holds.
func (c *Closer) Leave() error {
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(client, c.at); err != nil {
		unix.Close(client)
		return fmt.Errorf("connect: %w", err)
	}
	server, _, err := unix.Accept4(c.listener, unix.SOCK_CLOEXEC)
	if err != nil {
		unix.Close(client)
		return fmt.Errorf("accept: %w", err)
	}
	defer unix.Close(server)
	if err := unix.Close(client); err != nil {
		return err
	}
	var end [1]byte
	if n, err := unix.Read(server, end[:]); n != 0 || err != nil { // waits for the FIN
		return fmt.Errorf("read %d: %w", n, err)
	}
	return nil
}

// Spread leaves n of them, one every apart. It stops at the first error.
func (c *Closer) Spread(n int, apart time.Duration) error {
	begin := Mono()
	for i := range n {
		time.Sleep(begin + time.Duration(i+1)*apart - Mono())
		if err := c.Leave(); err != nil {
			return fmt.Errorf("connection %d: %w", i+1, err)
		}
	}
	return nil
}
