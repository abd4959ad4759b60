// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// connection has two descriptors of one process.
type connection struct{ client, server int }

// kind is a way in which connections end.
type kind struct {
	end         func(connection) error
	transitions int // of both ends together, TIME_WAIT's own end aside
}

var kinds = map[string]kind{
	"client": {func(c connection) error { return closeBoth(c.client, c.server) }, 10},
	"server": {func(c connection) error { return closeBoth(c.server, c.client) }, 10},
	"reset": {func(c connection) error {
		if err := unix.SetsockoptLinger(c.client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return err
		}
		return closeBoth(c.client, c.server)
	}, 6},
	// The server never closes: its end waits in CLOSE_WAIT until the process dies.
	"leak": {func(c connection) error { return unix.Close(c.client) }, 10},
}

func closeBoth(first, second int) error {
	if err := unix.Close(first); err != nil {
		return err
	}
	return unix.Close(second)
}

// server is a listener that connections are made to.
type server struct {
	domain, fd int
	at         unix.Sockaddr
}

// newServer listens on lo of the calling thread's netns, until the process ends.
func newServer(v6 bool) (*server, error) {
	s, at := &server{domain: unix.AF_INET}, unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	if v6 {
		s.domain, at = unix.AF_INET6, &unix.SockaddrInet6{Addr: [16]byte{15: 1}}
	}
	var err error
	if s.fd, err = unix.Socket(s.domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("make a listener: %w", err)
	}
	if err = unix.Bind(s.fd, at); err == nil {
		if err = unix.Listen(s.fd, 8); err == nil {
			s.at, err = unix.Getsockname(s.fd)
		}
	}
	if err != nil {
		unix.Close(s.fd)
		return nil, fmt.Errorf("make a listener: %w", err)
	}
	return s, nil
}

// exchange makes one connection and sends a byte each way.
func (s *server) exchange() (c connection, err error) {
	if c.client, err = unix.Socket(s.domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return c, err
	}
	if err := unix.Connect(c.client, s.at); err != nil {
		return c, fmt.Errorf("connect: %w", err)
	}
	if c.server, _, err = unix.Accept4(s.fd, unix.SOCK_CLOEXEC); err != nil {
		return c, fmt.Errorf("accept: %w", err)
	}
	var one [1]byte
	for _, way := range [][2]int{{c.client, c.server}, {c.server, c.client}} {
		if _, err := unix.Write(way[0], one[:]); err != nil {
			return c, fmt.Errorf("write: %w", err)
		}
		if _, err := unix.Read(way[1], one[:]); err != nil {
			return c, fmt.Errorf("read: %w", err)
		}
	}
	return c, nil
}
