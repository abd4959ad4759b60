// SPDX-License-Identifier: Apache-2.0

package folklore

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
)

// ends are a client and a server with a listener.
type ends struct {
	*stage
	client, server *lab.Actor
	listener       int
	at             netip.AddrPort
}

func (s *stage) ends() *ends {
	e := &ends{stage: s, client: s.actor("client"), server: s.actor("server"), at: on("127.0.0.1:8080")}
	e.listener = e.listen(e.at)
	// A CPU that is late may send a FIN twice; the second one can draw a RST, which is not to end a TIME_WAIT.
	s.set("tcp_rfc1337", "1")
	return e
}

// option sets up a socket before it is used.
type option func(fd int) error

func (e *ends) listen(at netip.AddrPort) (fd int) {
	fd = e.num(e.server.Socket(unix.AF_INET))
	e.ok(e.server.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	e.ok(e.server.Bind(fd, at))
	e.ok(e.server.Listen(fd, 64))
	return fd
}

// dial gives the client's descriptor of a connection that nobody has accepted yet, or the error of
// connect() or of an option.
func (e *ends) dial(to netip.AddrPort, options ...option) (fd int, err error) {
	fd = e.num(e.client.Socket(unix.AF_INET))
	for _, o := range options {
		if err == nil {
			err = o(fd)
		}
	}
	if err == nil {
		_, err = e.client.Connect(fd, to)
	}
	if err != nil {
		e.ok(e.client.CloseFD(fd))
		return -1, err
	}
	return fd, nil
}

// pair makes a connection.
func (e *ends) pair(options ...option) (client, server int) {
	client, err := e.dial(e.at, options...)
	e.check(err)
	return client, e.num(e.server.Accept(e.listener))
}

// finish closes a connection in order, the client's end first. It gives when the kernel had both.
func (e *ends) finish(client, server int) lab.Step {
	e.ok(e.client.CloseFD(client))
	return e.follow(server)
}

// follow closes the server's end of a connection whose client has closed.
func (e *ends) follow(server int) lab.Step {
	if n := e.num(e.server.Read(server, 1)); n != 0 {
		e.fail("the server read %d bytes, and wanted the end of the stream", n)
	}
	return e.ok(e.server.CloseFD(server))
}

// leave makes a connection that the client closes first, so that its end comes to TIME_WAIT.
func (e *ends) leave(options ...option) lab.Step {
	return e.finish(e.pair(options...))
}

// from has a socket bound to a port of the client's; SO_REUSEADDR lets it be one in TIME_WAIT.
func (e *ends) from(port uint16) option {
	return func(fd int) error {
		if _, err := e.client.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		_, err := e.client.Bind(fd, netip.AddrPortFrom(e.at.Addr(), port))
		return err
	}
}

// reset closes the client's end with a RST, which leaves no TIME_WAIT, and then the server's.
func (e *ends) reset(client, server int) {
	e.ok(e.client.SetLinger0(client))
	e.ok(e.client.CloseFD(client))
	e.ok(e.server.CloseFD(server))
}
